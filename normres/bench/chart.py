"""A chart of ratios to a reference: a row for each network, and in it a point and quartiles for each contender."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from normres.report.paper import PAGE_INCHES, STYLE, VARIANTS

ROOM = 0.6  # of a row, which its contenders take
TICKS = (1, 1.5, 2, 3, 5, 7)  # times powers of ten
Row = Mapping[str, Sequence[float]]  # {contender: lower quartile, median, upper quartile}


def draw(panels: Mapping[str, Mapping[str, Row]], reference: str, file: Path) -> None:
    """Writes a PNG with panels side by side, {title: {network: row}}, in which the reference is at 1."""
    networks = list(dict.fromkeys(network for panel in panels.values() for network in panel))
    titles = list(dict.fromkeys(title for panel in panels.values() for row in panel.values() for title in row))
    with matplotlib.rc_context(STYLE):
        height = 0.8 + (0.12 + 0.06 * len(titles)) * len(networks)
        figure = Figure(figsize=(PAGE_INCHES, height), layout="constrained")
        for axes, (name, panel) in zip(
            figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0], panels.items(), strict=True
        ):
            for number, title in enumerate(titles):
                points = [(networks.index(network), *row[title]) for network, row in panel.items() if title in row]
                places, low, middle, high = ([point[index] for point in points] for index in range(4))
                errors = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((low, middle), (middle, high))]
                rows = [place + ROOM * ((number + 0.5) / len(titles) - 0.5) for place in places]
                colour, marker, _ = VARIANTS[number % len(VARIANTS)]
                axes.errorbar(
                    middle,
                    rows,
                    xerr=errors,
                    color=colour,
                    marker=marker,
                    linestyle="none",
                    elinewidth=0.8,
                    label=title,
                )
            axes.axvline(1, color="0.7", linewidth=0.6, zorder=0)
            axes.set_xlabel(f"{name} ({reference} = 1)")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=TICKS))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        axes.set_yticks(range(len(networks)), networks)
        axes.set_ylim(len(networks) - 0.5, -0.5)
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=min(len(titles), 6))
        figure.savefig(file, dpi=200, metadata={"Software": None})
