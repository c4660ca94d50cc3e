"""What was measured, as a table for the terminal and for a page; from the JSON alone."""

from typing import Any

from normres.bench import output

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


def rows(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row of texts for each contender of a cell, see COLUMNS."""
    ours, lines = cell["contenders"]["normres"]["step_seconds"], list[tuple[str, ...]]()
    for name, contender in cell["contenders"].items():
        times = contender["step_seconds"]
        low, seconds, high = output.quartiles(times)
        ratio = output.NOTHING if name == "normres" else output.spread(output.quartiles(ours, times), 2)
        step = output.spread([1e3 * low, 1e3 * seconds, 1e3 * high], 0 if seconds > 0.1 else 1)
        compiling = max(0.0, contender["seconds_to_first_step"] - seconds)
        sizes = (f"{cell['batch'] / seconds:,.0f}", f"{compiling:.1f}", f"{contender['peak_bytes'] / 1e6:,.0f}")
        lines.append((contender["title"], step, ratio, *sizes))
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
    changed = " with uncommitted changes" if provenance.get("diff") else ""
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
