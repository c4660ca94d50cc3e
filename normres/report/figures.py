"""Drawings of runs: error against depth, and error over training steps."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from normres.report.statistics import Arm, final
from normres.report.style import (
    COLUMN_INCHES,
    DEPTH_MARKERS,
    PAGE_INCHES,
    STYLE,
    VARIANTS,
    literal,
    new_figure,
)
from normres.results import Run

METRICS = ("train_error", "test_error")
CURVE_POINTS = 160  # of a training curve; more would only blacken the panel


def error_against_depth(lines: Mapping[str, Sequence[Arm]], *, field: str = "model.depth") -> Figure:
    """Draws final training (left) and test (right) error against depth, one line per entry of `lines`.

    Lines join the means of the seeds that finished; dashes beside a mean are its seeds, where there are several.
    A cross at the upper edge marks an arm with diverged runs; that arm's mean, if any, is over its other runs.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(COLUMN_INCHES, 2.15)
        panels = figure.subplots(1, 2, sharey=True)
        depths = sorted({arm.key[field] for arms in lines.values() for arm in arms})
        for axes, metric, title in zip(panels, METRICS, ("training", "test"), strict=True):
            axes.set_title(title)
            axes.set_xlabel("depth (layers)")
            for number, arms in enumerate(lines.values()):
                _depth_line(axes, arms, metric, field, number)
            _depth_axis(axes, depths)
        panels[0].set_ylabel("error (%)")
        errors = [100 * value for arm in _all(lines) for metric in METRICS for value in arm.values(metric)]
        _percent_axis(panels[0], max(errors, default=100.0))
        handles = [_handle(number, label) for number, label in enumerate(lines)]
        if any(arm.diverged for arm in _all(lines)):
            handles.append(Line2D([], [], linestyle="none", marker="x", color="0.2", label="diverged"))
        # About 0.06 inches per letter and 0.6 for the sample and the space.
        entry = 0.6 + 0.06 * max((len(label) for label in lines), default=0)
        columns = max(1, min(len(handles), int(COLUMN_INCHES / entry)))
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)
        return figure


def _depth_line(axes: Axes, arms: Sequence[Arm], metric: str, field: str, number: int) -> None:
    """Draws one line of error against depth."""
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    drawn = [(arm.key[field], summary.mean) for arm in arms if (summary := arm.summary(metric))]
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
            axes.plot(depths, seeds, "_", color=colour, markersize=9, markeredgewidth=0.8, zorder=2)
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
    axes.margins(x=0.12)


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


def training_curves(
    panels: Mapping[str, Sequence[Arm]], *, label: Callable[[Arm], str], steps: int | None = None
) -> Figure:
    """Draws error over steps, thin = training, bold = test, one panel per entry of `panels`, a shared y axis.

    Each curve is the mean over an arm's seeds at the steps that all of them have; a run that diverged is a thin
    curve of its own that ends in a cross.  `label` names an arm at the right end of its curve.  The y axis is cut
    above twice the largest final error, so that the end, not the start, fills the panel.
    """
    with matplotlib.rc_context(STYLE):
        columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
        rows = math.ceil(max(1, len(panels)) / max(1, columns))
        figure = new_figure(PAGE_INCHES if columns > 1 else COLUMN_INCHES, 2.5 * rows)
        grid = figure.subplots(rows, max(1, columns), sharey=True, squeeze=False)
        top = _percent_axis(grid[0, 0], _top_of_curves(_all(panels)))
        # Numbers of curves are given to labels, so that the same depth looks the same in every panel.
        names = list(
            dict.fromkeys(label(arm) for arm in sorted(_all(panels), key=lambda a: _natural(label(a))))
        )
        for axes, (title, arms) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(literal(title))
            ends = [
                end for arm in arms if (end := _arm_curves(axes, arm, label(arm), names, top)) is not None
            ]
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


def _arm_curves(
    axes: Axes, arm: Arm, name: str, names: Sequence[str], top: float
) -> tuple[float, str, str] | None:
    """Draws one arm; returns (height of its end, label, colour), None if there is nothing to label."""
    position = names.index(name)
    # Lightness falls with depth: dark is deep, in grey as well.
    colour = matplotlib.colors.to_hex(
        matplotlib.colormaps["viridis"](0.72 * (1 - position / max(1, len(names) - 1)))
    )
    alive = [run for run in arm.runs if run.record["status"] != "diverged"]
    end = None
    for split, width, marker in (
        ("train", 0.7, ""),
        ("test", 1.8, DEPTH_MARKERS[position % len(DEPTH_MARKERS)]),
    ):
        steps, errors = (
            _thinned(*_mean_curve(alive, split)) if split == "train" else _mean_curve(alive, split)
        )
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
            offset = {"xytext": (4, -4), "textcoords": "offset points"}
            axes.annotate(literal(name), place, va="top", fontsize=7, color=_darker(colour), **offset)
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
    previous = -gap
    for height, name, colour in sorted(ends):
        position = max(min(height, top), previous + gap)
        previous = position
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


def _percent_axis(axes: Axes, largest: float) -> float:
    """Makes the y axis end at the first tick that is not below `largest` percent, and returns that tick."""
    locator = MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10])
    axes.yaxis.set_major_locator(locator)
    top = min(100.0, float(max(locator.tick_values(0, largest))))
    axes.set_ylim(0, top)
    return top


def _darker(colour: str) -> tuple[float, ...]:
    """Returns the colour for text: thin letters need more contrast than lines."""
    return tuple(0.7 * part for part in matplotlib.colors.to_rgb(colour))


def _top_of_curves(arms: Sequence[Arm]) -> float:
    """Returns where to cut the y axis, in percent."""
    finals = [
        value
        for arm in arms
        for run in arm.finished
        for metric in METRICS
        if (value := final(run, metric)) is not None
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
