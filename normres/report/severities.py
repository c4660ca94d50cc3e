"""Test error under corruptions, read from the records, and drawn against severity in small multiples."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from normres.errors import UserError
from normres.report.evidence import seeds_text
from normres.report.statistics import Arm, Summary, field, final, summarize
from normres.report.style import PAGE_INCHES, STYLE, Drawing, handle, literal, look, new_figure, percent_axis
from normres.runs.results import Run

COLUMNS = 3  # panels side by side
SHIFT = 0.07  # severities between neighbouring lines, so that the bars of seeds do not hide each other


def corruptions_of(arms: Sequence[Arm]) -> list[str]:
    """Returns the corruptions that the arms' configs name, in their order; none at all is a UserError."""
    runs = [run for arm in arms for run in arm.runs]
    names = list(dict.fromkeys(name for run in runs for name in field(run, "data.corruptions")))
    if not names:
        raise UserError(f"{runs[0].path / 'config.json'}: data.corruptions is empty, here and in every other run")
    return names


def word(corruption: str) -> str:
    """Returns "gaussian noise" of "gaussian_noise"."""
    return corruption.replace("_", " ")


def severities(run: Run, corruption: str) -> list[float] | None:
    """Returns the test error of a finished run, clean first, then at each severity; None if it was not measured."""
    clean, errors = final(run, "test_error"), (run.record.get("corrupted") or {}).get(corruption)
    return None if clean is None or not errors else [clean, *errors]


def mean_error(run: Run, corruptions: Iterable[str]) -> float | None:
    """Returns the test error, mean over the severities and over the corruptions; None if one was not measured.

    Over all corruptions it is the mean corruption error of Hendrycks, Dietterich 2019, arXiv 1903.12261, section 4,
    without the division by AlexNet's error, as is usual on CIFAR.
    """
    curves = [severities(run, name) for name in corruptions]
    errors = [fmean(curve[1:]) for curve in curves if curve]
    return fmean(errors) if errors and len(errors) == len(curves) else None


def rise(run: Run, corruptions: Sequence[str]) -> float | None:
    """Returns `mean_error` minus the clean test error; None if one was not measured."""
    clean, error = final(run, "test_error"), mean_error(run, corruptions)
    return None if clean is None or error is None else error - clean


def over_seeds(arm: Arm, number: Callable[[Run], float | None]) -> Summary | None:
    """Returns the statistics of a number over the arm's finished runs that have it."""
    return summarize(value for run in arm.finished if (value := number(run)) is not None)


def error_against_severity(name: str, lines: Mapping[str, Arm], corruptions: Sequence[str]) -> Drawing:
    """Draws test error against severity, 0 being clean, one panel per corruption and one line per entry of `lines`.

    A line joins the means of the seeds that finished; where there are several, a bar goes from the least to the
    largest of them.  The y axis is shared and does not begin at zero, for errors far from it.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(COLUMNS, max(1, len(corruptions)))
        rows = math.ceil(max(1, len(corruptions)) / columns)
        free = len(corruptions) < rows * columns  # the last place then holds the legend
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
        handles = [handle(number, label) for number, label in enumerate(lines)]
        if free:
            grid.flat[-1].legend(handles=handles, loc="center", handlelength=3.2, labelspacing=0.9)
        else:
            figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=2.6)
    seeds, several = seeds_text(list(lines.values()))
    return Drawing(
        name,
        figure,
        "Test error against the severity of each corruption, one line per variant; the table has the means.",
        f"Test error against severity, {seeds} per variant"
        + (": the line joins the means, bars go from the lowest to the highest seed" if several else "")
        + ". Contrast, brightness, blur and noise are those of CIFAR-10-C, color cast is our own. The vertical axis "
        "does not begin at zero. Lines are shifted a little so that they do not hide each other.",
        PAGE_INCHES,
    )


def _line(axes: Axes, arm: Arm, corruption: str, number: int, count: int) -> None:
    """Draws one arm."""
    curves = [curve for run in arm.finished if (curve := severities(run, corruption))]
    if not curves:
        return
    places = [severity + SHIFT * (number - (count - 1) / 2) for severity in range(len(curves[0]))]
    by_severity = [[100 * error for error in errors] for errors in zip(*curves, strict=True)]
    axes.plot(places, list(map(fmean, by_severity)), **look(number) | {"markersize": 3.5}, zorder=3)
    if len(curves) > 1:
        lowest, highest = list(map(min, by_severity)), list(map(max, by_severity))
        axes.vlines(places, lowest, highest, color=look(number)["color"], linewidth=0.8)


def _limits(axes: Axes, arms: Sequence[Arm], corruptions: Sequence[str]) -> None:
    """Gives the panels, which share their axes, the range of all errors and of all severities."""
    curves = [severities(run, name) or [] for arm in arms for run in arm.finished for name in corruptions]
    errors = [100 * error for curve in curves for error in curve]
    low, high = (min(errors), max(errors)) if errors else (0.0, 100.0)
    percent_axis(axes, high, low if low > high / 3 else 0.0)
    last = max([5, *(len(curve) - 1 for curve in curves)])
    axes.set_xlim(-0.35, last + 0.35)
    axes.xaxis.set_major_locator(FixedLocator(range(last + 1)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "clean" if value == 0 else f"{value:.0f}"))
