"""Error over training steps, as in figure 6 of He et al. 2015."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from normres.report.statistics import Arm, final
from normres.report.style import (
    COLUMN_INCHES,
    DEPTH_MARKERS,
    METRICS,
    PAGE_INCHES,
    STYLE,
    literal,
    new_figure,
    percent_axis,
)
from normres.runs.results import Run

CURVE_POINTS = 160  # of a training curve; more would only blacken the panel


def training_curves(
    panels: Mapping[str, Sequence[Arm]], *, label: Callable[[Arm], str], steps: int | None = None
) -> Figure:
    """Draws error over steps, thin = training, bold = test, one panel per entry of `panels`, a shared y axis.

    Each curve is the mean over the seeds that finished (or, if none did, that still run) at the steps that
    all of them have; a run that diverged is a thin curve of its own that ends in a cross.  `label` names an
    arm at the right end of its curve.  `steps` is where the x axis ends, by default the last logged step; the
    y axis is cut above twice the largest final error, so that the end, not the start, fills the panel.
    """
    with matplotlib.rc_context(STYLE):
        columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
        rows = math.ceil(max(1, len(panels)) / max(1, columns))
        # Many rows are lower, so that a page holds them.
        figure = new_figure(PAGE_INCHES if columns > 1 else COLUMN_INCHES, (2.5 if rows < 3 else 1.7) * rows)
        grid = figure.subplots(rows, max(1, columns), sharey=True, squeeze=False)
        top = percent_axis(grid[0, 0], _top_of_curves(_all(panels)))
        # Numbers of curves are given to labels, so that the same depth looks the same in every panel.
        names = list(dict.fromkeys(label(arm) for arm in sorted(_all(panels), key=lambda a: _natural(label(a)))))
        for axes, (title, arms) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(literal(title))
            ends = [end for arm in arms if (end := _arm_curves(axes, arm, label(arm), names, top)) is not None]
            last = steps or max([1.0, *(line.get_xdata()[-1] for line in axes.lines)])
            axes.set_xlim(0, 1.02 * last)  # room for the last marker
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _steps_text(value)))
            _end_labels(axes, ends, top)
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
        if any(arm.diverged for arm in _all(panels)):
            handles.append(Line2D([], [], color="0.2", linewidth=0.7, marker="x", label="diverged"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _arm_curves(axes: Axes, arm: Arm, name: str, names: Sequence[str], top: float) -> tuple[float, str, str] | None:
    """Draws one arm; returns (height of its end, label, colour), None if there is nothing to label."""
    position = names.index(name)
    # Lightness falls with depth: dark is deep, in grey as well.
    colour = matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.72 * (1 - position / max(1, len(names) - 1))))
    alive = arm.finished or arm.unfinished
    end = None
    for split, width, marker in (
        ("train", 0.7, ""),
        ("test", 1.8, DEPTH_MARKERS[position % len(DEPTH_MARKERS)]),
    ):
        steps, errors = _thinned(*_mean_curve(alive, split)) if split == "train" else _mean_curve(alive, split)
        if steps:
            # Eight markers or so, at other steps for other depths, so that they do not cover each other.
            every = max(1, math.ceil(len(steps) / 8))
            axes.plot(
                steps,
                errors,
                color=colour,
                linewidth=width,
                marker=marker,
                markevery=(position % every, every),
                markeredgecolor="white",
                markeredgewidth=0.5,
                zorder=3 if marker else 2,
            )
            end = (errors[-1], name, colour)
    for run in arm.diverged:
        steps, errors = _mean_curve([run], "train")
        if steps:
            place = (steps[-1], min(errors[-1], top))
            axes.plot(steps, errors, color=colour, linewidth=0.7)
            axes.plot(*place, "x", color=colour, markeredgewidth=1.5, clip_on=False)
            axes.annotate(
                literal(name),
                place,
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                fontsize=7,
                color=_darker(colour),
                path_effects=[withStroke(linewidth=2, foreground="white")],  # it lies among curves
            )
    return end


def _mean_curve(runs: Sequence[Run], split: str) -> tuple[list[int], list[float]]:
    """Returns (steps, mean error in percent) at the steps where every run has a finite value."""
    curves = []
    for run in runs:
        steps, values = run.series(split, "error")
        curve = {s: v for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)}
        if curve:
            curves.append(curve)
    if not curves:
        return [], []
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return shared, [100 * sum(curve[step] for curve in curves) / len(curves) for step in shared]


def _thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Averages neighbours until at most CURVE_POINTS are left; each mean stands at the last of its steps."""
    size = math.ceil(len(steps) / CURVE_POINTS)
    starts = range(0, len(steps), size) if size > 1 else range(0)
    if not starts:
        return steps, values
    blocks = [(steps[start : start + size], values[start : start + size]) for start in starts]
    return [block[-1] for block, _ in blocks], [sum(block) / len(block) for _, block in blocks]


def _end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]], top: float) -> None:
    """Writes each label to the right of its curve's end, moved apart where they would overlap."""
    gap = 0.065 * top
    ordered = sorted(ends)
    heights = [min(height, top) for height, _, _ in ordered]
    # Pushed upwards, and pushed downwards: the mean of both keeps the gap and stays near the ends.
    raised = accumulate(heights, lambda below, height: max(height, below + gap))
    lowered = accumulate(reversed(heights), lambda above, height: min(height, above - gap))
    for up, down, (_, name, colour) in zip(raised, reversed(list(lowered)), ordered, strict=True):
        position = (up + down) / 2
        axes.annotate(
            literal(name),
            (1, position),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=_darker(colour),
            annotation_clip=False,
        )


def _darker(colour: str) -> tuple[float, ...]:
    """Returns the colour for text: thin letters need more contrast than lines."""
    return tuple(0.7 * part for part in matplotlib.colors.to_rgb(colour))


def _top_of_curves(arms: Sequence[Arm]) -> float:
    """Returns where to cut the y axis, in percent."""
    finals = [
        value for arm in arms for run in arm.finished for metric in METRICS if (value := final(run, metric)) is not None
    ]
    return 100 * min(1.0, max(0.05, 2 * max(finals))) if finals else 100.0


def _all(panels: Mapping[str, Sequence[Arm]]) -> list[Arm]:
    """Returns the arms of every panel."""
    return [arm for arms in panels.values() for arm in arms]


def _natural(text: str) -> tuple[int, str]:
    """Returns a key that sorts "8" before "14"."""
    return (int(text), "") if text.isdecimal() else (0, text)


def _steps_text(value: float) -> str:
    """Returns "240" or "32k"."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:.0f}"
