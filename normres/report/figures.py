"""The figures that experiments share: error over a field, by variant, over steps, over the severity of corruptions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from normres.report.arms import (
    Arm,
    finals,
    joined,
    metric_words,
    run_id,
    scale_of,
    seed,
    seeds_text,
    titled,
    unit_of,
)
from normres.report.charts import Chart, Kind, Panel, Series
from normres.report.inference import summarize
from normres.runs.results import Run

MOST_LINES = 7  # that can be told apart in one panel
CURVE_POINTS = 160  # of a training curve; more would only blacken the panel
SPREAD = "the line joins the means, bars are sample standard deviations, and small dots are the seeds"
DIVERGED = "A cross marks diverged runs; means are over the runs that finished."


def means_and_seeds(
    label: str, places: Sequence[tuple[Any, Arm]], metric: str, *, sideways: bool = False
) -> list[Series]:
    """Returns the means of arms with their bars, their seeds where there are several, and crosses of diverged runs.

    Args:
      label: in the legend.
      places: (x, arm); with `sideways` (y, arm).
      metric: the final number.
      sideways: the numbers lie along x.
    """
    scale, unit = scale_of(metric), f" {unit_of(metric)}".rstrip()
    means, bars, at, texts = [], [], [], []
    seeds: tuple[list[Any], list[float], list[str]] = ([], [], [])
    crosses, crossed = [], []
    for place, arm in places:
        if summary := arm.summary(metric):
            at.append(place)
            means.append(scale * summary.mean)
            bars.append(scale * (summary.standard_deviation or 0.0))
            texts.append(f"{arm.label}: mean {means[-1]:.2f}{unit} of {summary.count} seed{'s' * (summary.count > 1)}")
            for run in arm.finished if summary.count > 1 else ():
                if (value := run.record["final"].get(metric)) is not None:
                    seeds[0].append(place)
                    seeds[1].append(scale * value)
                    seeds[2].append(f"{run_id(run)}: seed {seed(run)}, {scale * value:.2f}{unit}")
        if arm.diverged:
            crosses.append(place)
            crossed.append(", ".join(f"{run_id(run)}: diverged" for run in arm.diverged))

    def series(
        kind: Kind, places: Sequence[Any], values: Sequence[Any], bars: Sequence[float], texts: Sequence[str]
    ) -> Series:
        return Series(label, kind, *((values, places) if sideways else (places, values)), bars, texts)

    made = [
        series("line", at, means, bars, texts),
        series("points", seeds[0], seeds[1], (), seeds[2]),
        series("cross", crosses, [None] * len(crosses), (), crossed),
    ]
    return [one for one in made if len(one.x)]


def error_over(
    name: str,
    lines: Mapping[str, Sequence[Arm]],
    published: Mapping[str, Mapping[float, float]],
    axis: str,
    note: str = "",
    of_paper: str = "",
    measure: str = "error",
) -> Chart:
    """Returns the final training and test error over a numeric field, one line per entry of `lines`.

    Args:
      name: of the files.
      lines: the arms of each line; `arm.setting.at` is the value of the field.
      published: a paper's test error in percent by line and value, in a panel with a scale of its own.
      axis: what the field is, such as "depth (layers)".
      note: the end of the caption.
      of_paper: what the paper's numbers are of, if not of the same data.
      measure: what is drawn in place of the error, such as "loss".
    """
    arms = [arm for members in lines.values() for arm in members]
    apart = (
        len({*lines, *published}) > MOST_LINES
    )  # more lines than looks: "batch, plain" is "batch" in a panel "plain"
    parts = {label: label.partition(", ") if apart else (label, "", "") for label in (*lines, *published)}
    panels = [
        Panel(
            joined(metric_words(metric).removesuffix(f" {measure}"), title),
            [
                one
                for label, members in lines.items()
                if parts[label][2] == title
                for one in means_and_seeds(parts[label][0], [(arm.setting.at, arm) for arm in members], metric)
            ],
        )
        for metric in finals(measure)
        for title in dict.fromkeys(parts[label][2] for label in lines)
    ]
    if published:
        errors = [
            Series(parts[label][0], "line", sorted(line), [line[at] for at in sorted(line)], hollow=True)
            for label, line in published.items()
        ]
        titles = {parts[label][2] for label in published}
        panels.append(Panel(joined("test, in the paper", *titles, of_paper), errors, own_scale=True))
    places = {arm.setting.at for arm in arms} | {at for line in published.values() for at in line}
    caption = f"{measure.capitalize()} at the last step, {seeds_text(arms)} per point: {SPREAD}. {DIVERGED}"
    if published:
        caption += " The panel of the paper’s numbers has its own scale."
    return Chart(
        name,
        panels,
        f"Final training and test {measure} over {axis}, one line per variant; the table has the numbers.",
        caption + note,
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

    Args:
      name: of the files.
      panels: by the panel's title, the arm of each variant.
      published: by setting, a paper's test error of each variant in percent; words such as "fail" have no place here.
      variants: their names from top to bottom.
      measure: what is drawn in place of the error, such as "loss".
    """
    arms = [arm for panel in panels.values() for arm in panel.values()]
    made = [
        Panel(
            title,
            [
                one
                for metric in finals(measure)
                for one in means_and_seeds(metric_words(metric), list(panel.items()), metric, sideways=True)
            ],
        )
        for title, panel in panels.items()
    ]
    numbers = {
        title: {variant: error for variant, error in errors.items() if not isinstance(error, str)}
        for title, errors in published.items()
    }
    in_paper = [
        Series(f"paper, {title}", "points", list(errors.values()), list(errors), hollow=True)
        for title, errors in numbers.items()
        if errors
    ]
    if in_paper:
        made.append(Panel("test error in the paper", in_paper, own_scale=True))
    return Chart(
        name,
        made,
        f"Final training and test {measure}, one row per variant; the table has the numbers.",
        f"{measure.capitalize()} at the last step, {seeds_text(arms)} per variant: markers are means, bars are sample "
        f"standard deviations, and small dots are the seeds. {DIVERGED}"
        + (" The panel of the paper’s numbers has its own scale." if in_paper else ""),
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
    arms, unit = [arm for members in panels.values() for arm in members], f" {unit_of(measure)}".rstrip()
    made = []
    for title, members in panels.items():
        series = []
        for arm in members:
            label = arm.setting.name
            alive = arm.finished or arm.unfinished
            steps, errors = mean_curve(alive, "test", measure)
            who = f"{arm.label}, test {measure}, mean of {len(alive)} run{'s' * (len(alive) != 1)}"
            texts = [f"{who}: {error:.2f}{unit} at step {step:,}" for step, error in zip(steps, errors, strict=True)]
            series.append(Series(label, "curve", steps, errors, (), texts))
            series.append(Series(label, "thin", *_thinned(*mean_curve(alive, "train", measure))))
            for run in arm.diverged:
                steps, errors = mean_curve([run], "train", measure)
                series.append(Series(label, "thin", steps, errors))
                series.append(Series(label, "cross", steps[-1:], [None] * len(steps[-1:]), (), [run_id(run)]))
        made.append(Panel(title, [one for one in series if len(one.x)]))
    ends = [scale_of(measure) * value for arm in arms for metric in finals(measure) for value in arm.values(metric)]
    return Chart(
        "curves",
        made,
        f"Training and test {measure} over training steps, one curve per setting and one panel per variant.",
        f"{measure.capitalize()} over training steps, mean over {seeds_text(arms)}. Thin: training {measure}, running "
        f"mean of the augmented mini-batches. Bold: test {measure}. The vertical axis ends at about twice the largest "
        f"final {measure}{', or at 100 %' if unit else ''}. A cross marks where a run diverged.",
        "training step",
        titled(measure),
        unit=unit_of(measure),
        # The end of training matters more than its start.
        largest=min(100.0, max(5.0, 2 * max(ends, default=50.0))) if unit else 2 * max(ends, default=0.0),
        by_depth=True,
    )


def mean_curve(runs: Iterable[Run], split: str, measure: str = "error") -> tuple[list[int], list[float]]:
    """Returns (steps, mean, of errors in percent) at the steps where every run has a finite value."""
    curves = []
    for run in runs:
        values = {line["step"]: line.get(measure) for line in run.metrics if line["split"] == split}
        if curve := {step: value for step, value in values.items() if value is not None and math.isfinite(value)}:
            curves.append(curve)
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return shared, [scale_of(measure) * fmean(curve[step] for curve in curves) for step in shared]


def _thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Averages neighbours until at most CURVE_POINTS are left; each mean stands at the last of its steps."""
    size = max(1, math.ceil(len(steps) / CURVE_POINTS))
    blocks = range(size, len(steps) + size, size)
    return [steps[:end][-1] for end in blocks], [fmean(values[end - size : end]) for end in blocks]


def overfitting_note(lines: Mapping[str, Sequence[Arm]]) -> str:
    """Says where the mean test error rises although the training error falls: that is not degradation."""
    sentences = []
    for label, arms in lines.items():
        shallow, deep = arms[0], arms[-1]
        train, test = (
            deep.summary(metric).mean - shallow.summary(metric).mean  # type: ignore[union-attr]
            if deep.summary(metric) and shallow.summary(metric)
            else 0.0
            for metric in finals()
        )
        if train < 0 < test:
            sentences.append(
                f" From {shallow.setting.name} to {deep.setting.name} the mean test error of {label} rises, but its "
                f"training error falls: the deeper network overfits the {deep.count('train_examples'):,} training "
                "images, which is not degradation."
            )
    return "".join(sentences)


def over_severity(name: str, panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Chart:
    """Returns test error over severity, 0 being clean, a panel per corruption.

    Args:
      name: of the files.
      panels: by corruption and variant, the test errors of each seed: clean, then at each severity.
    """
    made = []
    for title, lines in panels.items():
        series = []
        for label, curves in lines.items():
            columns = [summarize(column) for column in zip(*curves, strict=True)]
            means = [100 * one.mean for one in columns if one]
            bars = [100 * (one.standard_deviation or 0.0) for one in columns if one]
            texts = [joined(label, f"severity {severity}") for severity in range(len(means))]
            series.append(Series(label, "line", list(range(len(means))), means, bars, texts))
        made.append(Panel(title, series))
    return Chart(
        name,
        made,
        "Test error over the severity of each corruption, one line per variant; the table has the means.",
        "Test error over severity, 0 being clean: the line joins the means, bars are sample standard deviations. "
        "Contrast, brightness, blur and noise are those of CIFAR-10-C, color cast is our own.",
        "severity",
        "test error (%)",
    )
