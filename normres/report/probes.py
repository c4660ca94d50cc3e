"""Activations and gradients layer by layer: clauses, table and figures from the "probe" lines of metrics.jsonl.

A line has lists in the order of depth (training/probe.py); where a number was not finite it has null.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from normres.report import facts, figures, tables
from normres.report.arms import Arm, evaluated_on, one_of_each_seed
from normres.report.charts import Chart, Panel, Series
from normres.report.clauses import Quantity
from normres.report.experiment import Experiment
from normres.report.inference import summarize
from normres.report.labels import joined, titled
from normres.runs.results import Run

Values = Sequence[float | None]
Line = Mapping[str, Values]
When = Literal["before", "after"]
WHEN: tuple[When, When] = ("before", "after")


def probes(run: Run) -> dict[int, dict[str, Any]]:
    """Returns the probe lines of a run by step; {} of a run that was not probed."""
    return {line["step"]: line for line in run.metrics if line["split"] == "probe"}


def probe_at(run: Run, when: When) -> dict[str, Any] | None:
    """Returns what was measured before training, or after it in a run that finished; None if nothing was."""
    if when == "before":
        return probes(run).get(0)
    return probes(run).get(run.record.get("step") or -1) if run.record["status"] == "finished" else None


def magnitude(value: float | None) -> float | None:
    """Returns the logarithm to base 10; None of what has none."""
    return math.log10(value) if value is not None and value > 0 else None


def gradient_ratio(line: Line) -> float | None:
    """Returns log10 of the first kernel's gradient norm over the last one's: above 0, gradients grow backwards."""
    return _between(line["gradient"][-1], line["gradient"][0])


def early_gradient(line: Line) -> float | None:
    """Returns the mean log10 of the gradient norms of the first third of the kernels."""
    return _mean([magnitude(value) for value in line["gradient"][: max(1, len(line["gradient"]) // 3)]])


def response(line: Line) -> float | None:
    """Returns the mean standard deviation of the responses over the layers."""
    return _mean(line["response"])


def growth(line: Line) -> float | None:
    """Returns log10 of the residual stream's variance after the last block over that after the first."""
    return _between(line["variance"][0], line["variance"][-1])


def last_similarity(line: Line) -> float | None:
    """Returns the mean cosine similarity of different images after the last block."""
    return line["similarity"][-1]


def _mean(values: Values) -> float | None:
    """Returns the mean; None if one of the numbers was not finite."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _geometric_mean(values: Values) -> float | None:
    """Returns the geometric mean, whose logarithm is the mean of the table; None if one of the numbers has none."""
    mean = _mean([magnitude(value) for value in values])
    return None if mean is None else 10**mean


def _between(before: float | None, after: float | None) -> float | None:
    lower, upper = magnitude(before), magnitude(after)
    return None if lower is None or upper is None else upper - lower


def probed(
    words: str, number: Callable[[Line], float | None] = last_similarity, *, unit: str = "", when: When = "before"
) -> Quantity:
    """Returns a number of the probe lines; before training those of diverged runs count, too."""

    def of(run: Run) -> float | None:
        line = probe_at(run, when)
        return None if line is None else number(line)

    return Quantity(words, unit=unit, number=of, unfinished=when == "before")


# Columns of the table, before and after training.
NUMBERS: dict[str, Callable[[Line], float | None]] = {
    "gradient, first / last (log10)": gradient_ratio,
    "response": response,
    "variance, last / first (log10)": growth,
    "similarity, last block": last_similarity,
}


def _relative_mean(line: Line) -> Values:
    """Returns the mean of the residual stream over its standard deviation."""
    pairs = zip(line["mean"], line["variance"], strict=True)
    return [None if mean is None or not variance else mean / math.sqrt(variance) for mean, variance in pairs]


@dataclass(frozen=True)
class Figure:
    """What a figure over layers or blocks shows; `log` is of its axis."""

    title: str
    x: str
    values: Callable[[Line], Values]
    log: bool = True


LAYER, BLOCK = "layer", "block"
FIGURES: dict[str, Figure] = {
    "gradient": Figure("gradient norm of the kernel", LAYER, lambda line: line["gradient"]),
    "response": Figure("deviation of the response", LAYER, lambda line: line["response"]),
    "variance": Figure("variance of the stream", BLOCK, lambda line: line["variance"]),
    "mean": Figure("mean / deviation of the stream", BLOCK, _relative_mean, log=False),
    "similarity": Figure("cosine similarity of images", BLOCK, lambda line: line["similarity"], log=False),
}
# Those of NUMBERS that are drawn over the steps of training.
ALONG = ("gradient, first / last (log10)", "similarity, last block")


@dataclass(frozen=True)
class Signals(Experiment):
    """An experiment whose figures and table are of probe lines; its variants are called "FORM, NORM".

    Its figures have a panel for each form, a line for each norm, and show the largest setting.
    """

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs, and of arms that were not probed."""
        unprobed = [f"{arm.label}, probed" for arm in arms if not all(map(probes, arm.runs))]
        return [*super().missing(arms), *unprobed]

    def columns(self, arms: Sequence[Arm]) -> dict[str, Callable[[Arm], str]]:
        """Returns the test error, and NUMBERS before and after training."""
        places = facts.digits(arms)

        def cell(number: Callable[[Line], float | None], when: When) -> Callable[[Arm], str]:
            quantity = probed("", number, when=when)
            return lambda arm: tables.number(summarize(quantity.by_seed(arm).values()))

        return {
            "seeds": tables.seeds_cell,
            titled("test_error", evaluated_on(arms)): lambda arm: tables.error_cell(arm, "test_error", places),
            **{f"{name}, {when}": cell(of, when) for name, of in NUMBERS.items() for when in WHEN},
        }

    def caption(self, arms: Sequence[Arm]) -> str:
        """Returns what the table says of its numbers."""
        return (
            "Before training and after it, on one batch of training images: gradient norm of the first kernel over "
            "that of the last; standard deviation of the layers’ responses, mean over the layers; variance of the "
            "residual stream after the last block over that after the first; cosine similarity of different images "
            "after the last block; mean ± sample standard deviation over the seeds."
        )

    def main_chart(self, arms: Sequence[Arm]) -> Chart:
        """Returns the gradient norms over the layers."""
        return over_depth(Path(self.config).stem, FIGURES["gradient"], largest(arms))

    def charts(self, runs: Sequence[Run], arms: Sequence[Arm]) -> list[Chart]:
        """Returns a figure for each of FIGURES, those over the steps, and the curves."""
        shown = largest(arms)
        others = [over_depth(name, figure, shown) for name, figure in FIGURES.items() if name != "gradient"]
        return [self.main_chart(arms), *others, along_training(shown), figures.training_curves(self.along(arms))]


def largest(arms: Sequence[Arm]) -> list[Arm]:
    """Returns the arms of the largest setting at which anything was measured yet."""
    places = [arm.setting.at for arm in arms if any(map(probes, arm.runs))] or [arm.setting.at for arm in arms]
    return [arm for arm in arms if arm.setting.at == max(places)]


def over_depth(name: str, figure: Figure, arms: Sequence[Arm]) -> Chart:
    """Returns a quantity over layers or blocks: panels by form, before and after training, a line per norm."""
    panels: dict[str, dict[str, Values]] = {}
    for when in WHEN:
        for form, members in _forms(arms).items():
            for label, arm in members.items():
                lines = [line for run in arm.runs if (line := probe_at(run, when))]
                columns = zip(*(figure.values(line) for line in lines), strict=True)
                mean = _geometric_mean if figure.log else _mean
                panels.setdefault(joined(form, f"{when} training"), {})[label] = list(map(mean, columns))
    mean_of = f"{'geometric ' * figure.log}mean over the seeds"
    note = f", at {_setting(arms)}, before and after training: {mean_of}. What diverged has no line after it."
    return of_values(name, figure, panels, note)


def of_values(name: str, figure: Figure, panels: Mapping[str, Mapping[str, Values]], note: str) -> Chart:
    """Returns a quantity over layers or blocks, its values by panel and label; `note` ends the caption."""
    made = []
    for title, lines in panels.items():
        series = []
        for label, values in lines.items():
            at = [n for n, value in enumerate(values, 1) if value is not None and (value > 0 or not figure.log)]
            series.append(Series(label, "curve", at, [values[place - 1] for place in at]))
        made.append(Panel(title, [one for one in series if len(one.x)]))
    words = f"{figure.title[0].upper()}{figure.title[1:]} over the {figure.x}s"
    return Chart(
        name,
        made,
        f"{words}, a line each; the table has some of the numbers.",
        f"{words} from the image to the classifier, on one batch of training images{note}",
        figure.x,
        figure.title,
        unit="",
        log_y=figure.log,
        columns=2,
    )


def along_training(arms: Sequence[Arm]) -> Chart:
    """Returns the numbers of ALONG over the steps: panels by form, a line per norm."""

    def curve(arm: Arm, title: str) -> tuple[list[int], list[float]]:
        return figures.mean_curve(one_of_each_seed(arm.runs), "probe", NUMBERS[title])

    panels = []
    for title in ALONG:
        for form, members in _forms(arms).items():
            lines = {label: curve(arm, title) for label, arm in members.items()}
            series = [Series(label, "line", steps, means) for label, (steps, means) in lines.items() if steps]
            panels.append(Panel(joined(form, title), series, own_scale=True))
    return Chart(
        "along-training",
        panels,
        "Ratio of gradients and similarity of images over training steps, one line per norm.",
        "Over the steps of training: gradient norm of the first kernel over that of the last, and cosine similarity of "
        f"different images after the last block, at {_setting(arms)}; mean over the seeds. Each panel has its own "
        "scale.",
        "training step",
        "",
        unit="",
        columns=2,
    )


def _forms(arms: Sequence[Arm]) -> dict[str, dict[str, Arm]]:
    """Returns the arms by form and, in it, by norm."""
    forms: dict[str, dict[str, Arm]] = {}
    for arm in arms:
        form, _, norm = arm.variant.partition(", ")
        forms.setdefault(form, {})[joined(norm, arm.setting.data_title, arm.context) or form] = arm
    return forms


def _setting(arms: Sequence[Arm]) -> str:
    return joined(*dict.fromkeys(arm.setting.name for arm in arms))
