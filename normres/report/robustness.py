"""Test error under corruptions, judged by how far it rises above the clean error: clause, table and figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normres.report import facts, tables
from normres.report.clauses import Lower, Network
from normres.report.comparison import Comparison, joined, network_of
from normres.report.evidence import digits, runs_text
from normres.report.severities import corruptions_of, error_against_severity, mean_error, over_seeds, rise, word
from normres.report.statistics import Arm, Summary
from normres.report.style import Drawing
from normres.runs.results import Run


@dataclass(frozen=True)
class SmallerRise(Lower):
    """The error of one variant rises less under corruptions than another's.

    Attributes:
      under: the corruptions.
      beyond: corruptions whose rise is subtracted, because a network may react less to anything.
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
        """Returns which runs diverged; they are left out, because the error of guessing cannot rise."""
        return "".join(
            f" {runs_text(len(arm.diverged), len(arm.runs))} of {arm.label} diverged and are in no rise."
            for arm in arms
            if arm.diverged
        )


@dataclass(frozen=True)
class UnderCorruptions(Comparison):
    """A comparison whose figure and table are of the errors under corruptions."""

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs, and of arms that were not measured under all corruptions."""
        corruptions = corruptions_of(arms)
        unmeasured = [
            f"{arm.label}, under every corruption"
            for arm in arms
            if any(mean_error(run, corruptions) is None for run in arm.finished)
        ]
        return [*super().missing(arms), *unmeasured]

    def table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns a row per arm: clean error, mean error under each corruption, mean over all, and its rise."""
        places = digits(arms)
        corruptions = corruptions_of(arms)

        def cell(arm: Arm, chosen: Sequence[str]) -> str:
            return tables.percent(over_seeds(arm, lambda run: mean_error(run, chosen)), places)

        rows = tuple(
            (
                joined(self.variant(arm.key), self.context(arm.key)),
                network_of(arm.key).name,
                tables.seeds_cell(arm),
                tables.error_cell(arm, "test_error", places),
                *(cell(arm, [corruption]) for corruption in corruptions),
                cell(arm, corruptions),
                tables.percent(over_seeds(arm, lambda run: rise(run, corruptions)), places),
            )
            for arm in arms
        )
        errors = ("clean", *map(word, corruptions), "mean")
        header = ("variant", "network", "seeds", *(f"{error} (%)" for error in errors), "rise (points)")
        caption = (
            "Test error at the last step: clean, under each corruption (mean over five severities), mean over the "
            "corruptions, and how far that is above the clean error; mean ± sample standard deviation over the seeds "
            "that finished. " + facts.provenance([run for arm in arms for run in arm.runs])
        )
        return tables.Table(header, rows, caption, 2)

    def drawing(self, arms: Sequence[Arm]) -> Drawing:
        """Returns test error against severity."""
        several_networks = len({network_of(arm.key) for arm in arms}) > 1
        lines = {}
        for arm in arms:
            network = network_of(arm.key).name if several_networks else ""
            lines[joined(self.variant(arm.key), network, self.context(arm.key))] = arm
        return error_against_severity(Path(self.config).stem, lines, corruptions_of(arms))


def _listed(corruptions: Sequence[str]) -> str:
    """Returns "contrast, brightness and color cast"."""
    *first, last = map(word, corruptions)
    return f"{', '.join(first)} and {last}" if first else last
