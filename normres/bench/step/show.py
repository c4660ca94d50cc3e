"""What was measured, as a table for the terminal and for a page, and as a figure; from the JSON alone."""

from pathlib import Path
from typing import Any

from normres.bench import chart, output

HEADER = """\
One training step of a CIFAR ResNet: forward, backward, SGD with momentum and weight decay.  Every contender has a
process of its own and its own flags.  Losses, gradients, updates and running statistics are compared, then all are
timed in turns.  normres reads its batch from uint8 images; the others have theirs ready-made in float32.
  step          median of {repeats} samples of {sample_seconds:g} s (or one program) after a warm-up (quartiles)
  normres / it  time of normres over this one's, pair by pair: median (quartiles); below 1 normres is faster
  compile       seconds until the first step is done, less those of a step
  memory        most memory of the process (of the accelerator, where there is one), imports and compiler included
on {device}"""

WRITTEN = ("step", {"cells", "conditions"})  # see output.read
COLUMNS = ("contender", "step (ms)", "normres / it", "images/s", "compile (s)", "memory (MB)")

REFERENCES = ("torch", "flax", "normres")  # in the figure the first that every cell has is 1


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


def text(document: dict[str, Any]) -> str:
    """Returns all cells for the terminal."""
    return "\n\n".join(map(text_of_cell, document["cells"]))


def text_of_cell(cell: dict[str, Any]) -> str:
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
    """Writes a PNG of step times relative to the reference's."""
    cells = document["cells"]
    reference = next(name for name in REFERENCES if all(name in cell["contenders"] for cell in cells))
    panels: dict[str, dict[str, chart.Row]] = {}
    for cell in cells:
        times = cell["contenders"][reference]["step_seconds"]
        row = {one["title"]: output.quartiles(one["step_seconds"], times) for one in cell["contenders"].values()}
        panels.setdefault(f"step in {cell['dtype']}", {})[f"ResNet-{cell['depth']}, {cell['norm']} norm"] = row
    chart.draw(panels, cells[0]["contenders"][reference]["title"], file)
