"""Final error against depth."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from normres.report.evidence import overfitting_note, seeds_text
from normres.report.statistics import METRICS, Arm
from normres.report.style import (
    COLUMN_INCHES,
    PAGE_INCHES,
    STYLE,
    Drawing,
    cross,
    handle,
    look,
    marker_handle,
    new_figure,
    percent_axis,
)

DEPTH = "model.depth"


def error_against_depth(
    name: str, lines: Mapping[str, Sequence[Arm]], published: Mapping[str, Mapping[int, float]]
) -> Drawing:
    """Draws final training (left) and test (right) error against depth, one line per entry of `lines`.

    Lines join the means of the seeds that finished; dashes beside a mean are its seeds, where there are
    several.  A cross at the upper edge marks an arm with diverged runs; that arm's mean, if any, is over its
    other runs.  `published` is a paper's test error in percent by line and depth, in a third panel with its own axes.
    """
    every = [arm for arms in lines.values() for arm in arms]
    with matplotlib.rc_context(STYLE):
        width, columns = (PAGE_INCHES, 3) if published else (COLUMN_INCHES, 2)
        figure = new_figure(width, 2.2)
        training = figure.add_subplot(1, columns, 1)
        test = figure.add_subplot(1, columns, 2, sharey=training)
        test.tick_params(labelleft=False)
        depths = sorted({arm.key[DEPTH] for arm in every})
        for axes, metric, title in zip((training, test), METRICS, ("training", "test"), strict=True):
            axes.set_title(title)
            for number, arms in enumerate(lines.values()):
                _line(axes, arms, metric, number)
            _depth_axis(axes, depths)
        training.set_ylabel("error (%)")
        values = [value for arm in every for metric in METRICS for value in arm.values(metric)]
        percent_axis(training, 100 * max(values, default=1.0))
        names = list(dict.fromkeys([*lines, *published]))
        if published:
            _published(figure.add_subplot(1, 3, 3), published, names)
        handles = [handle(number, label) for number, label in enumerate(names)]
        if any(arm.diverged for arm in every):
            handles.append(marker_handle("x", "diverged"))
        columns, rows = _legend_shape(handles, width)
        figure.set_figheight(2.0 + 0.15 * rows)
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4)
    seeds, several = seeds_text(every)
    return Drawing(
        name,
        figure,
        "Final training and test error against depth, one line per variant; the table has the numbers.",
        f"Error at the last step against depth, {seeds} per point"
        + (": the line joins the means, dashes are seeds" if several else "")
        + ". A cross at the upper edge marks diverged runs; means are over the runs that finished."
        + (" The panel of the paper’s numbers has its own axes." if published else "")
        + overfitting_note(lines),
        width,
    )


def _line(axes: Axes, arms: Sequence[Arm], metric: str, number: int) -> None:
    """Draws one line of error against depth."""
    colour = look(number)["color"]
    means = {arm.key[DEPTH]: 100 * summary.mean for arm in arms if (summary := arm.summary(metric))}
    if means:  # an empty line that is not clipped would have no extent, which upsets the layout
        axes.plot(list(means), list(means.values()), **look(number), zorder=3, clip_on=False)
    for arm in arms:
        seeds = [100 * value for value in arm.values(metric)]
        if len(seeds) > 1:
            # Wider than the marker of the mean, which would hide a small spread otherwise.
            dashes = {"color": colour, "markersize": 8, "markeredgewidth": 0.7}
            axes.plot([arm.key[DEPTH]] * len(seeds), seeds, "_", **dashes, zorder=2)
        if arm.diverged:
            cross(axes, arm.key[DEPTH], 1.0 - 0.06 * number, axes.get_xaxis_transform(), colour)


def _published(axes: Axes, published: Mapping[str, Mapping[int, float]], names: Sequence[str]) -> None:
    """Draws a paper's test errors, each line in the colour that it has beside."""
    axes.set_title("test, in the paper")
    for name, errors in published.items():
        depths = sorted(errors)
        own = look(names.index(name))
        hollow = {"markerfacecolor": "white", "markeredgecolor": own["color"], "markeredgewidth": 1.0}
        axes.plot(depths, [errors[depth] for depth in depths], **own | hollow, clip_on=False)
    _depth_axis(axes, sorted({depth for errors in published.values() for depth in errors}))
    percent_axis(axes, max(error for errors in published.values() for error in errors.values()))


def _depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """Puts ticks at the depths that were run, and labels those that have the room."""
    axes.set_xlabel("depth (layers)")
    if not depths:
        return
    logarithmic = depths[-1] > 8 * depths[0]
    scale: Callable[[float], float] = math.log if logarithmic else float
    span = scale(depths[-1]) - scale(depths[0]) or 1.0
    labelled = [depths[-1]]
    for depth in reversed(depths[:-1]):
        if scale(labelled[-1]) - scale(depth) > 0.12 * span:
            labelled.append(depth)
    if logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_minor_locator(FixedLocator([depth for depth in depths if depth not in labelled]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    # Set, not left to the data: every depth has its place, even if no run of it is done yet.
    room = 0.12 * span
    low, high = scale(depths[0]) - room, scale(depths[-1]) + room
    axes.set_xlim((math.exp(low), math.exp(high)) if logarithmic else (low, high))


def _legend_shape(handles: Sequence[Line2D], width: float) -> tuple[int, int]:
    """Returns the most columns, and the rows they make, with which a legend fits into `width` inches."""
    # Inches: about 0.055 per letter, 0.5 for the sample and the spaces; columns fill from top to bottom.
    widths = [0.5 + 0.055 * len(str(line.get_label())) for line in handles]
    for columns in range(len(handles), 1, -1):
        rows = math.ceil(len(handles) / columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(widths), rows)) <= width:
            return columns, rows
    return 1, len(handles)
