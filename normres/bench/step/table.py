"""What was measured, as a table for the terminal and as Markdown; from the JSON alone."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normres.errors import UserError
from normres.report.tables import Table, markdown
from normres.show.text import NOTHING, table

BUSY = 0.05  # a share of the processors' time that other programs may use without being spoken of
BEGIN, END = "<!-- begin step -->", "<!-- end step -->"

HEADER = """\
One training step of a CIFAR ResNet (shortcut A, order post): forward, backward, SGD with momentum and weight decay.
Every contender has a process of its own and its own flags; before anything is timed, losses, gradients, updates and
running statistics of the step are compared.  Then all are timed in turns.
  normres        the programs of a training run, under its flags; it reads its batch from uint8 images, the others
                 have theirs ready-made in float32
  batch norm     normres with batch norm in place of the cell's norm, which is what the ratio compares
  Flax           stock flax.linen and optax, blocks unrolled, under the flags of your environment
  PyTorch        channels last, autocast for bfloat16, denormal numbers flushed; compiled: torch.compile
  step           median of {repeats} samples of {seconds:g} s (or one program) after a warm-up (lower to upper quartile)
  normres / it   time of normres over this one's, pair by pair: median (quartiles); below 1 normres is faster
  mult-adds/s    of convolutions and classifier, three times the forward ones: 10^9 multiply-adds per second
  of matmul      that, as a share of what one big matrix product in the same dtype reached in the same minutes
  of copy        share of the copy bandwidth of the same minutes, if only this is moved: what the backward pass needs
                 of the activations, written and read once, and parameters and momentum, read and written once.  The
                 same bytes for everybody; what a contender moves besides lowers its share
  compile        seconds until the first step is done, less those of a step
  memory         most memory of the process (of the accelerator, where there is one), imports and compiler included;
                 net: less what the imports took"""


@dataclass(frozen=True)
class Row:
    """One contender in one cell; spreads are (lower quartile, median, upper quartile), `ratio` normres / it."""

    title: str
    step: tuple[float, float, float]
    ratio: tuple[float, float, float] | None
    images_per_second: float
    multiply_adds_per_second: float
    of_matmul: float
    of_copy: float
    compile_seconds: float
    peak_bytes: float
    net_bytes: float


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns lower quartile, median and upper quartile."""
    lower, middle, upper = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return lower, middle, upper


def ratios(cell: dict[str, Any], one: str, other: str) -> tuple[float, float, float]:
    """Returns the spread of the paired ratios of two contenders' step times."""
    pairs = zip(cell["contenders"][one]["step_seconds"], cell["contenders"][other]["step_seconds"], strict=True)
    return spread([a / b for a, b in pairs])


def rows(cell: dict[str, Any]) -> list[Row]:
    """Returns the rows of one cell."""
    found = []
    for name, contender in cell["contenders"].items():
        seconds = statistics.median(contender["step_seconds"])
        rate = cell["multiply_adds"] / seconds
        found.append(
            Row(
                contender["title"],
                spread(contender["step_seconds"]),
                ratios(cell, "normres", name) if name != "normres" else None,
                cell["batch"] / seconds,
                rate,
                rate / cell["ceilings"]["multiply_adds_per_second"],
                cell["bytes"] / seconds / cell["ceilings"]["bytes_per_second"],
                max(0.0, contender["seconds_to_first_step"] - seconds),
                contender["peak_bytes"],
                contender["peak_bytes"] - contender["baseline_bytes"],
            )
        )
    return found


def title(cell: dict[str, Any]) -> str:
    """Returns the name of a cell."""
    return f"ResNet-{cell['depth']}, {cell['dtype']}, {cell['norm']} norm, batch {cell['batch']}, width {cell['width']}"


def _milliseconds(seconds: float) -> str:
    """Returns three digits: 4.56, 98.7, 1,230."""
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _of(values: tuple[float, float, float] | None, form: Any) -> str:
    """Returns "median (lower–upper)"."""
    if values is None:
        return NOTHING
    return f"{form(values[1])} ({form(values[0])}{NOTHING}{form(values[2])})"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


COLUMNS = (
    "step (ms)",
    "normres / it",
    "images/s",
    "10^9 mult-adds/s",
    "of matmul",
    "of copy",
    "compile (s)",
    "memory (MB)",
    "net (MB)",
)


def _cells_of(row: Row) -> list[str]:
    return [
        _of(row.step, _milliseconds),
        _of(row.ratio, _ratio),
        f"{row.images_per_second:,.0f}",
        f"{row.multiply_adds_per_second / 1e9:.3g}",
        f"{row.of_matmul:.1%}",
        f"{row.of_copy:.1%}",
        f"{row.compile_seconds:.1f}",
        f"{row.peak_bytes / 1e6:,.0f}",
        f"{row.net_bytes / 1e6:,.0f}",
    ]


def text(cell: dict[str, Any]) -> str:
    """Returns one cell for the terminal."""
    ceilings = cell["ceilings"]
    worst = max(
        (found["differs_by"]["angle"] for found in cell["contenders"].values() if "differs_by" in found), default=0
    )
    lines = [
        title(cell),
        f"{cell['multiply_adds'] / 1e9:.3g} x 10^9 multiply-adds and {cell['bytes'] / 1e6:,.0f} MB a step; ceilings "
        f"{ceilings['multiply_adds_per_second'] / 1e9:,.0f} x 10^9 multiply-adds/s, "
        f"{ceilings['bytes_per_second'] / 1e9:.1f} GB/s; gradients agree, cosine at least 1 - {worst:.1g}",
        table(("contender", *COLUMNS), [[row.title, *_cells_of(row)] for row in rows(cell)]),
    ]
    if cell["used_by_others"] > BUSY:
        lines.append(
            f"other programs used {cell['used_by_others']:.0%} of the processors meanwhile: the times are too long"
        )
    lines += [f"{name} does not work here: {reason}" for name, reason in cell["left_out"].items()]
    return "\n".join(lines)


def markdown_table(document: dict[str, Any]) -> str:
    """Returns all cells as one Markdown table, with the conditions above it."""
    conditions, provenance = document["conditions"], document["provenance"]
    lines = [
        (f"ResNet-{cell['depth']}", cell["norm"], cell["dtype"], row.title, *_cells_of(row))
        for cell in document["cells"]
        for row in rows(cell)
    ]
    changed = " with uncommitted changes" if provenance["uncommitted_changes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    caption = (
        f"Batch {conditions['batch']}, width {conditions['width']}, on {conditions['device']}; {versions}; "
        f"measured on {provenance['started'][:10]} at commit {(provenance['commit'] or 'unknown')[:12]}{changed}. "
        f"Medians of {conditions['repeats']} samples (lower to upper quartile)."
    )
    busy = max(cell["used_by_others"] for cell in document["cells"])
    if busy > BUSY:
        caption += f" Meanwhile other programs used up to {busy:.0%} of the processors, so the times are too long."
    left_out = dict.fromkeys(
        f"{name} does not work here at {title(cell)}: {reason}."
        for cell in document["cells"]
        for name, reason in cell["left_out"].items()
    )
    header = ("network", "norm", "dtype", "contender", *COLUMNS)
    return markdown(Table(header, tuple(lines), " ".join([caption, *left_out]), text_columns=4))


def put_between_markers(page: str, document: dict[str, Any], name: str) -> str:
    """Returns the page with the table between BEGIN and END.

    Raises:
      UserError: the page, whose file is `name`, has no such markers.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.S)
    if len(pattern.findall(page)) != 1:
        raise UserError(f"--markdown={name}: it needs the lines {BEGIN} and {END}, once each")
    return pattern.sub(lambda _: f"{BEGIN}\n{markdown_table(document)}{END}", page)
