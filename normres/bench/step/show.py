"""What was measured, as a table for the terminal and for a page, and as a figure; from the JSON alone."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from normres.bench import output
from normres.report.paper import PAGE_INCHES, STYLE, VARIANTS

HEADER = """\
One training step of a CIFAR ResNet: forward, backward, SGD with momentum and weight decay.  Every contender has a
process of its own and its own flags.  Losses, gradients, updates and running statistics are compared, then all are
timed in turns.  normres reads its batch from uint8 images; the others have theirs ready-made in float32.
  step          median of {repeats} samples of {sample_seconds:g} s (or one program) after a warm-up (quartiles)
  normres / it  time of normres over this one's, pair by pair: median (quartiles); below 1 normres is faster
  compile       seconds until the first step is done, less those of a step
  memory        most memory of the process (of the accelerator, where there is one), imports and compiler included
on {device}"""

COLUMNS = ("contender", "step (ms)", "normres / it", "images/s", "compile (s)", "memory (MB)")

REFERENCES = ("torch", "flax", "normres")  # in the figure the first that every cell has is 1
# Each has its colour and marker.  The last one, normres with batch norm beside another norm, is in older files.
CONTENDERS = (
    *("normres", "before", "torch", "flax", "normres-batch", "scanned"),
    *("torch-default", "torch-reduce-overhead", "torch-max-autotune"),
)
ROOM = 0.7  # of the space between two cells, which the contenders of a cell take
TICKS = (1, 2, 3, 4, 5, 7)  # of the axis, times powers of ten


def rows(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row of texts for each contender of a cell, see COLUMNS."""
    contenders = cell["contenders"]
    lines: list[tuple[str, ...]] = []
    for name, contender in contenders.items():
        times = contender["step_seconds"]
        low, seconds, high = output.quartiles(times)
        ratios = output.quartiles(contenders["normres"]["step_seconds"], times)
        lines.append(
            (
                contender["title"],
                output.spread([1e3 * low, 1e3 * seconds, 1e3 * high], 0 if seconds > 0.1 else 1),
                output.NOTHING if name == "normres" else output.spread(ratios, 2),
                f"{cell['batch'] / seconds:,.0f}",
                f"{max(0.0, contender['seconds_to_first_step'] - seconds):.1f}",
                f"{contender['peak_bytes'] / 1e6:,.0f}",
            )
        )
    return lines


def text(cell: dict[str, Any]) -> str:
    """Returns one cell for the terminal."""
    title = "ResNet-{depth}, {dtype}, {norm} norm, batch {batch}, width {width}".format(**cell)
    angles = [one["differs_by"]["angle"] for one in cell["contenders"].values() if "differs_by" in one]
    agreed = f"; gradients agree, 1 - cosine is at most {max(angles):.0e}" if angles else ""
    return "\n".join([f"{title}{agreed}", output.table(COLUMNS, rows(cell)), *cell["left_out"].values()])


def markdown(document: dict[str, Any]) -> str:
    """Returns all cells as one Markdown table, with the conditions above it."""
    conditions, provenance, cells = document["conditions"], document["provenance"], document["cells"]
    changed = " with uncommitted changes" if provenance.get("diff") or provenance.get("uncommitted_changes") else ""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    before = f" Before is commit {conditions['before_commit'][:12]}." if conditions.get("before_commit") else ""
    caption = (
        f"Batch {conditions['batch']}, width {conditions['width']}, on {conditions['device']}; {versions}; "
        f"measured on {provenance['started'][:10]} at commit {(provenance['commit'] or 'unknown')[:12]}{changed}."
        f"{before} Medians of {conditions['repeats']} samples (lower–upper quartile)."
    )
    lines = [(f"ResNet-{cell['depth']}", cell["norm"], cell["dtype"], *row) for cell in cells for row in rows(cell)]
    header = ("network", "norm", "dtype", *COLUMNS)
    return f"{caption}\n\n{output.table(header, lines, text_columns=4, markdown=True)}\n"


def draw(document: dict[str, Any], file: Path) -> None:
    """Writes a PNG of step times relative to the reference's: a point for each contender, and its quartiles."""
    cells = document["cells"]
    dtypes = list(dict.fromkeys(cell["dtype"] for cell in cells))
    reference = next(name for name in REFERENCES if all(name in cell["contenders"] for cell in cells))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_INCHES, 0.35 + 2.0 * len(dtypes)), layout="constrained")
        handles: dict[str, Any] = {}
        for axes, dtype in zip(figure.subplots(len(dtypes), 1, squeeze=False, sharey=True)[:, 0], dtypes, strict=True):
            handles |= _panel(axes, [cell for cell in cells if cell["dtype"] == dtype], reference)
            axes.set_title(dtype, loc="left")
            axes.set_ylabel(f"time of a step\n({cells[0]['contenders'][reference]['title']} = 1)")
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), handlelength=1)
        figure.savefig(file, dpi=200, metadata={"Software": None})


def _panel(axes: Any, cells: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    """Draws the cells of one dtype and returns a handle of each contender by its title."""
    handles = {}
    for place, cell in enumerate(cells):
        contenders = cell["contenders"]
        present = [name for name in CONTENDERS if name in contenders]
        for number, name in enumerate(present):
            x = place + ROOM * ((number + 0.5) / len(present) - 0.5)
            low, middle, high = output.quartiles(*(contenders[each]["step_seconds"] for each in (name, reference)))
            colour, marker, _ = VARIANTS[CONTENDERS.index(name) % len(VARIANTS)]
            bar = [[middle - low], [high - middle]]
            handle = axes.errorbar(x, middle, bar, color=colour, marker=marker, linestyle="none", elinewidth=0.8)
            handles[contenders[name]["title"]] = handle
    axes.axhline(1, color="0.7", linewidth=0.6, zorder=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=TICKS))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xticks(range(len(cells)), [f"ResNet-{cell['depth']}\n{cell['norm']} norm" for cell in cells])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(cells) - 0.5)
    return handles
