"""What was measured, as bars: the time of a step relative to PyTorch's, one panel for each dtype."""

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from normres.bench.step.table import ratios, spread
from normres.report.style import PAGE_INCHES, STYLE, VARIANTS, new_figure

REFERENCES = ("torch", "flax", "normres")  # the first that a cell has is 1
# Colour and hatching by contender, so that they are told apart in grey too.
BARS = {
    "normres": (VARIANTS[0][0], ""),
    "flax": (VARIANTS[1][0], "////"),
    "torch": (VARIANTS[2][0], ""),
    "torch-compile": (VARIANTS[6][0], "...."),
}
GROUP_WIDTH = 0.84  # of the room that a cell has
ROOM = 1.3  # of the axis over the tallest bar, for the numbers that stand on the bars


def draw(document: dict[str, Any]) -> Figure:
    """Draws a group of bars for each cell; on a bar stand the milliseconds of a step, on its end the quartiles."""
    cells = document["cells"]
    dtypes = list(dict.fromkeys(cell["dtype"] for cell in cells))
    reference = next(name for name in REFERENCES if all(name in cell["contenders"] for cell in cells))
    present = [name for name in BARS if any(name in cell["contenders"] for cell in cells)]
    titles = {name: cell["contenders"][name]["title"] for cell in cells for name in cell["contenders"]}
    with matplotlib.rc_context({**STYLE, "hatch.linewidth": 0.5}):
        figure = new_figure(PAGE_INCHES, 0.35 + 1.95 * len(dtypes))
        panels = figure.subplots(len(dtypes), 1, squeeze=False)[:, 0]
        for axes, dtype in zip(panels, dtypes, strict=True):
            own = [cell for cell in cells if cell["dtype"] == dtype]
            _panel(axes, own, present, reference)
            axes.set_title(f"{dtype} (on the bars: milliseconds)", loc="left")
            axes.set_ylabel(f"time of a step\n({titles[reference]} = 1)")
        handles = [
            Patch(facecolor=BARS[name][0], hatch=BARS[name][1], edgecolor="white", linewidth=0, label=titles[name])
            for name in present
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.6)
        return figure


def _panel(axes: Axes, cells: list[dict[str, Any]], present: list[str], reference: str) -> None:
    """Draws the cells of one dtype."""
    width = GROUP_WIDTH / len(present)
    tallest = 1.0
    for place, cell in enumerate(cells):
        drawn = [name for name in present if name in cell["contenders"]]
        for number, name in enumerate(drawn):
            x = place + (number - (len(drawn) - 1) / 2) * width
            low, middle, high = ratios(cell, name, reference)
            colour, hatch = BARS[name]
            axes.bar(x, middle, 0.9 * width, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            if name != reference:
                axes.errorbar(x, middle, [[middle - low], [high - middle]], color="black", elinewidth=0.7, capsize=1.5)
            seconds = spread(cell["contenders"][name]["step_seconds"])[1]
            axes.annotate(
                f"{1e3 * seconds:,.0f}",
                (x, high),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=5.5,
                rotation=0 if len(cells) * len(present) <= 16 else 90,
            )
            tallest = max(tallest, high)
    axes.axhline(1, color="0.3", linewidth=0.6, zorder=0)
    axes.set_xticks(range(len(cells)), [f"ResNet-{cell['depth']}\n{cell['norm']} norm" for cell in cells])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(cells) - 0.4)
    axes.set_ylim(0, ROOM * tallest)
