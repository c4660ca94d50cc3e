"""The scope picture: a cube of examples, channels and pixels for each norm, with what is averaged together coloured.

It is the figure of Wu and He 2018 (arXiv 1803.08494, figure 2), drawn from the specs of the table.
"""

from collections.abc import Mapping
from itertools import product

from normres.norms.spec import NormSpec

Cell = tuple[int, int, int]  # example, row of pixels (all of space, in one dimension), channel

EXAMPLES, PIXELS, CHANNELS = 4, 4, 6
GROUPS, SUB_BATCHES = 3, 2  # where a norm has them
CORNER: Cell = (0, 0, CHANNELS - 1)  # seen from the front, from above and from the right
SIDE, SLANT = 15, (7.5, 5.0)  # pixels: of a cell, and of a step into the depth
BLUE, LINE = "#56b4e9", "#808080"
GAP, TITLE = 44, 34

LEGEND = (
    "Across: channels C; down: pixels S; into the depth: examples N. "
    "Blue is averaged together with the front upper right cell."
)


def averaged_with_corner(over: str, groups: int = 1, sub_batches: int = 1) -> set[Cell]:
    """Returns the cells that a reduction over the letters `over` averages together with CORNER."""
    letters = over.replace("H", "S").replace("W", "S")
    axes = (("N", EXAMPLES, sub_batches), ("S", PIXELS, 1), ("C", CHANNELS, groups))
    ranges = []
    for (letter, size, parts), at in zip(axes, CORNER, strict=True):
        length = size // parts if letter in letters else 1
        ranges.append(range(at // length * length, at // length * length + length))
    return set(product(*ranges))  # type: ignore[arg-type]  # three ranges


def cubes(spec: NormSpec) -> dict[str, set[Cell]]:
    """Returns what is coloured in each cube of a norm, by what the cube is of; without a reduction nothing is."""
    several = len(spec.reductions) > 1 or bool(spec.var_over)
    parts = (GROUPS if spec.groups > 1 else 1, SUB_BATCHES if spec.sub_batches > 1 else 1)
    made = {over if several else "": averaged_with_corner(over, *parts) for over in spec.reductions if over}
    if spec.var_over:
        made = {f"mean {next(iter(made))}": next(iter(made.values()))}
        made[f"variance {spec.var_over}"] = averaged_with_corner(spec.var_over, *parts)
    return made or {"": set()}


def faces(cells: set[Cell], x: float, y: float) -> tuple[str, str]:
    """Returns the front, the top and the right of a cube at (x, y): SVG paths of all but these cells, and of these."""
    squares = [
        ((0, s, c), ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0))) for s in range(PIXELS) for c in range(CHANNELS)
    ]
    for n in range(EXAMPLES):
        squares += [((n, 0, c), ((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0))) for c in range(CHANNELS)]
        squares += [((n, s, CHANNELS - 1), ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))) for s in range(PIXELS)]
    paths = ["", ""]
    for cell, corners in squares:
        points = []
        for step in corners:
            n, s, c = (at + move for at, move in zip(cell, step, strict=True))
            points.append(f"{x + c * SIDE + n * SLANT[0]:g} {y + s * SIDE + (EXAMPLES - n) * SLANT[1]:g}")
        paths[cell in cells] += f"M{'L'.join(points)}Z"
    return paths[0], paths[1]


CUBE = (CHANNELS * SIDE + EXAMPLES * SLANT[0], PIXELS * SIDE + EXAMPLES * SLANT[1])


def svg(specs: Mapping[str, NormSpec], columns: int = 6) -> str:
    """Returns the picture of all specs, a cube for each reduction, as SVG; of several, with a legend."""
    titles = [(name, words, cells) for name, spec in specs.items() for words, cells in cubes(spec).items()]
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    width, height = columns * (CUBE[0] + GAP) + GAP, rows * (CUBE[1] + TITLE + 12) + (TITLE if len(specs) > 1 else 0)
    parts = []
    for number, (name, words, cells) in enumerate(titles):
        x = GAP + number % columns * (CUBE[0] + GAP)
        y = TITLE + number // columns * (CUBE[1] + TITLE + 12)
        label = f"{name} ({words})" if words else name
        parts.append(f'<text x="{x + CUBE[0] / 2:g}" y="{y - 6:g}" text-anchor="middle">{label}</text>')
        for path, colour in zip(faces(cells, x, y), ("none", BLUE), strict=True):
            parts.append(f'<path d="{path}" fill="{colour}" stroke="{LINE}" stroke-width=".7"/>' if path else "")
    if len(specs) > 1:
        parts.append(f'<text x="{GAP}" y="{height - 8:g}">{LEGEND}</text>')
    body = "\n".join(filter(None, parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="What each norm averages over" font-family="sans-serif" font-size="11" '
        f'fill="{LINE}">\n{body}\n</svg>\n'
    )
