"""The scope picture: a cube of examples, channels and pixels for each norm, with what is averaged together coloured.

It is the figure of Wu and He 2018 (arXiv 1803.08494, figure 2), drawn from the specs of the table.
"""

from collections.abc import Iterator, Mapping

from normres.norms.spec import NormSpec

Cell = tuple[int, int, int]  # example, row of pixels (all of space, in one dimension), channel

EXAMPLES, PIXELS, CHANNELS = 4, 4, 6
PARTS = 2  # of the channels in groups, of the examples in sub-batches
CORNER: Cell = (0, 0, CHANNELS - 1)  # seen from the front, from above and from the right
SIDE, SLANT = 15, (7.5, 5.0)  # pixels: of a cell, and of a step into the depth
BLUE, LINE = "#56b4e9", "#808080"
GAP, TITLE = 44, 34

LEGEND = (
    "Across: channels C; down: pixels S; into the depth: examples N. "
    "Blue is averaged together with the front upper right cell."
)


def averaged_with_corner(spec: NormSpec, over: str) -> set[Cell]:
    """Returns the cells that one reduction of the spec averages together with CORNER."""
    parts = {"N": PARTS if spec.sub_batches > 1 else 1, "S": 1, "C": PARTS if spec.groups > 1 else 1}
    letters = over.replace("H", "S").replace("W", "S")
    ranges = []
    for letter, size, at in zip("NSC", (EXAMPLES, PIXELS, CHANNELS), CORNER, strict=True):
        length = size // parts[letter] if letter in letters else 1
        ranges.append(range(at // length * length, at // length * length + length))
    return {(n, s, c) for n in ranges[0] for s in ranges[1] for c in ranges[2]}


def cubes(spec: NormSpec) -> dict[str, set[Cell]]:
    """Returns what is coloured in each cube of a norm, by what the cube is of; without a reduction nothing is."""
    several = len(spec.reductions) > 1 or bool(spec.var_over)
    made = {over if several else "": averaged_with_corner(spec, over) for over in spec.reductions if over}
    if spec.var_over:
        made = {f"mean {next(iter(made))}": next(iter(made.values()))}
        made[f"variance {spec.var_over}"] = averaged_with_corner(spec, spec.var_over)
    return made or {"": set()}


def _faces(cells: set[Cell]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yields the colour and the corners of each visible square: front, top and right side of the cube."""
    dx, dy = SLANT

    def point(n: float, s: float, c: float) -> tuple[float, float]:
        return c * SIDE + n * dx, s * SIDE + (EXAMPLES - n) * dy

    def square(cell: Cell, steps: tuple[Cell, ...]) -> tuple[str, list[tuple[float, float]]]:
        corners = [point(*(at + step for at, step in zip(cell, move, strict=True))) for move in steps]
        return (BLUE if cell in cells else "none", corners)

    for s in range(PIXELS):
        for c in range(CHANNELS):
            yield square((0, s, c), ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)))
    for n in range(EXAMPLES):
        for c in range(CHANNELS):
            yield square((n, 0, c), ((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)))
        for s in range(PIXELS):
            yield square((n, s, CHANNELS - 1), ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)))


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
        # One path for each colour keeps the file small.
        faces = list(_faces(cells))
        for colour in ("none", BLUE):
            path = "".join(
                "M" + "L".join(f"{x + px:g} {y + py:g}" for px, py in corners) + "Z"
                for own, corners in faces
                if own == colour
            )
            parts.append(f'<path d="{path}" fill="{colour}" stroke="{LINE}" stroke-width=".7"/>' if path else "")
    if len(specs) > 1:
        parts.append(f'<text x="{GAP}" y="{height - 8:g}">{LEGEND}</text>')
    body = "\n".join(filter(None, parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="What each norm averages over" font-family="sans-serif" font-size="11" '
        f'fill="{LINE}">\n{body}\n</svg>\n'
    )
