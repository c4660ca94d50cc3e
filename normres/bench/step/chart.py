"""What was measured, as points: the time of a step relative to PyTorch's, one panel for each dtype."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normres.bench import output
from normres.report.style import PAGE_INCHES, PNG_DOTS_PER_INCH, STYLE, VARIANTS

REFERENCES = ("torch", "flax", "normres")  # the first that every cell has is 1
CONTENDERS = ("normres", "normres-batch", "before", "torch", "flax")  # each has its colour and marker
ROOM = 0.7  # of the space between two cells, which the contenders of a cell take
TICKS = (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)


def draw(document: dict[str, Any], file: Path) -> None:
    """Writes a PNG: a point for each contender of a cell, its bar from lower to upper quartile."""
    cells = document["cells"]
    dtypes = list(dict.fromkeys(cell["dtype"] for cell in cells))
    reference = next(name for name in REFERENCES if all(name in cell["contenders"] for cell in cells))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_INCHES, 0.35 + 2.0 * len(dtypes)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(dtypes), 1, squeeze=False, sharey=True)[:, 0]
        handles: dict[str, Any] = {}
        for axes, dtype in zip(panels, dtypes, strict=True):
            handles |= _panel(axes, [cell for cell in cells if cell["dtype"] == dtype], reference)
            axes.set_title(dtype, loc="left")
            axes.set_ylabel(f"time of a step\n({cells[0]['contenders'][reference]['title']} = 1)")
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), handlelength=1)
        figure.savefig(file, dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})


def _panel(axes: Axes, cells: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    """Draws the cells of one dtype and returns a handle of each contender by its title."""
    handles = {}
    for place, cell in enumerate(cells):
        present = [name for name in CONTENDERS if name in cell["contenders"]]
        for number, name in enumerate(present):
            x = place + ROOM * ((number + 0.5) / len(present) - 0.5)
            times = (cell["contenders"][each]["step_seconds"] for each in (name, reference))
            low, middle, high = output.ratios(*times)
            colour, marker, _ = VARIANTS[CONTENDERS.index(name)]
            bar = [[middle - low], [high - middle]]
            handle = axes.errorbar(x, middle, bar, color=colour, marker=marker, linestyle="none", elinewidth=0.8)
            handles[cell["contenders"][name]["title"]] = handle
    axes.axhline(1, color="0.7", linewidth=0.6, zorder=0)
    axes.set_yscale("log")
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xticks(range(len(cells)), [f"ResNet-{cell['depth']}\n{cell['norm']} norm" for cell in cells])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(cells) - 0.5)
    return handles
