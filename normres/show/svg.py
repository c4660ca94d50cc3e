"""A few shapes of SVG, as text: boxes with words in them, arrows, circles.  Every number is in pixels."""

import textwrap
from collections.abc import Sequence
from xml.sax.saxutils import escape

from normres.report.style import VARIANTS

VERMILION, BLUE, GREEN, PINK, _, ORANGE, SKY = (colour for colour, _, _ in VARIANTS)
INK, QUIET, GROUND = "#111111", "#555555", "#F5F5F5"

# By the kind of a step (words.py): colour and corner radius, so that the kinds differ in grey too.
LOOKS = {
    "conv": (BLUE, 0),
    "norm": (VERMILION, 5),
    "relu": (GREEN, 12),
    "pool": (SKY, 0),
    "dropout": (ORANGE, 5),
    "scale": (ORANGE, 5),
    "gate": (PINK, 5),
    "pad": (QUIET, 0),
    "dense": (BLUE, 0),
}

FONT = 11.0
LINE = 13.0
LETTER = 0.56  # of the font's size: the mean width of a letter of a wide sans serif


def wrapped(text: str, width: float, size: float = FONT) -> list[str]:
    """Returns the text in lines that are no wider than `width`."""
    return textwrap.wrap(text, max(int(width / (LETTER * size)), 1), break_on_hyphens=False) or [""]


def phrases(text: str, width: float) -> list[str]:
    """Returns the text in lines that break after commas only, where the phrases between fit."""
    fits = all(len(phrase) < width / (LETTER * FONT) for phrase in text.split(", "))
    # A break comes at plain spaces only.
    kept = ", ".join(phrase.replace(" ", "\u00a0") for phrase in text.split(", ")) if fits else text
    return [line.replace("\u00a0", " ") for line in wrapped(kept, width)]


def document(width: float, height: float, title: str, description: str, elements: Sequence[str]) -> str:
    """Returns a whole file; `title` and `description` are what a screen reader says."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="sans-serif" font-size="{FONT:g}" fill="{INK}">'
    )
    told = [f"<title>{escape(title)}</title>", f"<desc>{escape(description)}</desc>"]
    paper = f'<rect width="{width:g}" height="{height:g}" fill="white"/>'
    return "\n".join([head, *told, paper, *elements, "</svg>"]) + "\n"


def words(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    size: float = FONT,
    fill: str = INK,
    weight: str = "normal",
) -> str:
    """Returns a line of text whose middle height is at y."""
    look = f'font-size="{size:g}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y + 0.36 * size:g}" {look}>{escape(text)}</text>'


def paragraph(x: float, y: float, lines: Sequence[str], fill: str = INK) -> list[str]:
    """Returns lines of text under each other, the first one's middle at y."""
    return [words(x, y + index * LINE, line, anchor="start", fill=fill) for index, line in enumerate(lines)]


def box_height(text: str, width: float) -> float:
    """Returns the height of a box of that width around that text."""
    return 10 + LINE * len(phrases(text, width - 8))


def box(kind: str, text: str, x: float, y: float, width: float, dashed: bool = False) -> str:
    """Returns a step's box with its text, its top at y and centred at x."""
    colour, radius = LOOKS[kind]
    height = box_height(text, width)
    where = f'x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"'
    under = f'<rect {where} fill="white"/>'
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    shape = f'<rect {where} fill="{colour}" fill-opacity="0.16" stroke="{colour}" stroke-width="1.5"{dashes}/>'
    lines = phrases(text, width - 8)
    first = y + height / 2 - LINE * (len(lines) - 1) / 2
    inside = "".join(words(x, first + index * LINE, line) for index, line in enumerate(lines))
    return f'<g class="step {kind}">{under}{shape}{inside}</g>'


def path(points: Sequence[tuple[float, float]], *, arrow: bool = True, dashed: bool = False, name: str = "") -> str:
    """Returns a line through right-angled points with rounded corners, and an arrow's head at its end."""
    (x, y), *rest = points
    d = f"M{x:g} {y:g}"
    for index, (x, y) in enumerate(rest):
        if index == len(rest) - 1:
            d += f" L{x:g} {y:g}"
            break
        before, after = points[index], rest[index + 1]
        start, end = _towards((x, y), before, 7), _towards((x, y), after, 7)
        d += f" L{start[0]:g} {start[1]:g} Q{x:g} {y:g} {end[0]:g} {end[1]:g}"
    style = ' stroke-dasharray="4 3"' if dashed else ""
    named = f' class="{name}"' if name else ""
    drawn = f'<path{named} d="{d}" fill="none" stroke="{INK}" stroke-width="1.3"{style}/>'
    return drawn + _head(points[-2], points[-1]) if arrow else drawn


def adder(x: float, y: float, radius: float) -> str:
    """Returns a circle with a plus sign."""
    arm = radius * 0.55
    plus = f"M{x - arm:g} {y:g}H{x + arm:g}M{x:g} {y - arm:g}V{y + arm:g}"
    circle = f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="white"/><path d="{plus}"/>'
    return f'<g class="adder" stroke="{INK}" stroke-width="1.5">{circle}</g>'


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    """Returns the point at `distance` from `start` on the way to `end`, or half way if that is nearer."""
    across, down = end[0] - start[0], end[1] - start[1]
    length = abs(across) + abs(down) or 1.0
    share = min(distance / length, 0.5)
    return start[0] + share * across, start[1] + share * down


def _head(before: tuple[float, float], tip: tuple[float, float]) -> str:
    """Returns an arrow's head at `tip`, seen from `before`."""
    (back_x, back_y), (x, y) = _towards(tip, before, 6), tip
    wide_x, wide_y = (0.0, 3.2) if back_y == y else (3.2, 0.0)
    corners = (f"{back_x + wide_x:g},{back_y + wide_y:g}", f"{back_x - wide_x:g},{back_y - wide_y:g}")
    return f'<polygon points="{x:g},{y:g} {corners[0]} {corners[1]}" fill="{INK}"/>'
