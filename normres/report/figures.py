"""Final error against depth."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from normres.report.statistics import Arm
from normres.report.style import (
    COLUMN_INCHES,
    METRICS,
    PAGE_INCHES,
    STYLE,
    VARIANTS,
    literal,
    new_figure,
    percent_axis,
)


def error_against_depth(
    lines: Mapping[str, Sequence[Arm]],
    *,
    field: str = "model.depth",
    published: Mapping[str, Mapping[int, float]] | None = None,
) -> Figure:
    """Draws final training (left) and test (right) error against depth, one line per entry of `lines`.

    Lines join the means of the seeds that finished; dashes beside a mean are its seeds, where there are
    several.  A cross at the upper edge marks an arm with diverged runs; that arm's mean, if any, is over its
    other runs.  `published` is a paper's test error in percent by line and depth, in a third panel with its own axes.
    """
    with matplotlib.rc_context(STYLE):
        width = PAGE_INCHES if published else COLUMN_INCHES
        figure = new_figure(width, 2.2)
        panels = [figure.add_subplot(1, 3 if published else 2, 1)]
        panels.append(figure.add_subplot(1, 3 if published else 2, 2, sharey=panels[0]))
        panels[1].tick_params(labelleft=False)
        depths = sorted({arm.key[field] for arms in lines.values() for arm in arms})
        for axes, metric, title in zip(panels, METRICS, ("training", "test"), strict=True):
            axes.set_title(title)
            axes.set_xlabel("depth (layers)")
            for number, arms in enumerate(lines.values()):
                _depth_line(axes, arms, metric, field, number)
            _depth_axis(axes, depths)
        panels[0].set_ylabel("error (%)")
        errors = [
            100 * value for arms in lines.values() for arm in arms for metric in METRICS for value in arm.values(metric)
        ]
        percent_axis(panels[0], max(errors, default=100.0))
        names = list(dict.fromkeys([*lines, *(published or {})]))
        if published:
            _published(figure.add_subplot(1, 3, 3), published, names)
        handles = [_handle(number, label) for number, label in enumerate(names)]
        if any(arm.diverged for arms in lines.values() for arm in arms):
            handles.append(Line2D([], [], linestyle="none", marker="x", color="0.2", label="diverged"))
        columns, rows = _legend_shape(handles, width)
        figure.set_figheight(2.0 + 0.15 * rows)
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4)
        return figure


def _published(axes: Axes, published: Mapping[str, Mapping[int, float]], names: Sequence[str]) -> None:
    """Draws a paper's test errors, each line in the colour that it has beside."""
    axes.set_title("test, in the paper")
    axes.set_xlabel("depth (layers)")
    for name, errors in published.items():
        colour, marker, dashes = VARIANTS[names.index(name) % len(VARIANTS)]
        places = sorted(errors)
        heights = [errors[depth] for depth in places]
        axes.plot(
            places, heights, color=colour, marker=marker, linestyle=dashes, markerfacecolor="white", clip_on=False
        )
    _depth_axis(axes, sorted({depth for errors in published.values() for depth in errors}))
    percent_axis(axes, max(error for errors in published.values() for error in errors.values()))


def _depth_line(axes: Axes, arms: Sequence[Arm], metric: str, field: str, number: int) -> None:
    """Draws one line of error against depth."""
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    drawn = [(arm.key[field], summary.mean) for arm in arms if (summary := arm.summary(metric))]
    if drawn:  # an empty line that is not clipped would have no extent, which upsets the layout
        axes.plot(
            [depth for depth, _ in drawn],
            [100 * mean for _, mean in drawn],
            color=colour,
            marker=marker,
            linestyle=dashes,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
            clip_on=False,
        )
    for arm in arms:
        values = arm.values(metric)
        if len(values) > 1:
            seeds = [100 * value for value in values]
            # Wider than the marker of the mean, which would hide a small spread otherwise.
            depths = [arm.key[field]] * len(seeds)
            axes.plot(depths, seeds, "_", color=colour, markersize=8, markeredgewidth=0.7, zorder=2)
        if arm.diverged:
            # In axes coordinates, because the error of a diverged net would stretch the scale for all others.
            edge = 1.0 - 0.06 * number
            axes.plot(
                arm.key[field],
                edge,
                "x",
                color=colour,
                markersize=5,
                markeredgewidth=1.5,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=4,
            )


def _depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """Puts ticks at the depths that were run, and labels those that have the room."""
    if not depths:
        return
    logarithmic = depths[-1] > 8 * depths[0]
    if logarithmic:
        axes.set_xscale("log")
    scale: Callable[[float], float] = math.log if logarithmic else float
    span = scale(depths[-1]) - scale(depths[0]) or 1.0
    labelled = [depths[-1]]
    for depth in reversed(depths[:-1]):
        if scale(labelled[-1]) - scale(depth) > 0.12 * span:
            labelled.append(depth)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_minor_locator(FixedLocator([depth for depth in depths if depth not in labelled]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    # Set, not left to the data: every depth has its place, even if no run of it is done yet.
    if logarithmic:
        room = (depths[-1] / depths[0]) ** 0.12
        axes.set_xlim(depths[0] / room, depths[-1] * room)
    else:
        axes.set_xlim(depths[0] - 0.12 * span, depths[-1] + 0.12 * span)


def _handle(number: int, label: str) -> Line2D:
    """Returns the legend's sample of a line."""
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        linestyle=dashes,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=literal(label),
    )


def _legend_shape(handles: Sequence[Line2D], width: float) -> tuple[int, int]:
    """Returns the most columns, and the rows they make, with which a legend fits into `width` inches."""
    # Inches: about 0.055 per letter, 0.5 for the sample and the spaces; columns fill from top to bottom.
    widths = [0.5 + 0.055 * len(str(handle.get_label())) for handle in handles]
    for columns in range(len(handles), 1, -1):
        rows = math.ceil(len(handles) / columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(widths), rows)) <= width:
            return columns, rows
    return 1, len(handles)
