"""The figures that experiments share: error over a field, by variant, over steps."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from normres.report.arms import Arm, evaluated_on, final, one_of_each_seed, run_id, seed, seeds_text
from normres.report.charts import Chart, Kind, Panel, Series
from normres.report.labels import counted, finals, joined, metric_words, scale_of, titled, unit_of
from normres.runs.results import Run

MOST_LINES = 7  # that can be told apart in one panel
CURVE_POINTS = 160  # of a training curve; more would only blacken the panel
SPREAD = "bars are sample standard deviations, and small dots are the seeds"
DIVERGED = "A cross marks diverged runs; means are over the runs that finished."
OWN_SCALE = " The panel of the paper’s numbers has its own scale."


def means_and_seeds(
    label: str, places: Iterable[tuple[Any, Arm]], metric: str, *, sideways: bool = False
) -> list[Series]:
    """Returns the means of arms with their bars, their seeds where there are several, and crosses of diverged runs.

    `places` has (x, arm) or, with `sideways`, (y, arm), so that the numbers lie along x.
    """
    scale, unit = scale_of(metric), f" {unit_of(metric)}".rstrip()
    points: dict[Kind, list[tuple[Any, float | None, float, str]]] = {"line": [], "points": [], "cross": []}
    for place, arm in places:
        if summary := arm.summary(metric):
            mean, bar = scale * summary.mean, scale * (summary.standard_deviation or 0.0)
            text = f"{arm.label}: mean {mean:.2f}{unit} of {counted(summary.count, 'seed')}"
            points["line"].append((place, mean, bar, text))
            for one, value in arm.by_seed(lambda run: final(run, metric)).items() if summary.count > 1 else ():
                ids = joined(*(run_id(run) for run in arm.finished if seed(run) == one))
                points["points"].append((place, scale * value, 0.0, f"{ids}: seed {one}, {scale * value:.2f}{unit}"))
        if arm.diverged:
            text = ", ".join(f"{run_id(run)}: diverged" for run in arm.diverged)
            points["cross"].append((place, None, 0.0, text))
    made = []
    for kind, rows in points.items():
        if rows:
            at, values, bars, texts = map(list, zip(*rows, strict=True))
            made.append(Series(label, kind, *((values, at) if sideways else (at, values)), bars, texts))
    return made


def error_over(
    name: str,
    axis: str,
    lines: Mapping[str, Sequence[Arm]],
    published: Mapping[str, Mapping[float, float]],
    of_paper: str = "",
    measure: str = "error",
) -> Chart:
    """Returns the final training and test number over a numeric field, one line per entry of `lines`.

    A paper's test errors, in percent by line and value of the field, have a panel with a scale of its own; `of_paper`
    says of what data they are, if not of the same.
    """
    # With more lines than looks, "batch, plain" is "batch" in a panel "plain".
    apart = len({*lines, *published}) > MOST_LINES
    parts = {label: label.partition(", ") if apart else (label, "", "") for label in (*lines, *published)}
    panels = []
    arms = [arm for members in lines.values() for arm in members]
    on = evaluated_on(arms)
    for metric in finals(measure):
        series: dict[str, list[Series]] = {}
        for label, members in lines.items():
            own, _, title = parts[label]
            made = means_and_seeds(own, [(arm.setting.at, arm) for arm in members], metric)
            series.setdefault(title, []).extend(made)
        words = metric_words(metric, on).removesuffix(f" {measure}")
        panels += [Panel(joined(words, title), drawn) for title, drawn in series.items()]
    if published:
        errors = [
            Series(parts[label][0], "line", sorted(line), [line[at] for at in sorted(line)], hollow=True)
            for label, line in published.items()
        ]
        titles = {parts[label][2] for label in published}
        panels.append(Panel(joined("test, in the paper", *titles, of_paper), errors, own_scale=True))
    places = {arm.setting.at for arm in arms} | {at for line in published.values() for at in line}
    return Chart(
        name,
        panels,
        f"Final training and {on} {measure} over {axis}, one line per variant; the table has the numbers.",
        f"{measure.capitalize()} at the last step, {seeds_text(arms)} per point: the line joins the means, {SPREAD}. "
        f"{DIVERGED}{OWN_SCALE if published else ''}",
        axis,
        titled(measure),
        unit=unit_of(measure),
        ticks=sorted(places),
        log_x=min(places) > 0 and max(places) > 2 * min(places),
    )


def error_per_variant(
    name: str,
    panels: Mapping[str, Mapping[str, Arm]],
    published: Mapping[str, Mapping[str, float | str]],
    variants: Sequence[str],
    measure: str = "error",
) -> Chart:
    """Returns one row per variant of `variants` and one panel per setting: bars have no room for such long names.

    A paper's test errors, in percent by setting and variant, have a panel of their own; words, such as "fail", have
    no place in it.
    """
    arms = [arm for arms_of in panels.values() for arm in arms_of.values()]
    made, on = [], evaluated_on(arms)
    for title, arms_of in panels.items():
        series = []
        for metric in finals(measure):
            series += means_and_seeds(metric_words(metric, on), arms_of.items(), metric, sideways=True)
        made.append(Panel(title, series))
    in_paper = []
    for title, errors in published.items():
        if numbers := {variant: error for variant, error in errors.items() if not isinstance(error, str)}:
            in_paper.append(Series(f"paper, {title}", "points", list(numbers.values()), list(numbers), hollow=True))
    if in_paper:
        made.append(Panel("test error in the paper", in_paper, own_scale=True))
    return Chart(
        name,
        made,
        f"Final training and {on} {measure}, one row per variant; the table has the numbers.",
        f"{measure.capitalize()} at the last step, {seeds_text(arms)} per variant: markers are means, {SPREAD}. "
        f"{DIVERGED}{OWN_SCALE if in_paper else ''}",
        titled(measure),
        "",
        rows=variants,
        unit=unit_of(measure),
    )


def training_curves(panels: Mapping[str, Sequence[Arm]], measure: str = "error") -> Chart:
    """Returns error over steps, thin = training, bold = test, one panel per entry of `panels`, as in He 2015, figure 6.

    Each curve is the mean over the seeds that finished (or, if none did, that still run) at the steps that all of them
    have; a run that diverged is a thin curve of its own that ends in a cross.
    """

    def curve(runs: Sequence[Run], split: str) -> tuple[list[int], list[float]]:
        steps, values = mean_curve(runs, split, lambda line: line.get(measure))
        return steps, [scale_of(measure) * value for value in values]

    arms, unit = [arm for members in panels.values() for arm in members], f" {unit_of(measure)}".rstrip()
    made, on = [], evaluated_on(arms)
    for title, members in panels.items():
        series = []
        for arm in members:
            label, alive = arm.setting.name, one_of_each_seed(arm.finished or arm.unfinished)
            steps, errors = curve(alive, "test")
            who = f"{arm.label}, {on} {measure}, mean of {counted(len(alive), 'run')}"
            texts = [f"{who}: {error:.2f}{unit} at step {step:,}" for step, error in zip(steps, errors, strict=True)]
            series.append(Series(label, "curve", steps, errors, (), texts))
            series.append(Series(label, "thin", *_thinned(*curve(alive, "train"))))
            for run in arm.diverged:
                steps, errors = curve([run], "train")
                series.append(Series(label, "thin", steps, errors))
                series.append(Series(label, "cross", steps[-1:], [None] * len(steps[-1:]), (), [run_id(run)]))
        made.append(Panel(title, [one for one in series if len(one.x)]))
    finished = [run for arm in arms for run in arm.finished]
    known = [final(run, metric) for run in finished for metric in finals(measure)]
    ends = [scale_of(measure) * value for value in known if value is not None]
    return Chart(
        "curves",
        made,
        f"Training and {on} {measure} over training steps, one curve per setting and one panel per variant.",
        f"{measure.capitalize()} over training steps, mean over {seeds_text(arms)}. Thin: training {measure}, mean "
        f"over successive mini-batches as they are trained on. Bold: {on} {measure}. The vertical axis ends at about "
        f"twice the largest final {measure}{', or at 100 %' if unit else ''}. A cross marks where a run diverged.",
        "training step",
        titled(measure),
        unit=unit_of(measure),
        # The end of training matters more than its start.
        largest=min(100.0, max(5.0, 2 * max(ends, default=50.0))) if unit else 2 * max(ends, default=0.0),
        by_depth=True,
    )


def mean_curve(
    runs: Iterable[Run], split: str, number: Callable[[Mapping[str, Any]], float | None]
) -> tuple[list[int], list[float]]:
    """Returns (steps, mean) of a number of the metric lines, at the steps where every run has a finite one."""
    curves = []
    for run in runs:
        values = {line["step"]: number(line) for line in run.metrics if line["split"] == split}
        if curve := {step: value for step, value in values.items() if value is not None and math.isfinite(value)}:
            curves.append(curve)
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return shared, [fmean(curve[step] for curve in curves) for step in shared]


def _thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Averages neighbours until at most CURVE_POINTS are left; each mean stands at the last of its steps."""
    size = max(1, math.ceil(len(steps) / CURVE_POINTS))
    blocks = range(size, len(steps) + size, size)
    return [steps[:end][-1] for end in blocks], [fmean(values[end - size : end]) for end in blocks]
