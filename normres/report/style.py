"""The house style of figures: legible at the width they are drawn for, in grey, and by the colour-blind.

The object-oriented interface of matplotlib only, so that drawing changes no global state; one font is added to it.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform

from normres.report.files import write_file

COLUMN_INCHES = 3.4  # one column of a two-column page
PAGE_INCHES = 6.8  # the whole width of it
PNG_DOTS_PER_INCH = 300

# Okabe and Ito's colours, told apart by people with every common kind of colour vision, in an order in which
# neighbours also differ in lightness; the markers and dashes tell them apart in grey.
VARIANTS: tuple[tuple[str, str, Any], ...] = (
    ("#D55E00", "o", "-"),
    ("#0072B2", "s", (0, (5, 1.5))),
    ("#009E73", "^", (0, (1.5, 1.2))),
    ("#CC79A7", "D", (0, (5, 1.2, 1.2, 1.2))),
    ("#000000", "v", (0, (8, 2))),
    ("#E69F00", "P", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", "X", (0, (2, 2))),
)
DEPTH_MARKERS = "os^DvPX"

FONT = "normres DejaVu Sans"


# The DejaVu Sans that ships with matplotlib, since a system may have another version under its own name.
for _file, _weight in (("DejaVuSans.ttf", "normal"), ("DejaVuSans-Bold.ttf", "bold")):
    _path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _file
    fontManager.ttflist.append(FontEntry(fname=str(_path), name=FONT, weight=_weight, size="scalable"))

STYLE: dict[Any, Any] = {
    "font.family": [FONT],  # so figures look the same everywhere
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default Type 3
    "svg.fonttype": "none",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: the name of its files, the text for a reader who cannot see it, and the caption."""

    name: str
    figure: Figure
    alternative: str
    caption: str


def new_panels(
    titles: Sequence[str],
    row_inches: float,
    *,
    columns: int = 3,
    x: str,
    y: str = "",
    width: float = PAGE_INCHES,
    sharey: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Returns a figure `width` inches wide with a panel for each title, and the panels, labelled at the outer edges."""
    columns = max(1, min(columns, len(titles)))
    rows = max(1, math.ceil(len(titles) / columns))
    figure = Figure(figsize=(width, row_inches * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for number, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        axes.set_title(literal(title))
        if number % columns == 0:
            axes.set_ylabel(y)
        if number + columns >= len(titles):
            axes.set_xlabel(x)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    return figure, panels[: len(titles)]


def legend_above(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Puts the legend above the panels, in as many columns as fit, and makes the figure higher by its rows."""
    # Inches: about 0.055 per letter, 0.5 for the sample and the spaces.
    widest = max(0.5 + 0.055 * len(str(line.get_label())) for line in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def literal(text: str) -> str:
    """Keeps matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def look(number: int) -> dict[str, Any]:
    """Returns how the line of the variant with this number is drawn."""
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {"color": colour, "marker": marker, "linestyle": dashes, **edge}


def handle(number: int, label: str) -> Line2D:
    """Returns the legend's sample of that line."""
    return Line2D([], [], label=literal(label), **look(number))


def marker_handle(marker: str, label: str, **properties: Any) -> Line2D:
    """Returns the legend's sample of a marker without a line, such as the cross of a diverged run."""
    return Line2D([], [], linestyle="none", marker=marker, label=literal(label), **{"color": "0.2"} | properties)


def cross(axes: Axes, x: float, y: float, transform: Transform, colour: str) -> None:
    """Draws the cross of a diverged run, at an edge in axes coordinates so that it does not stretch the scale."""
    edge: dict[str, Any] = {"markersize": 5, "markeredgewidth": 1.4, "clip_on": False, "zorder": 4}
    axes.plot(x, y, "x", color=colour, transform=transform, **edge)


def percent_axis(axes: Axes, largest: float, smallest: float = 0.0) -> float:
    """Makes the y axis begin and end at the ticks around errors from 0 to 1, in percent; returns the upper one."""
    locator = MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10])
    axes.yaxis.set_major_locator(locator)
    ticks = [float(tick) for tick in locator.tick_values(100 * smallest, 100 * largest)]
    axes.set_ylim(max(0.0, ticks[0]), min(100.0, ticks[-1]))
    return min(100.0, ticks[-1])


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes STEM.png and STEM.pdf atomically and returns both; the same figure gives the same bytes."""
    written = []
    undated = {"Creator": "normres", "Producer": None, "CreationDate": None}
    for suffix, metadata in (("png", {"Software": None}), ("pdf", undated)):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=suffix, dpi=PNG_DOTS_PER_INCH, metadata=metadata)
        # Not with_suffix, which would cut a stem such as "width0.5" short.
        written.append(write_file(stem.with_name(f"{stem.name}.{suffix}"), buffer.getvalue()))
    return written
