"""Error over training steps, as in figure 6 of He et al. 2015."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from normres.report.statistics import METRICS, Arm, field
from normres.report.style import (
    COLUMN_INCHES,
    DEPTH_MARKERS,
    PAGE_INCHES,
    STYLE,
    Drawing,
    legend_above,
    new_panels,
    percent_axis,
)
from normres.report.verdict import seeds_text
from normres.runs.results import Run

CURVE_POINTS = 160  # of a training curve; more would only blacken the panel
# How the curves of training and test error are drawn.
TRAINING: dict[str, Any] = {"linewidth": 0.7}
TEST: dict[str, Any] = {"linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.5}


@matplotlib.rc_context(STYLE)
def training_curves(panels: Mapping[str, Sequence[Arm]]) -> Drawing:
    """Draws error over steps, thin = training, bold = test, one panel per entry of `panels`, a shared y axis.

    Each curve is the mean over the seeds that finished (or, if none did, that still run) at the steps that
    all of them have; a run that diverged is a thin curve of its own that ends in a cross.  The y axis ends at about
    twice the largest final error, because the end of training matters more than its start.
    """
    arms = [arm for members in panels.values() for arm in members]
    last_step = max(field(run, "train.steps") for arm in arms for run in arm.runs)
    columns = 2 if len(panels) == 4 else 3
    figure, axes_of = new_panels(
        list(panels),
        2.3 if len(panels) <= 2 * columns else 1.7,  # many rows are lower, so that a page holds them
        columns=columns,
        x="training step",
        y="error (%)",
        width=PAGE_INCHES if len(panels) > 1 else COLUMN_INCHES,
    )
    largest = 2 * max((value for arm in arms for metric in METRICS for value in arm.values(metric)), default=1.0)
    depths = sorted({arm.network.depth for arm in arms})
    # Lightness falls with depth: dark is deep, in grey as well.  A depth looks the same in every panel.
    shades = [0.72 * (1 - number / max(1, len(depths) - 1)) for number in range(len(depths))]
    looks: list[dict[str, Any]] = [
        {"color": matplotlib.colormaps["viridis"](shade), "marker": DEPTH_MARKERS[number % len(DEPTH_MARKERS)]}
        for number, shade in enumerate(shades)
    ]
    for axes, members in zip(axes_of, panels.values(), strict=True):
        top = percent_axis(axes, min(1.0, max(0.05, largest)))
        for arm in members:
            _arm_curves(axes, arm, depths.index(arm.network.depth), looks, top)
        axes.set_xlim(0, 1.02 * last_step)  # room for the last marker
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [
        Line2D([], [], color="0.2", **look, label=label) for look, label in ((TRAINING, "training"), (TEST, "test"))
    ]
    if any(arm.diverged for arm in arms):
        handles.append(Line2D([], [], color="0.2", **TRAINING, marker="x", label="diverged"))
    handles += [
        Line2D([], [], **look, **TEST, label=f"depth {depth:,}") for look, depth in zip(looks, depths, strict=True)
    ]
    legend_above(figure, handles)
    return Drawing(
        "curves",
        figure,
        "Training and test error over training steps, one curve per depth and one panel per variant.",
        f"Error over training steps, mean over {seeds_text(arms)}. Thin: training error, running mean of the augmented "
        "mini-batches. Bold: test error. The vertical axis ends at about twice the largest final error, or at 100 %.",
    )


def _arm_curves(axes: Axes, arm: Arm, position: int, looks: Sequence[Mapping[str, Any]], top: float) -> None:
    """Draws one arm, whose depth is the one at `position`."""
    colour = looks[position]["color"]
    alive = arm.finished or arm.unfinished
    steps, errors = _thinned(*_mean_curve(alive, "train"))
    if steps:
        axes.plot(steps, errors, color=colour, **TRAINING, zorder=2)
    steps, errors = _mean_curve(alive, "test")
    if steps:
        # About eight markers, at other steps for other depths, so that they do not cover each other.
        every = max(1, math.ceil(len(steps) / 8))
        axes.plot(steps, errors, **looks[position], **TEST, markevery=(position % every, every), zorder=3)
    for run in arm.diverged:
        steps, errors = _mean_curve([run], "train")
        if steps:
            axes.plot(steps, errors, color=colour, **TRAINING)
            axes.plot(steps[-1], min(errors[-1], top), "x", color=colour, markeredgewidth=1.5, clip_on=False)


def _mean_curve(runs: Sequence[Run], split: str) -> tuple[list[int], list[float]]:
    """Returns (steps, mean error in percent) at the steps where every run has a finite value."""
    curves = []
    for run in runs:
        values = {line["step"]: line.get("error") for line in run.metrics if line["split"] == split}
        curve = {step: value for step, value in values.items() if value is not None and math.isfinite(value)}
        if curve:
            curves.append(curve)
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return shared, [100 * fmean(curve[step] for curve in curves) for step in shared]


def _thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Averages neighbours until at most CURVE_POINTS are left; each mean stands at the last of its steps."""
    size = max(1, math.ceil(len(steps) / CURVE_POINTS))
    blocks = range(size, len(steps) + size, size)
    return [steps[:end][-1] for end in blocks], [fmean(values[end - size : end]) for end in blocks]
