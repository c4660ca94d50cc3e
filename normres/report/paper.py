"""Charts for print: legible at the width of a column and of a page, in grey, and by the colour-blind.

The object-oriented interface of matplotlib only, so that drawing changes no global state; one font is added to it.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from normres.report.charts import Chart, Panel, Series, named_ticks
from normres.runs import durable

# Of a two-column page: the width in inches, and the most panels side by side.
COLUMN_INCHES, PAGE_INCHES = 3.4, 6.8
WIDTHS = {"column": (COLUMN_INCHES, 2), "page": (PAGE_INCHES, 3)}
ROW_INCHES = 2.0
LETTER_INCHES, LINE_INCHES = 0.055, 0.11
NAMES = 0.45  # of the width, the most that the names of rows take
PNG_DOTS_PER_INCH = 300

# Okabe and Ito's colours, which the colour-blind tell apart, in an order in which neighbours also differ in lightness;
# the markers and dashes tell them apart in grey.
VARIANTS: tuple[tuple[str, str, Any], ...] = (
    ("#D55E00", "o", "-"),
    ("#0072B2", "s", (0, (5, 1.5))),
    ("#009E73", "^", (0, (1.5, 1.2))),
    ("#CC79A7", "D", (0, (5, 1.2, 1.2, 1.2))),
    ("#000000", "v", (0, (8, 2))),
    ("#E69F00", "P", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", "X", (0, (2, 2))),
)
# The DejaVu Sans that ships with matplotlib, since a system may have another version under its own name.
FONT = "normres DejaVu Sans"
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
    "svg.fonttype": "path",  # the letters are in the file
    "svg.hashsalt": "normres",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Look(NamedTuple):
    """How what has one label is drawn: its colour on a light and on a dark page, its marker and its dashes."""

    colour: str
    dark: str
    marker: str
    dashes: Any


def look(chart: Chart, label: str) -> Look:
    """Returns the look of a label; of depths, colours of viridis in which the deepest stands out most."""
    number = chart.labels.index(label)
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    if not chart.by_depth:
        return Look(colour, "#e6e6e6" if colour == "#000000" else colour, marker, dashes)
    share = number / max(1, len(chart.labels) - 1)
    light, dark = (to_hex(matplotlib.colormaps["viridis"](at)) for at in (0.72 * (1 - share), 0.35 + 0.6 * share))
    return Look(light, dark, marker, "-")


@matplotlib.rc_context(STYLE)
def draw(chart: Chart, width: str = "page") -> Figure:
    """Returns the chart as a figure of a row of WIDTHS."""
    inches, most = WIDTHS[width]
    if chart.rows and width == "column":
        most = 1  # the names of the rows need the room
    columns = min(chart.columns or most, most, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    long = any(len(name) > NAMES * COLUMN_INCHES / LETTER_INCHES for name in chart.rows)
    inches = inches if len(chart.panels) > 1 or long else COLUMN_INCHES
    names = [literal(wrapped(name, NAMES * inches / LETTER_INCHES)) for name in chart.rows]
    titles = [literal(wrapped(panel.title, (inches / columns - 0.45) / LETTER_INCHES)) for panel in chart.panels]
    height = 0.7 + sum(0.06 + _lines(name) for name in names) if names else ROW_INCHES * (1 if rows < 3 else 0.85)
    height += max(map(_lines, titles)) - LINE_INCHES
    figure = Figure(figsize=(inches, height * rows), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, (axes, panel) in enumerate(zip(every, chart.panels, strict=False)):
        axes.set_title(titles[number])
        if number % columns == 0:
            axes.set_ylabel(chart.y)
        if number + columns >= len(chart.panels):
            axes.set_xlabel(chart.x)
        for series in panel.series:
            _draw_series(axes, chart, panel, series)
        _scale(axes, chart, panel, names)
        if chart.rows and number % columns:
            axes.tick_params(labelleft=False)  # the rows are named once
    for axes in every[len(chart.panels) :]:
        axes.set_axis_off()
    shared = [axes for axes, panel in zip(every, chart.panels, strict=False) if not panel.own_scale]
    for axes in shared[1:]:
        (axes.sharex if chart.rows else axes.sharey)(shared[0])
    for axes in shared[:1]:
        axes.autoscale_view()  # to the numbers of all
    if not chart.rows:
        if chart.unit == "%" or chart.largest:
            _error_axis(shared, chart)
        if chart.log_y and any(one.y for panel in chart.panels for one in panel.series):
            shared[0].set_yscale("log")
    _legend_above(figure, [Line2D([], [], label=literal(one), **_line_style(chart, one)) for one in chart.labels])
    return figure


def _line_style(chart: Chart, label: str) -> dict[str, Any]:
    """Returns the look in matplotlib's words; rows are not joined by lines."""
    own = look(chart, label)
    dashes = "none" if chart.rows else own.dashes
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {"color": own.colour, "marker": own.marker, "linestyle": dashes, **edge}


def _draw_series(axes: Axes, chart: Chart, panel: Panel, series: Series) -> None:
    own, edge = _line_style(chart, series.label), chart.edge(panel)
    colour = own["color"]
    x, y = ([edge if value is None else value for value in values] for values in (series.x, series.y))
    if chart.rows:
        y = [chart.rows.index(row) for row in y]
    if series.hollow:
        own |= {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.0}
    if series.kind == "line" or (series.kind == "points" and series.hollow):
        bars: dict[str, Any] = {"xerr" if chart.rows else "yerr": series.bars} if any(series.bars) else {}
        axes.errorbar(x, y, **bars, **own, elinewidth=0.7, capsize=2.5, zorder=3)
    elif series.kind == "points":
        axes.plot(x, y, ".", color=colour, markersize=2.5, alpha=0.6, zorder=2)
    elif series.kind == "curve":
        # About eight markers, at other steps for other labels, so that they do not cover each other.
        every = max(1, math.ceil(len(x) / 8))
        axes.plot(x, y, **own, linewidth=1.6, markevery=(chart.labels.index(series.label) % every, every), zorder=3)
    elif series.kind == "thin":
        axes.plot(x, y, color=colour, linewidth=0.7, zorder=2)
    else:
        axes.plot(x, y, "x", color=colour, markersize=5, markeredgewidth=1.4, clip_on=False, zorder=4)


def _scale(axes: Axes, chart: Chart, panel: Panel, names: Sequence[str]) -> None:
    """Sets ticks and limits along x, and names the rows."""
    if chart.rows:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(chart.rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    elif chart.ticks:
        if chart.log_x:
            axes.set_xscale("log")
        # At the values that were run; those that have the room are named.
        places = chart.places(panel)
        named = named_ticks(places, chart.log_x)
        others = [place for place in places if place not in named]
        axes.set_xticks(named, [f"{place:g}" for place in named])
        axes.set_xticks(others, [""] * len(others), minor=True)
        # Set, not left to the data: every value has its place, even if no run of it is done yet.
        size = math.log if chart.log_x else float
        room = 0.06 * ((size(places[-1]) - size(places[0])) or 1.0)
        ends = (size(places[0]) - room, size(places[-1]) + room)
        axes.set_xlim(*(map(math.exp, ends) if chart.log_x else ends))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _error_axis(shared: Sequence[Axes], chart: Chart) -> None:
    """Makes the shared axis of errors begin and end at ticks; it begins at zero unless that hides the differences."""
    series = [(panel, one) for panel in chart.panels if not panel.own_scale for one in panel.series]
    points = [point for _, one in series for point in zip(one.y, one.bars or [0.0] * len(one.y), strict=True)]
    edges = [chart.edge(panel) for panel, one in series if None in one.y]
    high = chart.largest or max([*edges, *(y + bar for y, bar in points if y is not None)], default=100.0)
    low = min((y - bar for y, bar in points if y is not None), default=0.0)
    locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(low if low > high / 3 and not chart.largest else 0.0, high)]
    for axes in shared:
        axes.yaxis.set_major_locator(locator)
        axes.set_ylim(max(0.0, ticks[0]), min(100.0, ticks[-1]) if chart.unit == "%" else ticks[-1])


def _legend_above(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Puts the legend above the panels, in as many columns as fit, and makes the figure higher by its rows."""
    # 0.5 for the sample and the spaces.
    widest = 0.5 + LETTER_INCHES * max((len(str(line.get_label())) for line in handles), default=0)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def wrapped(text: str, letters: float) -> str:
    """Returns a text in lines of at most so many letters, broken after commas where that is possible."""
    letters = max(10, int(letters))
    parts = (part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < letters else part for part in text.split(", "))
    return textwrap.fill(", ".join(parts), letters)


def _lines(text: str) -> float:
    """Returns how high the lines of a text are, in inches."""
    return LINE_INCHES * (1 + text.count("\n"))


def literal(text: str) -> str:
    """Keeps matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def save(
    chart: Chart, folder: Path, widths: Sequence[str] = tuple(WIDTHS), kinds: Sequence[str] = ("png", "pdf", "svg")
) -> list[Path]:
    """Writes NAME-column and NAME-page as PNG, PDF and SVG; the same chart gives the same bytes."""
    written = []
    undated = {"png": {"Software": None}, "pdf": {"Creator": "normres", "Producer": None, "CreationDate": None}}
    for width in widths:
        figure = draw(chart, width)
        for suffix in kinds:
            buffer = io.BytesIO()
            with matplotlib.rc_context(STYLE):
                metadata = undated.get(suffix, {"Date": None, "Creator": "normres"})
                figure.savefig(buffer, format=suffix, dpi=PNG_DOTS_PER_INCH, metadata=metadata)
            written.append(durable.write(folder / f"{chart.name}-{width}.{suffix}", buffer.getvalue()))
    return written
