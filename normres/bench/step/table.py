"""What was measured, as a table for the terminal and as Markdown; from the JSON alone."""

import re
import statistics
from pathlib import Path
from typing import Any

from normres.bench import output
from normres.bench.output import NOTHING
from normres.errors import UserError

BUSY = 0.05  # a share of the processors' time that other programs may use without being spoken of
BEGIN, END = "<!-- begin step -->", "<!-- end step -->"

HEADER = """\
One training step of a CIFAR ResNet (shortcut A, order post): forward, backward, SGD with momentum and weight decay.
Every contender has a process of its own and its own flags; before anything is timed, losses, gradients, updates and
running statistics of the step are compared.  Then all are timed in turns.
  normres        the programs of a training run, under its flags; it reads its batch from uint8 images, the others
                 have theirs ready-made in float32
  batch norm     normres with batch norm in place of the cell's norm, which is what the ratio compares
  before         the commit that --before names, otherwise like normres
  Flax           stock flax.linen and optax, blocks unrolled, under the flags of your environment
  PyTorch        channels last, autocast for bfloat16, denormal numbers flushed
  step           median of {repeats} samples of {sample_seconds:g} s (or one program) after a warm-up (lower–upper quartile)
  normres / it   time of normres over this one's, pair by pair: median (quartiles); below 1 normres is faster
  compile        seconds until the first step is done, less those of a step
  memory         most memory of the process (of the accelerator, where there is one), imports and compiler included"""

COLUMNS = ("contender", "step (ms)", "normres / it", "images/s", "compile (s)", "memory (MB)")


def rows(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row of texts for each contender of a cell, see COLUMNS."""
    contenders = cell["contenders"]
    lines = []
    for name, contender in contenders.items():
        times = contender["step_seconds"]
        seconds = statistics.median(times)
        step = tuple(1e3 * value for value in output.quartiles(times))
        ratio = output.spread(output.ratios(contenders["normres"]["step_seconds"], times))
        lines.append(
            (
                contender["title"],
                output.spread(step, digits=0 if step[1] >= 99.5 else 1),  # type: ignore[arg-type]
                NOTHING if name == "normres" else ratio,
                f"{cell['batch'] / seconds:,.0f}",
                f"{max(0.0, contender['seconds_to_first_step'] - seconds):.1f}",
                f"{contender['peak_bytes'] / 1e6:,.0f}",
            )
        )
    return lines


def text(cell: dict[str, Any]) -> str:
    """Returns one cell for the terminal."""
    title = (
        f"ResNet-{cell['depth']}, {cell['dtype']}, {cell['norm']} norm, batch {cell['batch']}, width {cell['width']}"
    )
    angles = [one["differs_by"]["angle"] for one in cell["contenders"].values() if "differs_by" in one]
    lines = [f"{title}; gradients agree, 1 - cosine is at most {max(angles, default=0):.1g}"]
    lines.append(output.table(COLUMNS, rows(cell)))
    if cell["used_by_others"] > BUSY:
        share = f"{cell['used_by_others']:.0%}"
        lines.append(f"other programs used {share} of the processors meanwhile: the times are too long")
    lines += [f"{name} does not work here: {reason}" for name, reason in cell["left_out"].items()]
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """Returns all cells as one Markdown table, with the conditions above it."""
    conditions, provenance, cells = document["conditions"], document["provenance"], document["cells"]
    changed = " with uncommitted changes" if provenance["uncommitted_changes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    sentences = [
        f"Batch {conditions['batch']}, width {conditions['width']}, on {conditions['device']}; {versions}; "
        f"measured on {provenance['started'][:10]} at commit {(provenance['commit'] or 'unknown')[:12]}{changed}.",
        f"Medians of {conditions['repeats']} samples (lower–upper quartile).",
    ]
    if before := conditions.get("before"):
        sentences.append(f"Before is commit {before['commit'][:12]}.")
    busy = max(cell["used_by_others"] for cell in cells)
    if busy > BUSY:
        sentences.append(f"Other programs used up to {busy:.0%} of the processors, so the times are too long.")
    sentences += dict.fromkeys(
        f"{name} does not work here at ResNet-{cell['depth']}, {cell['dtype']}, {cell['norm']} norm: {reason}."
        for cell in cells
        for name, reason in cell["left_out"].items()
    )
    lines = [(f"ResNet-{cell['depth']}", cell["norm"], cell["dtype"], *row) for cell in cells for row in rows(cell)]
    header = ("network", "norm", "dtype", *COLUMNS)
    return f"{' '.join(sentences)}\n\n{output.table(header, lines, text_columns=4, markdown=True)}\n"


def put_between_markers(page: str, document: dict[str, Any], name: str) -> str:
    """Returns the page with the table between BEGIN and END.

    Raises:
      UserError: the page, whose file is `name`, has no such markers.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.S)
    if len(pattern.findall(page)) != 1:
        raise UserError(f"--markdown={name}: it needs the lines {BEGIN} and {END}, once each")
    return pattern.sub(lambda _: f"{BEGIN}\n{markdown(document)}{END}", page)


def show(document: dict[str, Any], figure: Path | None, page: Path | None) -> None:
    """Draws the figure and puts the table into the page, if they are asked for."""
    if figure:
        from normres.bench.step import chart

        chart.draw(document, figure)
        print(figure)
    if page:
        page.write_text(put_between_markers(page.read_text(), document, str(page)))
        print(page)
