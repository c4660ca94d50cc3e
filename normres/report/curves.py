"""Error over training steps, as in figure 6 of He et al. 2015."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from normres.report.evidence import seeds_text
from normres.report.statistics import METRICS, Arm, field
from normres.report.style import (
    COLUMN_INCHES,
    DEPTH_MARKERS,
    PAGE_INCHES,
    STYLE,
    Drawing,
    literal,
    new_figure,
    percent_axis,
)
from normres.runs.results import Run

CURVE_POINTS = 160  # of a training curve; more would only blacken the panel


def training_curves(panels: Mapping[str, Sequence[Arm]]) -> Drawing:
    """Draws error over steps, thin = training, bold = test, one panel per entry of `panels`, a shared y axis.

    Each curve is the mean over the seeds that finished (or, if none did, that still run) at the steps that
    all of them have; a run that diverged is a thin curve of its own that ends in a cross.  The depth stands at the
    right end of a curve.  The y axis ends at about twice the largest final error, because the
    end of training matters more than its start.
    """
    arms = [arm for members in panels.values() for arm in members]
    last_step = max(field(run, "train.steps") for arm in arms for run in arm.runs)
    with matplotlib.rc_context(STYLE):
        columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
        rows = math.ceil(len(panels) / columns)
        # Many rows are lower, so that a page holds them.
        figure = new_figure(PAGE_INCHES if columns > 1 else COLUMN_INCHES, (2.5 if rows < 3 else 1.7) * rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        finals = [value for arm in arms for metric in METRICS for value in arm.values(metric)]
        top = percent_axis(grid[0, 0], 100 * min(1.0, max(0.05, 2 * max(finals, default=1.0))))
        # Of all panels, so that the same depth looks the same in every panel.
        depths = sorted({arm.key["model.depth"] for arm in arms})
        for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(literal(title))
            _end_labels(axes, [end for arm in members if (end := _arm_curves(axes, arm, depths, top))], top)
            axes.set_xlim(0, 1.02 * last_step)  # room for the last marker
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _steps_text(value)))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for row in grid:
            row[0].set_ylabel("error (%)")
        for axes in grid[-1]:
            axes.set_xlabel("training step")
        handles = [
            Line2D([], [], color="0.2", linewidth=0.7, label="training"),
            Line2D([], [], color="0.2", linewidth=1.8, marker="o", markeredgecolor="white", label="test"),
        ]
        if any(arm.diverged for arm in arms):
            handles.append(Line2D([], [], color="0.2", linewidth=0.7, marker="x", label="diverged"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    _, several = seeds_text(arms)
    return Drawing(
        "curves",
        figure,
        "Training and test error over training steps, one curve per depth and one panel per variant.",
        "Error over training steps; the number at the end of a curve is the depth. Thin: training error, "
        "running mean of the augmented mini-batches. Bold: test error"
        + (", both averaged over seeds." if several else ".")
        + " The vertical axis ends at about twice the largest final error, or at 100 %.",
        PAGE_INCHES,
    )


def _arm_curves(axes: Axes, arm: Arm, depths: Sequence[int], top: float) -> tuple[float, str, str] | None:
    """Draws one arm; returns (height of its end, label, colour), None if there is nothing to label."""
    position = depths.index(arm.key["model.depth"])
    label = str(depths[position])
    # Lightness falls with depth: dark is deep, in grey as well.
    colour = matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.72 * (1 - position / max(1, len(depths) - 1))))
    alive = arm.finished or arm.unfinished
    end = None
    steps, errors = _thinned(*_mean_curve(alive, "train"))
    if steps:
        axes.plot(steps, errors, color=colour, linewidth=0.7, zorder=2)
        end = (errors[-1], label, colour)
    steps, errors = _mean_curve(alive, "test")
    if steps:
        # About eight markers, at other steps for other depths, so that they do not cover each other.
        every = max(1, math.ceil(len(steps) / 8))
        markers: dict[str, Any] = {
            "marker": DEPTH_MARKERS[position % len(DEPTH_MARKERS)],
            "markevery": (position % every, every),
        }
        markers |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(steps, errors, color=colour, linewidth=1.8, zorder=3, **markers)
        end = (errors[-1], label, colour)
    for run in arm.diverged:
        steps, errors = _mean_curve([run], "train")
        if steps:
            place = (steps[-1], min(errors[-1], top))
            axes.plot(steps, errors, color=colour, linewidth=0.7)
            axes.plot(*place, "x", color=colour, markeredgewidth=1.5, clip_on=False)
            halo = [withStroke(linewidth=2, foreground="white")]  # the label lies among curves
            _label(axes, label, place, (4, -4), colour, va="top", path_effects=halo)
    return end


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
    starts = range(0, len(steps), size)
    last = [steps[min(start + size, len(steps)) - 1] for start in starts]
    return last, [fmean(values[start : start + size]) for start in starts]


def _end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]], top: float) -> None:
    """Writes each label to the right of its curve's end, moved apart where they would overlap."""
    gap = 0.065 * top
    ordered = sorted(ends)
    heights = [min(height, top) for height, _, _ in ordered]
    # Pushed upwards, and pushed downwards: the mean of both keeps the gap and stays near the ends.
    raised = accumulate(heights, lambda below, height: max(height, below + gap))
    lowered = accumulate(reversed(heights), lambda above, height: min(height, above - gap))
    for up, down, (_, label, colour) in zip(raised, reversed(list(lowered)), ordered, strict=True):
        edge = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
        _label(axes, label, (1, (up + down) / 2), (5, 0), colour, **edge)


def _label(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], colour: str, **more: Any
) -> None:
    """Writes a label beside a place, darker than its curve, because thin letters need more contrast than lines."""
    darker = tuple(0.7 * part for part in matplotlib.colors.to_rgb(colour))
    points: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(text, place, **points, fontsize=7, color=darker, **more)


def _steps_text(value: float) -> str:
    """Returns "240" or "32k"."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:.0f}"
