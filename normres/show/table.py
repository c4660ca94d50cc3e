"""The network as text: one line per part with what it costs, then the order of its operations."""

import textwrap

from normres.report.labels import counted
from normres.report.tables import NOTHING, Table, written
from normres.show.count import Counts, Part, line
from normres.show.watch import Op

WIDTH = 100  # characters in a line
HEADER = ("part", "blocks", "output", "parameters", "multiply-adds", "each mean over")
EXPLAINED = """\
multiply-adds   of convolutions and dense layers, forward
each mean over  what shares its statistics; N: the batch, C: the normalized channels"""


def text(counts: Counts) -> str:
    """Returns the table of the parts and what explains it, in lines."""
    rows = [_row(part) for part in (*counts.parts, counts.total)]
    costs = written(Table(HEADER, rows), "simple", str)
    described = order(counts)
    first = max(len(name) for name, _ in described) + 2
    lines = [textwrap.fill(name.ljust(first) + what, WIDTH, subsequent_indent=first * " ") for name, what in described]
    return "\n\n".join([headline(counts), costs, EXPLAINED, "\n".join(lines)])


def headline(counts: Counts) -> str:
    """Returns what the network is, in a few words."""
    added = any(op.text == "+" for part in counts.parts for op in part.single)
    kind = "residual" if added or any(block.joint == "+" for block in counts.blocks) else "plain"
    names = ", ".join(dict.fromkeys(part.norm.text for part in counts.parts if part.norm)) or "no norm"
    layers = f"{counts.layers} convolutions and dense layers in sequence"
    return f"{kind} network, {layers}, {names}; one image of {'×'.join(map(str, counts.image))}"


def order(counts: Counts) -> list[tuple[str, str]]:
    """Returns where each convolution, norm and ReLU stands, for each part and each kind of block."""
    parts = [(part.name, line(part.single)) for part in counts.parts if part.single]
    after = 1 if parts and parts[-1][0] == "classifier" else 0
    blocks = [(counted(block.times, "block"), block.line) for block in counts.blocks]
    return parts[: len(parts) - after] + blocks + parts[len(parts) - after :]


def sized(op: Op) -> str:
    """Returns an operation with its channels: "3×3 conv, 16"."""
    return f"{op.text}, {op.shape[-1]}" if op.kind in ("conv", "dense") else op.text


def averaged_over(norm: Op) -> list[str]:
    """Returns the axes of each mean that a norm takes, with its sizes for H and W: "N×32×32", "32×32×C/8"."""
    sizes = dict(zip("HW", map(str, norm.shape), strict=False)) if len(norm.shape) == 3 else {}
    return ["×".join(sizes.get(axis, axis) for axis in axes) for axes in norm.call.reductions]


def scaled(number: int) -> str:
    """Returns three digits and a unit: 640, 14.2 M, 4.09 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{number} "


def _row(part: Part) -> tuple[str, ...]:
    blocks, output = str(part.blocks or NOTHING), "×".join(map(str, part.output))
    axes = averaged_over(part.norm) if part.norm else []
    return (
        *(part.name, blocks, output, f"{part.parameters:,}", scaled(part.multiply_adds)),
        " & ".join(axes) or NOTHING,
    )
