"""The network as a picture: its parts in a column, and its blocks as in He et al. 2016, figure 4."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from normres.report.labels import counted
from normres.report.paper import STYLE, VARIANTS
from normres.show import table
from normres.show.count import Block, Counts, line
from normres.show.watch import Op

VERMILION, BLUE, GREEN, PINK, BLACK, ORANGE, SKY = (colour for colour, _, _ in VARIANTS)
GREY, GROUND = "#777777", "#f3f3f3"
COLOURS = {"conv": BLUE, "dense": BLUE, "norm": VERMILION, "activation": GREEN, "pool": SKY, "average": SKY}
COLOURS |= {"gate": PINK, "scale": ORANGE, "dropout": ORANGE}

LOOK = {**STYLE, "font.size": 8.5}
# Sizes are in points, 72 to the inch.
MARGIN, GAP, LINE, LETTER = 10.0, 14.0, 11.0, 4.9
WIDTH = 120.0  # of a box
KINDS = 2  # of blocks are drawn, the most frequent


def svg(counts: Counts) -> str:
    """Returns the SVG file of a network's picture; the same network gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(LOOK):
        said = "; ".join(": ".join(pair) for pair in table.order(counts))
        metadata = {"Date": None, "Title": table.headline(counts), "Description": said}
        draw(counts).savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def draw(counts: Counts) -> Figure:
    """Returns the picture of a network."""
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    blocks = counts.blocks[:KINDS]
    width = 2 * MARGIN + WIDTH + sum(2 * MARGIN + WIDTH * (2.2 if block.joint else 1.1) for block in blocks)
    title = textwrap.wrap(table.headline(counts), int(max(width, 300) / LETTER * 0.9))
    axes.text(MARGIN, MARGIN, "\n".join(title), va="top", weight="bold")
    top = MARGIN + LINE * (len(title) + 1)
    left, bottom = 2 * MARGIN + WIDTH, _network(axes, counts, top)
    for block in blocks:
        right = left + MARGIN + WIDTH * (2.2 if block.joint else 1.1)
        end = _block(axes, block, left + MARGIN + WIDTH / 2, top)
        axes.add_patch(Rectangle((left, top), right - left, end - top, color=GROUND, zorder=0))
        left, bottom = right + MARGIN, max(bottom, end)
    width, height = max(left, 300), bottom + MARGIN
    figure.set_size_inches(width / 72, height / 72)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _network(axes: Axes, counts: Counts, y: float) -> float:
    """Draws the column of parts from y on and returns where it ends; a stage of several blocks is a pile of sheets."""
    x = MARGIN + WIDTH / 2
    for index, part in enumerate(counts.parts):
        if index:
            _arrow(axes, (x, y), (x, y := y + GAP))
        blocks = counted(part.blocks, "block") if part.blocks else ""
        end = _box(axes, x, y, [part.name, blocks, line(part.single), "×".join(map(str, part.output))], BLACK)
        for sheet in range(1, min(part.blocks, 3)):
            corner = MARGIN + 2.5 * sheet, y + 2.5 * sheet
            axes.add_patch(Rectangle(corner, WIDTH, end - y, facecolor="white", edgecolor=BLACK, zorder=2 - sheet / 4))
        y = end
    return y


def _block(axes: Axes, block: Block, x: float, top: float) -> float:
    """Draws a block whose branch is centred at x and returns where it ends."""
    axes.text(x - WIDTH / 2, top + LINE, f"{counted(block.times, 'block')} (first shown)", va="center", weight="bold")
    split = top + 3 * LINE
    _arrow(axes, (x, split - LINE), (x, split + GAP))
    lead = _column(axes, block.lead, x, split + GAP)
    y = _column(axes, block.branch, x, lead)
    if block.joint:
        y, start, side = y + LINE / 2, lead - GAP / 2 if block.from_lead else split, x + 1.12 * WIDTH
        axes.plot([x, side, side], [start, start, y], color=BLACK, linewidth=1, zorder=1)
        _arrow(axes, (side, y), (x + LINE / 2, y))
        _column(axes, block.shortcut, side, start + GAP)
        if not block.shortcut:
            axes.text(side - 4, start + 2 * GAP, "identity", ha="right", va="center", color=GREY)
        axes.text(x, y, block.joint, ha="center", va="center", bbox={"boxstyle": "circle", "facecolor": "white"})
        y += LINE / 2 + GAP
        _arrow(axes, (x, y - GAP + 2), (x, y))
        y = _column(axes, block.after, x, y)
    return y + MARGIN / 2


def _column(axes: Axes, ops: Sequence[Op], x: float, y: float) -> float:
    """Draws a box for each operation from y on, an arrow after each, and returns where the last arrow ends."""
    for op in ops:
        end = _box(axes, x, y, [table.sized(op)], COLOURS.get(op.kind, GREY), 0.18)
        _arrow(axes, (x, end), (x, y := end + GAP))
    return y


def _box(axes: Axes, x: float, y: float, lines: Sequence[str], colour: str, shade: float = 0) -> float:
    """Draws a box with text, its top at y and centred at x, and returns where it ends."""
    rows = [row for text in lines for row in textwrap.wrap(text, int(WIDTH / LETTER), break_on_hyphens=False)]
    height = 8 + LINE * len(rows)
    # The colour on white paper, mixed here because a translucent box would let the shortcut's line through.
    pale = [1 - shade * (1 - channel) for channel in to_rgb(colour)]
    axes.add_patch(Rectangle((x - WIDTH / 2, y), WIDTH, height, facecolor=pale, edgecolor=colour, zorder=2))
    axes.text(x, y + height / 2, "\n".join(rows), ha="center", va="center", zorder=4)
    return y + height


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": BLACK, "shrinkA": 0, "shrinkB": 0})
