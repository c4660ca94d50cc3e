"""Error against depth, and test error against the severity of corruptions: lines of means, one per variant."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes

from normres.report.statistics import METRICS, Arm
from normres.report.style import (
    COLUMN_INCHES,
    PAGE_INCHES,
    STYLE,
    Drawing,
    cross,
    handle,
    legend_above,
    look,
    marker_handle,
    new_panels,
    percent_axis,
)
from normres.report.verdict import overfitting_note, seeds_text

SHIFT = 0.07  # severities between neighbouring lines, so that their seeds do not hide each other


@matplotlib.rc_context(STYLE)
def error_against_depth(
    name: str, lines: Mapping[str, Sequence[Arm]], published: Mapping[str, Mapping[int, float]]
) -> Drawing:
    """Draws final training (left) and test (right) error against depth, one line per entry of `lines`.

    Lines join the means of the seeds that finished; dashes beside a mean are its seeds, where there are
    several.  A cross at the upper edge marks an arm with diverged runs; that arm's mean, if any, is over its
    other runs.  `published` is a paper's test error in percent by line and depth, in a third panel with its own axes.
    """
    every = [arm for arms in lines.values() for arm in arms]
    titles = ["training", "test", *["test, in the paper"] * bool(published)]
    width = PAGE_INCHES if published else COLUMN_INCHES
    figure, panels = new_panels(titles, 2.0, x="depth (layers)", y="error (%)", width=width, sharey=False)
    panels[1].sharey(panels[0])
    panels[1].tick_params(labelleft=False)
    for axes, metric in zip(panels, METRICS, strict=False):
        for number, arms in enumerate(lines.values()):
            _line(axes, number, {arm.network.depth: arm.values(metric) for arm in arms})
            for arm in arms:
                if arm.diverged:
                    edge = axes.get_xaxis_transform()
                    cross(axes, arm.network.depth, 1.0 - 0.06 * number, edge, look(number)["color"])
        _depth_axis(axes, sorted({arm.network.depth for arm in every}))
    percent_axis(
        panels[0], max((value for arm in every for metric in METRICS for value in arm.values(metric)), default=1)
    )
    names = list(dict.fromkeys([*lines, *published]))
    if published:
        # In the colours that the variants have beside.
        for label, errors in published.items():
            _line(
                panels[2], names.index(label), {depth: [errors[depth] / 100] for depth in sorted(errors)}, hollow=True
            )
        _depth_axis(panels[2], sorted({depth for errors in published.values() for depth in errors}))
        percent_axis(panels[2], max(error for errors in published.values() for error in errors.values()) / 100)
    handles = [handle(number, label) for number, label in enumerate(names)]
    legend_above(figure, handles + [marker_handle("x", "diverged")] * any(arm.diverged for arm in every))
    return Drawing(
        name,
        figure,
        "Final training and test error against depth, one line per variant; the table has the numbers.",
        f"Error at the last step against depth (on a logarithmic axis), {seeds_text(every)} per point: the line joins "
        "the means, dashes are the seeds where there are several. A cross at the upper edge marks diverged runs; means "
        "are over the runs that finished."
        + (" The panel of the paper’s numbers has its own axes." if published else "")
        + overfitting_note(lines),
    )


@matplotlib.rc_context(STYLE)
def error_against_severity(name: str, panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Drawing:
    """Draws test error against severity, 0 being clean, a panel per corruption.

    Args:
      name: of the files.
      panels: by corruption and variant, the test errors of each seed: clean, then at each severity.  A line joins the
        means; where there are several seeds, dashes are these.
    """
    figure, axes_of = new_panels(list(panels), 1.75, x="severity", y="test error (%)")
    curves = [curve for lines in panels.values() for seeds in lines.values() for curve in seeds]
    lowest, highest = (end((error for curve in curves for error in curve), default=1.0) for end in (min, max))
    last = max((len(curve) for curve in curves), default=6) - 1
    names = list(dict.fromkeys(variant for lines in panels.values() for variant in lines))
    for axes, lines in zip(axes_of, panels.values(), strict=True):
        for number, seeds in enumerate(lines.values()):
            shift = SHIFT * (number - (len(names) - 1) / 2)
            _line(
                axes, number, {severity + shift: errors for severity, errors in enumerate(zip(*seeds, strict=True))}, 4
            )
        # Errors far from zero are compared over their own range.
        percent_axis(axes, highest, lowest if lowest > highest / 3 else 0.0)
        axes.set_xticks(range(last + 1), ["clean", *map(str, range(1, last + 1))])
        axes.set_xlim(-0.35, last + 0.35)
    legend_above(figure, [handle(number, variant) for number, variant in enumerate(names)])
    return Drawing(
        name,
        figure,
        "Test error against the severity of each corruption, one line per variant; the table has the means.",
        "Test error against severity: the line joins the means, dashes are the seeds where there are several. "
        "Contrast, brightness, blur and noise are those of CIFAR-10-C, color cast is our own. The vertical axis may "
        "begin above zero. Lines are shifted a little so that they do not hide each other.",
    )


def _line(
    axes: Axes, number: int, errors: Mapping[float, Sequence[float]], dash: float = 8, *, hollow: bool = False
) -> None:
    """Draws the line of the variant with this number through the means over seeds of the errors at each place.

    Seeds are dashes of `dash` points: wider than the marker of the mean, which would hide a small spread otherwise.
    """
    own = look(number)
    if hollow:
        own |= {"markerfacecolor": "white", "markeredgecolor": own["color"], "markeredgewidth": 1.0}
    means = {place: 100 * fmean(seeds) for place, seeds in errors.items() if seeds}
    if means:  # an empty line that is not clipped would have no extent, which upsets the layout
        axes.plot(list(means), list(means.values()), **own, zorder=3, clip_on=False)
    for place, seeds in errors.items():
        if len(seeds) > 1:
            dashes = {"color": own["color"], "markersize": dash, "markeredgewidth": 0.7}
            axes.plot([place] * len(seeds), [100 * seed for seed in seeds], "_", **dashes, zorder=2)


def _depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """Puts ticks at the depths that were run, on a logarithmic axis, and labels those that have the room."""
    axes.set_xscale("log")
    room = max(2.0, depths[-1] / depths[0]) ** 0.12
    labelled = [depths[-1]]
    for depth in reversed(depths[:-1]):
        if labelled[-1] > room * depth:
            labelled.append(depth)
    others = [depth for depth in depths if depth not in labelled]
    axes.set_xticks(labelled, list(map(str, labelled)))
    axes.set_xticks(others, [""] * len(others), minor=True)
    # Set, not left to the data: every depth has its place, even if no run of it is done yet.
    axes.set_xlim(depths[0] / room, depths[-1] * room)
