"""A few shapes of SVG, as text.  Every number is in pixels; colours are for light pages, and change on dark ones."""

import textwrap
from collections.abc import Sequence
from xml.sax.saxutils import escape

FONT = 11.0
LINE = 13.0
LETTER = 0.56  # of the font's size: the mean width of a letter of a wide sans serif

# Okabe and Ito's colours by kind of operation, and a corner radius, so that the kinds differ in grey too.
LOOKS = {
    "conv": ("#0072B2", 0),
    "dense": ("#0072B2", 0),
    "norm": ("#D55E00", 5),
    "activation": ("#009E73", 12),
    "pool": ("#56B4E9", 0),
    "average": ("#56B4E9", 0),
    "gate": ("#CC79A7", 5),
    "scale": ("#E69F00", 5),
    "dropout": ("#E69F00", 5),
}
OTHER = ("#808080", 0)

# What a class of elements looks like on a light page and on a dark one: fill, stroke.
CLASSES = {
    "paper": (("white", "none"), ("#16181c", "none")),
    "ground": (("#f3f3f3", "none"), ("#24272d", "none")),
    "sheet": (("white", "#111111"), ("#16181c", "#e8e8e8")),
    "line": (("none", "#111111"), ("none", "#e8e8e8")),
    "head": (("#111111", "none"), ("#e8e8e8", "none")),
    "cell": (("white", "#808080"), ("#16181c", "#808080")),
    "cell on": (("#e89b66", "#808080"), ("#b04e00", "#808080")),
    "ink": (("#111111", "none"), ("#e8e8e8", "none")),
    "quiet": (("#555555", "none"), ("#a8a8a8", "none")),
}


def document(width: float, height: float, title: str, description: str, elements: Sequence[str]) -> str:
    """Returns a whole file; `title` and `description` are what a screen reader says."""
    dark = "".join(
        f".{name.replace(' ', '.')}{{fill:{fill};stroke:{stroke}}}" for name, (_, (fill, stroke)) in CLASSES.items()
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="sans-serif" font-size="{FONT:g}">'
    )
    told = [f"<title>{escape(title)}</title>", f"<desc>{escape(description)}</desc>"]
    style = f"<style>@media (prefers-color-scheme: dark) {{{dark}}}</style>"
    return "\n".join([head, *told, style, rectangle(0, 0, width, height, "paper"), *elements, "</svg>"]) + "\n"


def look(name: str) -> str:
    """Returns the attributes of a class, as on a light page."""
    fill, stroke = CLASSES[name][0]
    return f'class="{name}" fill="{fill}" stroke="{stroke}"'


def rectangle(x: float, y: float, width: float, height: float, name: str, radius: float = 0) -> str:
    """Returns a rectangle of a class."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" {look(name)}/>'


def polygon(points: Sequence[tuple[float, float]], name: str) -> str:
    """Returns a polygon of a class."""
    corners = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polygon points="{corners}" stroke-width="0.6" {look(name)}/>'


def wrapped(text: str, width: float) -> list[str]:
    """Returns the text in lines that are no wider than `width`."""
    return textwrap.wrap(text, max(int(width / (LETTER * FONT)), 1), break_on_hyphens=False) or [""]


def words(x: float, y: float, text: str, anchor: str = "middle", weight: str = "normal", name: str = "ink") -> str:
    """Returns a line of text whose middle height is at y."""
    where = f'x="{x:g}" y="{y + 0.36 * FONT:g}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {where} {look(name)}>{escape(text)}</text>"


def paragraph(x: float, y: float, lines: Sequence[str], **options: str) -> list[str]:
    """Returns lines of text under each other, the first one's middle at y."""
    return [words(x, y + index * LINE, line, **options) for index, line in enumerate(lines)]


def box_height(text: str, width: float) -> float:
    """Returns the height of a box of that width around that text."""
    return 10 + LINE * len(wrapped(text, width - 8))


def box(kind: str, text: str, x: float, y: float, width: float) -> str:
    """Returns an operation's box with its text, its top at y and centred at x."""
    colour, radius = LOOKS.get(kind, OTHER)
    height, left = box_height(text, width), x - width / 2
    under = rectangle(left, y, width, height, "paper", radius)
    where = f'x="{left:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"'
    shape = f'<rect {where} fill="{colour}" fill-opacity="0.18" stroke="{colour}" stroke-width="1.5"/>'
    inside = paragraph(x, y + 5 + LINE / 2, wrapped(text, width - 8))
    return f'<g class="op {kind}">{under}{shape}{"".join(inside)}</g>'


def arrow(points: Sequence[tuple[float, float]]) -> str:
    """Returns a line through right-angled points with an arrow's head at its end."""
    (before_x, before_y), (x, y) = points[-2:]
    across, down = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    back_x, back_y = x - 6 * across, y - 6 * down
    wings = [(back_x - 3.2 * down, back_y - 3.2 * across), (back_x + 3.2 * down, back_y + 3.2 * across)]
    path = " ".join(f"{px:g},{py:g}" for px, py in (*points[:-1], (back_x, back_y)))
    return f'<polyline points="{path}" stroke-width="1.3" {look("line")}/>' + polygon([(x, y), *wings], "head")


def circle(x: float, y: float, radius: float, text: str) -> str:
    """Returns a circle around a sign."""
    return f'<g class="joint"><circle cx="{x:g}" cy="{y:g}" r="{radius:g}" {look("sheet")}/>{words(x, y, text)}</g>'
