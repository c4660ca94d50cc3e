"""Test error under corruptions: read from the records, judged by how far it rises above the clean error, and tabled."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.clauses import Lower, Network
from normres.report.evidence import digits
from normres.report.statistics import Arm, Summary, field, final, summarize
from normres.runs.results import Run


def corruptions_of(arms: Sequence[Arm]) -> list[str]:
    """Returns the corruptions that the arms' configs name, in their order; none at all is a UserError."""
    runs = [run for arm in arms for run in arm.runs]
    names = list(dict.fromkeys(name for run in runs for name in field(run, "data.corruptions")))
    if not names:
        raise UserError(f"{runs[0].path / 'config.json'}: data.corruptions is empty, here and in every other run")
    return names


def severities(run: Run, corruption: str) -> list[float] | None:
    """Returns the test error of a finished run, clean first, then at each severity; None if it was not measured."""
    clean, found = final(run, "test_error"), (run.record.get("corrupted") or {}).get(corruption)
    return None if clean is None or not found else [clean, *found]


def mean_error(run: Run, corruptions: Iterable[str]) -> float | None:
    """Returns the test error, mean over the severities and over the corruptions; None if one was not measured.

    Over all corruptions it is the mean corruption error of Hendrycks, Dietterich 2019, arXiv 1903.12261, section 4,
    without the division by AlexNet's error, as is usual on CIFAR.
    """
    found = [severities(run, name) for name in corruptions]
    errors = [fmean(curve[1:]) for curve in found if curve]
    return fmean(errors) if errors and len(errors) == len(found) else None


def rise(run: Run, corruptions: Sequence[str]) -> float | None:
    """Returns `mean_error` minus the clean test error; None if one was not measured."""
    clean, error = final(run, "test_error"), mean_error(run, corruptions)
    return None if clean is None or error is None else error - clean


def over_seeds(arm: Arm, number: Callable[[Run], float | None]) -> Summary | None:
    """Returns the statistics of a number over the arm's finished runs that have it."""
    return summarize(value for run in arm.finished if (value := number(run)) is not None)


@dataclass(frozen=True)
class SmallerRise(Lower):
    """The error of one variant rises less under corruptions than another's.

    Attributes:
      under: the corruptions.
      beyond: corruptions whose rise is subtracted: what is left is not due to a network that reacts less to anything.
    """

    under: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    unit: ClassVar[str] = "points"

    @property
    def measured(self) -> str:
        """What the numbers are, as the beginning of a sentence."""
        less = f", less the rise under {_listed(self.beyond)}," if self.beyond else ""
        return f"Rise of the test error under {_listed(self.under)}{less}"

    def summary(self, arm: Arm) -> Summary | None:
        """Returns the statistics of the rise over the seeds that finished; None if none has it."""

        def number(run: Run) -> float | None:
            upper = rise(run, self.under)
            lower = rise(run, self.beyond) if self.beyond else 0.0
            return None if upper is None or lower is None else upper - lower

        return over_seeds(arm, number)

    def lack(self, name: str, network: Network) -> str:
        """Returns what is said of a variant without numbers."""
        return f"No finished run of {name} at {network.name} was measured under {_listed(self.under + self.beyond)}."

    def note(self, arms: Sequence[Arm]) -> str:
        """Returns which runs diverged: an error of guessing cannot rise, so they are left out."""
        return "".join(
            f" {len(arm.diverged)} of {len(arm.runs)} run{'s' * (len(arm.runs) > 1)} of {arm.label} diverged and "
            "are in no rise."
            for arm in arms
            if arm.diverged
        )


def unmeasured(arms: Sequence[Arm], corruptions: Sequence[str]) -> list[str]:
    """Returns what is missing: the arms with finished runs that were not measured under all corruptions."""
    return [
        f"{arm.label}, under every corruption"
        for arm in arms
        if any(mean_error(run, corruptions) is None for run in arm.finished)
    ]


def table(arms: Sequence[Arm], name: Callable[[Arm], str], corruptions: Sequence[str]) -> tables.Table:
    """Returns a row per arm, called `name`: clean error, mean error under each corruption, and mean over all."""
    places = digits(arms)

    def cell(arm: Arm, chosen: Sequence[str]) -> str:
        return tables.percent(over_seeds(arm, lambda run: mean_error(run, chosen)), places)

    rows = tuple(
        (
            name(arm),
            tables.seeds_cell(arm),
            tables.error_cell(arm, "test_error", places),
            *(cell(arm, [corruption]) for corruption in corruptions),
            cell(arm, corruptions),
            tables.percent(over_seeds(arm, lambda run: rise(run, corruptions)), places),
        )
        for arm in arms
    )
    header = ("norm", "seeds", "clean (%)", *(f"{word(c)} (%)" for c in corruptions), "mean (%)", "rise (points)")
    caption = (
        "Test error at the last step: clean, under each corruption (mean over five severities), mean over the "
        "corruptions, and how far that is above the clean error; mean ± sample standard deviation over the seeds that "
        "finished. " + facts.provenance([run for arm in arms for run in arm.runs])
    )
    return tables.Table(header, rows, caption)


def word(corruption: str) -> str:
    """Returns "gaussian noise" of "gaussian_noise"."""
    return corruption.replace("_", " ")


def _listed(corruptions: Sequence[str]) -> str:
    """Returns "contrast, brightness and color cast"."""
    *first, last = map(word, corruptions)
    return f"{', '.join(first)} and {last}" if first else last
