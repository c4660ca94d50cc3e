"""Test error under corruptions, judged by how far it rises above the clean error: clause, table and figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.arms import Arm, field, final, one_of_each_seed
from normres.report.charts import Chart, Panel, Series
from normres.report.clauses import Lower, Quantity
from normres.report.experiment import Experiment
from normres.report.inference import summarize
from normres.report.labels import joined
from normres.runs.results import Run


def severities(run: Run, corruption: str) -> list[float] | None:
    """Returns the test error of a finished run, clean first, then at each severity; None if it was not measured."""
    clean, errors = final(run, "test_error"), (run.record.get("corrupted") or {}).get(corruption)
    return None if clean is None or not errors else [clean, *errors]


def mean_error(run: Run, corruptions: Sequence[str]) -> float | None:
    """Returns the test error, mean over the severities and over the corruptions; None if one was not measured.

    Over all corruptions it is the mean corruption error of Hendrycks, Dietterich 2019, arXiv 1903.12261, section 4,
    without the division by AlexNet's error, as is usual on CIFAR.
    """
    errors = [fmean(curve[1:]) for name in corruptions if (curve := severities(run, name))]
    return fmean(errors) if errors and len(errors) == len(corruptions) else None


def rise(run: Run, corruptions: Sequence[str]) -> float | None:
    """Returns `mean_error` minus the clean test error; None if one was not measured."""
    clean, error = final(run, "test_error"), mean_error(run, corruptions)
    return None if clean is None or error is None else error - clean


def smaller_rise(claim: str, better: str, worse: str, under: Sequence[str], beyond: Sequence[str] = ()) -> Lower:
    """Returns the clause that the error of one variant rises less under corruptions than another's.

    The rise under the corruptions of `beyond` is subtracted, because a network may react less to anything.  Diverged
    runs are left out, because the error of guessing cannot rise.
    """

    def number(run: Run) -> float | None:
        upper = rise(run, under)
        lower = rise(run, beyond) if beyond else 0.0
        return None if upper is None or lower is None else upper - lower

    less = f", minus the rise under {_listed(beyond)}," if beyond else ""
    words = f"rise of the test error under {_listed(under)}{less}"
    return Lower(claim, better, worse, Quantity(words, unit="points", number=number))


@dataclass(frozen=True)
class UnderCorruptions(Experiment):
    """A comparison whose figure and table are of the errors under corruptions."""

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs, and of arms that were not measured under all corruptions."""
        corruptions = _corruptions(arms)
        unmeasured = [arm for arm in arms if any(mean_error(run, corruptions) is None for run in arm.finished)]
        return [*super().missing(arms), *(f"{arm.label}, under every corruption" for arm in unmeasured)]

    def columns(self, arms: Sequence[Arm]) -> dict[str, Callable[[Arm], str]]:
        """Returns the clean error, the mean error under each corruption, the mean over all, and its rise."""
        places, corruptions = facts.digits(arms), _corruptions(arms)

        def percent(number: Callable[[Run, Sequence[str]], float | None], *chosen: str) -> Callable[[Arm], str]:
            return lambda arm: tables.number(
                summarize(arm.by_seed(lambda run: number(run, chosen)).values()), places, 100.0
            )

        return {
            "seeds": tables.seeds_cell,
            "clean (%)": lambda arm: tables.error_cell(arm, "test_error", places),
            **{f"{_word(corruption)} (%)": percent(mean_error, corruption) for corruption in corruptions},
            "mean (%)": percent(mean_error, *corruptions),
            "rise (points)": percent(rise, *corruptions),
        }

    def caption(self, arms: Sequence[Arm]) -> str:
        """Returns what the table says of its numbers."""
        return (
            "Test error at the last step: clean, under each corruption (mean over five severities), mean over the "
            "corruptions, and how far that is above the clean error; mean ± sample standard deviation over the seeds "
            "that finished."
        )

    def main_chart(self, arms: Sequence[Arm]) -> Chart:
        """Returns test error over severity, 0 being clean, a panel per corruption."""
        several = len({arm.setting for arm in arms}) > 1
        panels = []
        for corruption in _corruptions(arms):
            series = []
            for arm in arms:
                label = joined(arm.variant, arm.setting.name * several, arm.context)
                curves = [curve for run in one_of_each_seed(arm.finished) if (curve := severities(run, corruption))]
                columns = [summary for column in zip(*curves, strict=True) if (summary := summarize(column))]
                means = [100 * summary.mean for summary in columns]
                bars = [100 * (summary.standard_deviation or 0.0) for summary in columns]
                texts = [joined(label, f"severity {severity}") for severity in range(len(means))]
                series.append(Series(label, "line", list(range(len(means))), means, bars, texts))
            panels.append(Panel(_word(corruption), series))
        return Chart(
            Path(self.config).stem,
            panels,
            "Test error over the severity of each corruption, one line per variant; the table has the means.",
            "Test error over severity, 0 being clean: the line joins the means, bars are sample standard deviations. "
            "Contrast, brightness, blur and noise are those of CIFAR-10-C, color cast is our own.",
            "severity",
            "test error (%)",
        )


def _corruptions(arms: Sequence[Arm]) -> list[str]:
    """Returns the corruptions that the arms' configs name, in their order; none at all is a UserError."""
    runs = [run for arm in arms for run in arm.runs]
    names = list(dict.fromkeys(name for run in runs for name in field(run, "data.corruptions")))
    if not names:
        raise UserError(f"{runs[0].path}: data.corruptions is empty, here and in every other run")
    return names


def _word(corruption: str) -> str:
    return corruption.replace("_", " ")


def _listed(corruptions: Sequence[str]) -> str:
    """Returns "contrast, brightness and color cast"."""
    *first, last = map(_word, corruptions)
    return f"{', '.join(first)} and {last}" if first else last
