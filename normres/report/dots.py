"""Final error of many variants side by side, as dots on a line each: longer names and more rows than bars can bear."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normres.report.statistics import Arm
from normres.report.style import METRICS, PAGE_INCHES, STYLE, VARIANTS, literal, new_figure

COLUMNS = 3  # panels side by side; more would leave no width for a difference to be seen

# Fill, marker and colour of training and test error: an open and a filled marker, told apart in grey.
_SPLITS = {"train_error": ("white", "s", VARIANTS[0][0]), "test_error": (VARIANTS[1][0], "o", VARIANTS[1][0])}


def error_per_variant(
    panels: Mapping[str, Mapping[str, Arm]], published: Mapping[str, Mapping[str, float | str]], names: Sequence[str]
) -> Figure:
    """Draws one row per variant of `names` and one panel per network.

    Args:
      panels: by the panel's title, the arm of each variant.  The mean of the seeds that finished is a dot, the seeds
        are dashes; a cross at the right edge marks an arm with diverged runs.
      published: by network, a paper's test error of each variant in percent, or a word such as "fail", which is
        written at the right edge; all in one last panel with an axis of its own.
      names: the variants from top to bottom.
    """
    with matplotlib.rc_context(STYLE):
        count = len(panels) + bool(published)
        columns = max(1, min(COLUMNS, count))
        rows = math.ceil(count / columns)
        figure = new_figure(PAGE_INCHES, rows * (0.75 + 0.17 * len(names)) + 0.3)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        own = list(grid.flat[: len(panels)])
        for axes, (title, arms) in zip(own, panels.items(), strict=True):
            axes.set_title(literal(title))
            _rows(axes, names)
            _arms(axes, arms, names)
            axes.set_xlabel("error (%)")
        for axes in own[1:]:
            axes.sharex(own[0])
        if own:
            _limits(own, [100 * value for arms in panels.values() for arm in arms.values() for value in _values(arm)])
        handles = [
            Line2D([], [], linestyle="none", marker=m, markerfacecolor=f, markeredgecolor=c, label=label)
            for (f, m, c), label in zip(_SPLITS.values(), ("training", "test"), strict=True)
        ]
        if any(arm.diverged for arms in panels.values() for arm in arms.values()):
            handles.append(Line2D([], [], linestyle="none", marker="x", color="0.2", label="diverged"))
        if published:
            axes = grid.flat[len(panels)]
            axes.set_title("test error in the paper")
            _rows(axes, names)
            handles += _published(axes, published, names)
            axes.set_xlabel("error (%)")
        for axes in grid.flat[count:]:
            axes.set_axis_off()
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
        return figure


def _values(arm: Arm) -> list[float]:
    return [value for metric in METRICS for value in arm.values(metric)]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names the rows, the first on top, and rules a faint line along each."""
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _limits(panels: Sequence[Axes], values: Sequence[float]) -> None:
    """Gives the panels one x axis that holds all values, with room for the crosses at its right end."""
    low, high = (min(values), max(values)) if values else (0.0, 100.0)
    room = 0.1 * (high - low) or 1.0
    panels[0].set_xlim(max(0.0, low - room), high + 1.5 * room)


def _arms(axes: Axes, arms: Mapping[str, Arm], names: Sequence[str]) -> None:
    """Draws every arm in its row."""
    for row, name in enumerate(names):
        if (arm := arms.get(name)) is None:
            continue
        for metric, (face, marker, colour) in _SPLITS.items():
            values = [100 * value for value in arm.values(metric)]
            if len(values) > 1:
                # Taller than the marker of the mean, which would hide a small spread otherwise.
                axes.plot(values, [row] * len(values), "|", color=colour, markersize=8, markeredgewidth=0.7, zorder=2)
            if summary := arm.summary(metric):
                axes.plot(100 * summary.mean, row, marker, markerfacecolor=face, markeredgecolor=colour, zorder=3)
        if arm.diverged:
            _edge(axes, row, "x", "0.2")


def _published(axes: Axes, published: Mapping[str, Mapping[str, float | str]], names: Sequence[str]) -> list[Line2D]:
    """Draws the papers' errors and returns what explains their markers."""
    handles = []
    shift = (
        0.16 if len(published) > 1 else 0.0
    )  # rows of several networks, so that equal numbers do not hide each other
    for number, (network, errors) in enumerate(published.items()):
        colour, marker, _ = VARIANTS[(number + 2) % len(VARIANTS)]
        style: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": colour}
        height = shift * (2 * number / max(1, len(published) - 1) - 1)
        for row, name in enumerate(names):
            error = errors.get(name)
            if isinstance(error, str):
                place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right"}
                place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # hides the row's line
                axes.text(1.0, row + height, literal(error), fontsize=6.5, color="0.35", style="italic", **place)
            elif error is not None:
                axes.plot(error, row + height, marker, **style, zorder=3)
        label = f"paper, {network}"
        handles.append(Line2D([], [], linestyle="none", marker=marker, label=literal(label), **style))
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.18 * (high - low))  # room for the words
    return handles


def _edge(axes: Axes, row: float, marker: str, colour: str) -> None:
    """Draws a marker at the right edge, which stretches the axis for nobody."""
    axes.plot(
        1.0,
        row,
        marker,
        color=colour,
        markersize=5,
        markeredgewidth=1.3,
        transform=axes.get_yaxis_transform(),
        clip_on=False,
        zorder=4,
    )
