"""A norm's axes as a cube of N, C and positions, in which what shares a mean is coloured (Wu, He 2018, figure 2)."""

from collections.abc import Sequence

from normres.models.variants import ResNetConfig
from normres.show import svg, table, words

CHANNELS, POSITIONS, EXAMPLES = 6, 4, 4
CELL, BACK, UP = 9.0, 5.0, 4.5  # a cell's side, and what an example further back is shifted by
WIDTH = CHANNELS * CELL + EXAMPLES * BACK
HEIGHT = POSITIONS * CELL + EXAMPLES * UP


def cubes(config: ResNetConfig, x: float, y: float) -> tuple[list[str], float]:
    """Returns a cube for each reduction of the norm, in a row whose top left is at (x, y), and where it ends."""
    spec = config.norm_spec
    shown = [over for over in spec.reductions if over]
    if not shown:
        return [], y
    shared = f"shares a mean {'and a variance' if spec.center else 'square'}"
    said, axes = words.norm_name(config), table.reductions(config)
    if len(shown) == 1:
        right = x + 28 + WIDTH + 40
        middle = y + HEIGHT / 2 - 12
        found = [svg.words(right, middle, f"{said}: over {axes[0]}", anchor="start", weight="bold")]
        found += svg.paragraph(right, middle + svg.LINE + 3, ["what is coloured", shared])
    else:
        found = [svg.words(x, y + 6, f"{said}: what is coloured {shared}", anchor="start")]
        y += 20
    for index, over in enumerate(shown):
        left = x + 28 + index * (WIDTH + 44)
        found += [f'<g class="cube"><title>over {axes[index]}</title>', *_cube(config, over, left, y), "</g>"]
        if len(shown) > 1:
            found.append(svg.words(left + CHANNELS * CELL / 2, y + HEIGHT + 25, axes[index], weight="bold"))
    return found, y + HEIGHT + (32 if len(shown) > 1 else 16)


def _cube(config: ResNetConfig, over: str, x: float, y: float) -> list[str]:
    spec = config.norm_spec
    spatial = [letter for letter in "HWSD" if letter in over]
    # The cell in front, at the top and to the right is among them, so that all three faces show what is.
    first_channel = 0 if "C" in over else CHANNELS - 1
    if "C" in over and spec.groups > 1:
        first_channel = CHANNELS - 2
    examples = (EXAMPLES // 2 if spec.sub_batches > 1 else EXAMPLES) if "N" in over else 1
    rows = POSITIONS if spatial else 1
    top, right = y + EXAMPLES * UP, x + CHANNELS * CELL
    cells = []
    for row in range(POSITIONS):
        for channel in range(CHANNELS):
            corner = (x + channel * CELL, top + row * CELL)
            cells.append(_cell(corner, (CELL, 0), (0, CELL), row < rows and channel >= first_channel))
        for example in range(EXAMPLES):
            corner = (right + example * BACK, top + row * CELL - example * UP)
            cells.append(_cell(corner, (BACK, -UP), (0, CELL), row < rows and example < examples))
    for example in range(EXAMPLES):
        for channel in range(CHANNELS):
            corner = (x + channel * CELL + example * BACK, top - example * UP)
            cells.append(_cell(corner, (CELL, 0), (BACK, -UP), channel >= first_channel and example < examples))
    vertical = spatial[0] if spatial in (["H"], ["W"]) else "H, W"
    return [
        *cells,
        svg.words(x - 4, top + POSITIONS * CELL / 2, vertical, anchor="end"),
        svg.words(x + CHANNELS * CELL / 2, top + POSITIONS * CELL + 8, "C"),
        svg.words(right + EXAMPLES * BACK / 2 + 7, top + POSITIONS * CELL - EXAMPLES * UP / 2 + 6, "N", anchor="start"),
    ]


def _cell(corner: tuple[float, float], across: Sequence[float], down: Sequence[float], coloured: bool) -> str:
    (x, y), (a, b), (c, d) = corner, across, down
    corners = ((x, y), (x + a, y + b), (x + a + c, y + b + d), (x + c, y + d))
    points = " ".join(f"{px:g},{py:g}" for px, py in corners)
    fill = f'fill="{svg.VERMILION}" fill-opacity="0.6"' if coloured else 'fill="white"'
    return f'<polygon points="{points}" {fill} stroke="{svg.QUIET}" stroke-width="0.6"/>'
