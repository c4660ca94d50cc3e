"""The network as a picture: its parts in a column, its blocks as in He et al. 2016 figure 4, and the norm's axes."""

from collections.abc import Sequence

from normres.show import cube, svg, table
from normres.show.blocks import Block, line
from normres.show.count import Counts
from normres.show.watch import Op

MARGIN, GAP, RADIUS = 10.0, 14.0, 9.0
COLUMN = 112.0  # width of the network's boxes
MAIN, SIDE = 124.0, 112.0  # widths of a block's boxes, on the branch and on the shortcut
SHOWN = 2  # kinds of blocks


def draw(counts: Counts) -> str:
    """Returns the SVG file of a network."""
    top, left, bottom = 44.0, COLUMN + 2 * MARGIN, 0.0
    network, bottom = _network(counts, top)
    elements = list(network)
    for block in counts.blocks[:SHOWN]:
        drawn, width, end = _block(block, left + MARGIN, top)
        elements += [svg.rectangle(left, top, width + 2 * MARGIN, end - top, "ground", 6), *drawn]
        left, bottom = left + width + 3 * MARGIN, max(bottom, end)
    width = max(left, 400.0)
    said = svg.wrapped(table.headline(counts), width - 2 * MARGIN)
    elements += svg.paragraph(MARGIN, 16, said, anchor="start", weight="bold")
    drawn, bottom = _cubes(counts, bottom + 12)
    described = ". ".join(f"{name.strip()}: {meaning}" for name, meaning in table.order(counts).items())
    return svg.document(width, bottom + MARGIN, table.headline(counts), described, [*elements, *drawn])


def _network(counts: Counts, y: float) -> tuple[list[str], float]:
    """Returns the column of parts from y on, and where it ends."""
    x, elements = MARGIN + COLUMN / 2, list[str]()
    for index, part in enumerate(counts.parts):
        blocks = [f"{part.blocks} block{'s' * (part.blocks > 1)}"] if part.blocks else []
        single = svg.wrapped(line(part.single), COLUMN - 8) if part.single else []
        lines = [*blocks, *single, "×".join(map(str, part.output))]
        height = 10 + svg.LINE * (1 + len(lines))
        if index:
            elements.append(svg.arrow([(x, y - GAP - 4), (x, y - 1)]))
        # A stage of several blocks is a pile of sheets.
        for sheet in range(max(min(part.blocks, 3) - 1, 0), -1, -1):
            elements.append(svg.rectangle(MARGIN + 2.5 * sheet, y + 2.5 * sheet, COLUMN, height, "sheet", 3))
        elements.append(svg.words(x, y + 5 + svg.LINE / 2, part.name, weight="bold"))
        elements += svg.paragraph(x, y + 5 + 1.5 * svg.LINE, lines)
        y += height + GAP + 4
    return elements, y - GAP


def _block(block: Block, left: float, top: float) -> tuple[list[str], float, float]:
    """Returns a block's elements, its width and where it ends."""
    x, side = left + MAIN / 2, left + MAIN + 20 + SIDE / 2
    title = f"{block.times} block{'s' * (block.times > 1)} (sizes of the first)"
    elements = [svg.words(left, top + 12, title, anchor="start", weight="bold")]
    split = top + 36
    elements += [svg.words(x, split - 10, "x"), svg.arrow([(x, split - 3), (x, split + GAP)])]
    lead, after_lead = _column(block.lead, x, split + GAP)
    branch, y = _column(block.branch, x, after_lead)
    elements += [*lead, *branch]
    if block.joint:
        joint, begin = y + RADIUS, after_lead - GAP / 2 - 3 if block.from_lead else split + 3
        elements.append(svg.arrow([(x, begin), (side, begin), (side, joint), (x + RADIUS, joint)]))
        height = sum(svg.box_height(_text(op), SIDE) + GAP for op in block.shortcut) - GAP
        column, _ = _column(block.shortcut, side, (begin + joint - height) / 2, SIDE, last=False)
        elements += column or [svg.words(side - 4, (begin + joint) / 2, "identity", anchor="end", name="quiet")]
        elements.append(svg.circle(x, joint, RADIUS, block.joint if len(block.joint) == 1 else "∥"))
        y = joint + RADIUS
        elements.append(svg.arrow([(x, y), (x, y + GAP)]))
        after, y = _column(block.after, x, y + GAP)
        elements += after
    return elements, MAIN + (20 + SIDE if block.joint else 20), y + 8


def _column(
    ops: Sequence[Op], x: float, y: float, width: float = MAIN, last: bool = True
) -> tuple[list[str], float]:
    """Returns boxes from y on with an arrow from each to the next, and the y where the next one would begin."""
    elements = []
    for index, op in enumerate(ops):
        elements.append(svg.box(op.kind, _text(op), x, y, width))
        y += svg.box_height(_text(op), width) + GAP
        if last or index < len(ops) - 1:
            elements.append(svg.arrow([(x, y - GAP), (x, y - 1)]))
    return elements, y


def _text(op: Op) -> str:
    return f"{op.text}, {op.shape[-1]}" if op.kind in ("conv", "dense") else op.text


def _cubes(counts: Counts, y: float) -> tuple[list[str], float]:
    """Returns a cube for each mean of the network's first norm that takes one, in a row, and where it ends."""
    norm = next((norm for norm in table.norms(counts) if norm.reductions), None)
    if norm is None:
        return [], y
    elements = [svg.words(MARGIN, y + 6, f"{norm.text}: each mean is over what is coloured", anchor="start")]
    for index, (axes, said) in enumerate(zip(norm.reductions, table.averaged_over(norm), strict=True)):
        x = MARGIN + 28 + index * (cube.WIDTH + 44)
        inside = [*cube.cube(axes, x, y + 20), svg.words(x + 27, y + 20 + cube.HEIGHT + 24, said, weight="bold")]
        elements.append(f'<g class="cube">{"".join(inside)}</g>')
    return elements, y + 20 + cube.HEIGHT + 32
