"""A norm's axes as a cube of N, C and positions, in which what shares a mean is coloured (Wu, He 2018, figure 2)."""

from collections.abc import Sequence
from itertools import product

from normres.show import svg

CHANNELS, POSITIONS, EXAMPLES = 6, 4, 4
CELL, BACK, UP = 9.0, 5.0, 4.5  # a cell's side, and what an example further back is shifted by
WIDTH = CHANNELS * CELL + EXAMPLES * BACK
HEIGHT = POSITIONS * CELL + EXAMPLES * UP


def cube(axes: Sequence[str], x: float, y: float) -> list[str]:
    """Returns the cube of a mean over `axes` ("N", "H", "W", "C/8", ...) whose top left is at (x, y)."""
    channels = CHANNELS if "C" in axes else 2 if any(axis.startswith("C/") for axis in axes) else 1
    examples = EXAMPLES if "N" in axes else 2 if any(axis.startswith("N/") for axis in axes) else 1
    rows = POSITIONS if {"H", "W"} & set(axes) else 1

    def cell(corner: tuple[int, int, int], first: int, second: int) -> str:
        """Returns a square of the cube's surface: from its corner (channel, row, example) along two of the three."""
        channel, row, example = corner
        coloured = channel >= CHANNELS - channels and row < rows and example < examples
        points = []
        for along in ((), (first,), (first, second), (second,)):
            c, r, e = (place + (axis in along) for axis, place in enumerate(corner))
            points.append((x + c * CELL + e * BACK, y + EXAMPLES * UP + r * CELL - e * UP))
        return svg.polygon(points, "cell on" if coloured else "cell")

    front = [cell((c, r, 0), 0, 1) for c, r in product(range(CHANNELS), range(POSITIONS))]
    right = [cell((CHANNELS, r, e), 1, 2) for r, e in product(range(POSITIONS), range(EXAMPLES))]
    top = [cell((c, 0, e), 0, 2) for c, e in product(range(CHANNELS), range(EXAMPLES))]
    bottom = y + HEIGHT
    named = next((axis for axis in "HW" if axis in axes and not {"H", "W"} <= set(axes)), "H, W")
    return [
        *front,
        *right,
        *top,
        svg.words(x - 4, bottom - POSITIONS * CELL / 2, named, anchor="end"),
        svg.words(x + CHANNELS * CELL / 2, bottom + 8, "C"),
        svg.words(x + WIDTH - BACK, bottom - 2, "N", anchor="start"),
    ]
