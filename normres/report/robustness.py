"""Test error under corruptions, judged by how far it rises above the clean error: clause, table and figure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.arms import Arm, field, final, joined
from normres.report.charts import Chart
from normres.report.clauses import Lower, Quantity
from normres.report.experiment import Experiment
from normres.report.figures import over_severity
from normres.report.inference import Summary, summarize
from normres.runs.results import Run


@dataclass(frozen=True)
class Rise(Quantity):
    """How far the test error rises above the clean one, in points.

    Attributes:
      under: the corruptions.
      beyond: corruptions whose rise is subtracted, because a network may react less to anything.
    """

    under: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    def of(self, run: Run) -> float | None:
        """Returns the rise of a finished run; None if it was not measured."""
        upper = rise(run, self.under)
        lower = rise(run, self.beyond) if self.beyond else 0.0
        return None if upper is None or lower is None else upper - lower


def smaller_rise(claim: str, better: str, worse: str, under: tuple[str, ...], beyond: tuple[str, ...] = ()) -> Lower:
    """Returns the clause that the error of one variant rises less under corruptions than another's.

    Diverged runs are left out, because the error of guessing cannot rise.
    """
    less = f", less the rise under {_listed(beyond)}," if beyond else ""
    words = f"rise of the test error under {_listed(under)}{less}"
    return Lower(claim, better, worse, Rise(words, unit="points", chance=False, under=under, beyond=beyond))


@dataclass(frozen=True)
class UnderCorruptions(Experiment):
    """A comparison whose figure and table are of the errors under corruptions."""

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs, and of arms that were not measured under all corruptions."""
        corruptions = _corruptions(arms)
        unmeasured = [
            f"{arm.label}, under every corruption"
            for arm in arms
            if any(mean_error(run, corruptions) is None for run in arm.finished)
        ]
        return [*super().missing(arms), *unmeasured]

    def table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns a row per arm: clean error, mean error under each corruption, mean over all, and its rise."""
        places = facts.digits(arms)
        corruptions = _corruptions(arms)

        def over_seeds(number: Callable[[Run, Sequence[str]], float | None], *chosen: str) -> Callable[[Arm], str]:
            return lambda arm: tables.percent(_over_seeds(arm, lambda run: number(run, chosen)), places)

        columns: dict[str, Callable[[Arm], str]] = {
            "variant": lambda arm: joined(arm.variant, arm.context),
            "setting": lambda arm: arm.setting.name,
            "seeds": tables.seeds_cell,
            "clean (%)": lambda arm: tables.error_cell(arm, "test_error", places),
            **{f"{_word(corruption)} (%)": over_seeds(mean_error, corruption) for corruption in corruptions},
            "mean (%)": over_seeds(mean_error, *corruptions),
            "rise (points)": over_seeds(rise, *corruptions),
        }
        caption = (
            "Test error at the last step: clean, under each corruption (mean over five severities), mean over the "
            "corruptions, and how far that is above the clean error; mean ± sample standard deviation over the seeds "
            "that finished. " + facts.provenance([run for arm in arms for run in arm.runs])
        )
        return facts.with_notes(tables.of_columns(columns, arms, caption), arms)

    def main_chart(self, arms: Sequence[Arm]) -> Chart:
        """Returns test error against severity."""
        several = len({arm.setting for arm in arms}) > 1
        labels = [joined(arm.variant, arm.setting.name * several, arm.context) for arm in arms]
        panels = {
            _word(corruption): {
                label: [curve for run in arm.finished if (curve := severities(run, corruption))]
                for label, arm in zip(labels, arms, strict=True)
            }
            for corruption in _corruptions(arms)
        }
        return over_severity(Path(self.config).name.removesuffix(".py"), panels)


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


def _over_seeds(arm: Arm, number: Callable[[Run], float | None]) -> Summary | None:
    """Returns the statistics of a number over the arm's finished runs that have it."""
    return summarize(value for run in arm.finished if (value := number(run)) is not None)


def _corruptions(arms: Sequence[Arm]) -> list[str]:
    """Returns the corruptions that the arms' configs name, in their order; none at all is a UserError."""
    runs = [run for arm in arms for run in arm.runs]
    names = list(dict.fromkeys(name for run in runs for name in field(run, "data.corruptions")))
    if not names:
        raise UserError(f"{runs[0].path / 'config.json'}: data.corruptions is empty, here and in every other run")
    return names


def _word(corruption: str) -> str:
    """Returns "gaussian noise" of "gaussian_noise"."""
    return corruption.replace("_", " ")


def _listed(corruptions: Sequence[str]) -> str:
    """Returns "contrast, brightness and color cast"."""
    *first, last = map(_word, corruptions)
    return f"{', '.join(first)} and {last}" if first else last
