"""Test error against the severity of each corruption, in small multiples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from normres.report.robustness import severities, word
from normres.report.statistics import Arm
from normres.report.style import PAGE_INCHES, STYLE, VARIANTS, literal, new_figure

COLUMNS = 3  # panels side by side
SHIFT = 0.07  # severities by which neighbouring lines stand apart, so that bars of seeds do not hide each other
_MARKER: dict[str, Any] = {"markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.4}


def error_against_severity(lines: Mapping[str, Arm], corruptions: Sequence[str]) -> Figure:
    """Draws test error against severity, 0 being clean, one panel per corruption and one line per entry of `lines`.

    A line joins the means of the seeds that finished; where there are several, a bar goes from the least to the
    largest of them.  The y axis is shared and does not begin at zero, for errors far from it.
    """
    with matplotlib.rc_context(STYLE):
        # The last place, if one is free, holds the legend.
        columns = min(COLUMNS, max(1, len(corruptions)))
        rows = math.ceil(max(1, len(corruptions)) / columns)
        free = len(corruptions) < rows * columns
        figure = new_figure(PAGE_INCHES, 1.75 * rows + 0.25 + 0.3 * (not free))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, corruption in zip(grid.flat, corruptions, strict=False):
            axes.set_title(literal(word(corruption)))
            for number, arm in enumerate(lines.values()):
                _line(axes, arm, corruption, number, len(lines))
        _limits(grid[0, 0], list(lines.values()), corruptions)
        for axes in grid.flat[len(corruptions) :]:
            axes.set_axis_off()
        for row in grid:
            row[0].set_ylabel("test error (%)")
        for column in range(columns):
            lowest = grid[(len(corruptions) - 1 - column) // columns, column]
            lowest.set_xlabel("severity")
            lowest.tick_params(labelbottom=True)  # also where the panel below it is the legend
        handles = [_handle(number, label) for number, label in enumerate(lines)]
        if free:
            grid.flat[-1].legend(handles=handles, loc="center", handlelength=3.2, labelspacing=0.9)
        else:
            figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=2.6)
        return figure


def _line(axes: Axes, arm: Arm, corruption: str, number: int, count: int) -> None:
    """Draws one arm."""
    curves = [curve for run in arm.finished if (curve := severities(run, corruption))]
    if not curves:
        return
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    places = [severity + SHIFT * (number - (count - 1) / 2) for severity in range(len(curves[0]))]
    by_severity = [[100 * error for error in errors] for errors in zip(*curves, strict=True)]
    means = [sum(errors) / len(errors) for errors in by_severity]
    axes.plot(
        places,
        means,
        color=colour,
        marker=marker,
        linestyle=dashes,
        zorder=3,
        **_MARKER,
    )
    if len(curves) > 1:
        axes.vlines(places, list(map(min, by_severity)), list(map(max, by_severity)), color=colour, linewidth=0.8)


def _limits(axes: Axes, arms: Sequence[Arm], corruptions: Sequence[str]) -> None:
    """Gives the panels, which share their axes, the range of all errors and of all severities."""
    found = [severities(run, name) or [] for arm in arms for run in arm.finished for name in corruptions]
    errors = [100 * error for curve in found for error in curve]
    low, high = (min(errors), max(errors)) if errors else (0.0, 100.0)
    locator = MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10])
    ticks = locator.tick_values(low if low > high / 3 else 0.0, high)
    axes.set_ylim(max(0.0, float(ticks[0])), min(100.0, float(ticks[-1])))
    axes.yaxis.set_major_locator(locator)
    last = max([5, *(len(curve) - 1 for curve in found)])
    axes.set_xlim(-0.35, last + 0.35)
    axes.xaxis.set_major_locator(FixedLocator(range(last + 1)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "clean" if value == 0 else f"{value:.0f}"))


def _handle(number: int, label: str) -> Line2D:
    """Returns the legend's sample of a line."""
    colour, marker, dashes = VARIANTS[number % len(VARIANTS)]
    return Line2D([], [], color=colour, marker=marker, linestyle=dashes, label=literal(label), **_MARKER)
