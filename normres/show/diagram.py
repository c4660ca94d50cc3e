"""The network as a picture: its parts in a column, one block as in He et al. 2016 figure 4, and the norm's axes."""

from collections.abc import Sequence

from normres.models.variants import ResNetConfig
from normres.show import cube, svg, table, words
from normres.show.count import Part
from normres.show.words import Drawn, Step

WIDTH = 400.0
MARGIN = 10.0
COLUMN, COLUMN_WIDTH = 62.0, 104.0  # the network: centre and width
PANEL, PANEL_RIGHT = 128.0, WIDTH - MARGIN  # the block's ground: from, to
MAIN, MAIN_WIDTH = 200.0, 122.0  # the branch
SIDE, SIDE_WIDTH = 331.0, 108.0  # the shortcut
GAP = 14.0
RADIUS = 9.0


def draw(config: ResNetConfig, parts: Sequence[Part]) -> str:
    """Returns the SVG file of a network whose `parts` have been counted."""
    described = [f"{name}: {meaning}." for name, meaning in table.order(config).items()]
    counted = [f"{part.name}: output {'×'.join(map(str, part.output))}." for part in parts]
    elements = [svg.words(MARGIN, 18, table.headline(config), anchor="start", size=14, weight="bold")]
    lines = svg.wrapped(table.subtitle(config), WIDTH - 2 * MARGIN)
    elements += svg.paragraph(MARGIN, 36, lines, fill=svg.QUIET)
    top = 36 + len(lines) * svg.LINE + 2
    network, network_bottom, zoomed = _network(config, parts, top)
    block, block_bottom = _block(words.block(config), config, top)
    bottom = max(network_bottom, block_bottom)
    ground = f'x="{PANEL:g}" y="{top:g}" width="{PANEL_RIGHT - PANEL:g}" height="{block_bottom - top:g}"'
    elements.append(f'<rect {ground} rx="6" fill="{svg.GROUND}"/>')
    # From the first stage to the block that stands for all of them.
    right = COLUMN + COLUMN_WIDTH / 2
    corners = f"{right:g},{zoomed[0]:g} {PANEL:g},{top + 6:g} {PANEL:g},{block_bottom - 6:g} {right:g},{zoomed[1]:g}"
    elements.append(f'<polygon points="{corners}" fill="{svg.GROUND}"/>')
    elements += [*network, *block]
    cubes, bottom = cube.cubes(config, MARGIN, bottom + 12)
    title = f"{table.headline(config)}; {table.subtitle(config)}"
    description = " ".join([*described, *counted, *(f"{note}." for note in words.notes(config))])
    return svg.document(WIDTH, bottom + MARGIN, title, description, [*elements, *cubes])


def _network(config: ResNetConfig, parts: Sequence[Part], y: float) -> tuple[list[str], float, tuple[float, float]]:
    """Returns the column of parts from y on, where it ends, and from where to where its first stage is."""
    told = {"stem": words.line(words.stem(config)), "classifier": words.line(words.head(config))}
    elements: list[str] = []
    zoomed = (y, y)
    for index, part in enumerate(parts):
        blocks = f"{part.blocks} block{'s' * (part.blocks > 1)}" if part.blocks else ""
        lines = [*svg.phrases(told.get(part.name, blocks), COLUMN_WIDTH - 4), "×".join(map(str, part.output))]
        height = 10 + svg.LINE * (1 + len(lines))
        if index:
            elements.append(svg.path([(COLUMN, y - GAP - 4), (COLUMN, y - 1)]))
        if index == 1:
            zoomed = (y, y + height)
        # A stage of several blocks is a pile of sheets.
        left = COLUMN - COLUMN_WIDTH / 2
        for sheet in range(min(part.blocks, 3) - 1, -1, -1):
            elements.append(_sheet(left + 2.5 * sheet, y + 2.5 * sheet, height))
        if not part.blocks:
            elements.append(_sheet(left, y, height))
        first = y + 5 + svg.LINE / 2
        elements.append(svg.words(COLUMN, first, part.name, weight="bold"))
        elements += [svg.words(COLUMN, first + (row + 1) * svg.LINE, line) for row, line in enumerate(lines)]
        y += height + GAP + 4
    return elements, y - GAP - 4, zoomed


def _sheet(x: float, y: float, height: float) -> str:
    where = f'x="{x:g}" y="{y:g}" width="{COLUMN_WIDTH:g}" height="{height:g}"'
    return f'<rect {where} rx="3" fill="white" stroke="{svg.INK}" stroke-width="1"/>'


def _block(block: Drawn, config: ResNetConfig, top: float) -> tuple[list[str], float]:
    """Returns the block's elements and where they end."""
    elements = [svg.words(PANEL + 8, top + 14, "one block (channels of stage 1)", anchor="start", weight="bold")]
    y = top + 38
    elements.append(svg.words(MAIN, y - 8, "x"))
    split = y + 8
    start = y
    y = split + 10
    lead, y = _column(block.lead, start, y)
    # A projection reads what the leading steps have made of the input.
    activated = y - GAP / 2 if block.lead else split
    y += 6 if block.lead else 0
    branch, y = _column(block.branch, y - GAP - 6 if block.lead else start, y)
    elements += [*lead, *branch]
    if block.shortcut is not None:
        plus = y + RADIUS
        elements.append(svg.path([(MAIN, y - GAP), (MAIN, y - 0.5)]))
        elements += _shortcut(block, split, activated, plus)
        elements.append(svg.adder(MAIN, plus, RADIUS))
        y = plus + RADIUS + GAP
    else:
        middle = (split + y) / 2
        elements += [svg.words(SIDE, middle + row * svg.LINE, line) for row, line in enumerate(("no", "shortcut"))]
    after, y = _column(block.after, y - GAP, y)
    elements += [*after, svg.path([(MAIN, y - GAP), (MAIN, y + 6)])]
    y += 20
    dashed = any(step.where_changed for step in block.shortcut or ())
    for note in ["dashed: only where the shape changes"] * dashed + words.notes(config):
        lines = svg.wrapped(note, PANEL_RIGHT - PANEL - 16)
        elements += svg.paragraph(PANEL + 8, y, lines, fill=svg.QUIET)
        y += len(lines) * svg.LINE + 4
    return elements, y


def _column(steps: Sequence[Step], start: float, y: float) -> tuple[list[str], float]:
    """Returns the boxes of `steps` from y on, an arrow to each (the first one's begins at `start`), and the next y."""
    elements = []
    for step in steps:
        elements.append(svg.path([(MAIN, start), (MAIN, y - 0.5)]))
        elements.append(svg.box(step.kind, step.text, MAIN, y, MAIN_WIDTH))
        start = y + svg.box_height(step.text, MAIN_WIDTH)
        y = start + GAP
    return elements, y


def _shortcut(block: Drawn, split: float, activated: float, plus: float) -> list[str]:
    """Returns the way from the block's input to the addition, and what stands on it."""
    assert block.shortcut is not None
    steps = block.shortcut
    always_projects = block.projection and not any(step.where_changed for step in steps)
    begin = activated if always_projects else split
    way = [(MAIN, begin), (SIDE, begin), (SIDE, plus), (MAIN + RADIUS, plus)]
    elements = [svg.path(way, name="shortcut")]
    heights = [svg.box_height(step.text, SIDE_WIDTH) for step in steps]
    named = all(step.where_changed for step in steps)
    free = (plus - begin) - sum(heights) - (svg.LINE + 4 if named else 0)
    space = free / (len(steps) + (2 if named else 1))
    y = begin + space
    if named:
        under = f'x="{SIDE - 25:g}" y="{y - 1:g}" width="50" height="{svg.LINE + 6:g}" fill="{svg.GROUND}"'
        elements += [f"<rect {under}/>", svg.words(SIDE, y + svg.LINE / 2 + 2, "identity")]
        y += svg.LINE + 4 + space
    if block.projection and not always_projects:
        middle, between = y + heights[0] / 2, (MAIN + MAIN_WIDTH / 2 + SIDE - SIDE_WIDTH / 2) / 2
        bent = [(MAIN, activated), (between, activated), (between, middle), (SIDE - SIDE_WIDTH / 2, middle)]
        elements.append(svg.path(bent, dashed=True))
    for step, height in zip(steps, heights, strict=True):
        elements.append(svg.box(step.kind, step.text, SIDE, y, SIDE_WIDTH, dashed=step.where_changed))
        y += height + space
    return elements
