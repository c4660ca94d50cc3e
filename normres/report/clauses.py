"""Clauses that experiments share: one variant has a lower error than another; the error rises, or not, with depth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from normres.report.statistics import Arm, Network, Summary, metric_words
from normres.report.tables import percent
from normres.report.verdict import Clause, Difference, Outcome, chance, diverged_note, together

UNKNOWN: Outcome = "cannot be judged yet"
# The arms of one context, by variant and network.
Grid = Mapping[tuple[str, Network], Arm]


# What networks of one kind show: the largest depth, the outcome and the numbers.
Part = tuple[int, Outcome, str]


@dataclass(frozen=True)
class Lower:
    """One variant has a lower error than another, in the deepest network of each kind in which either was run.

    Attributes:
      claim: the sentence.
      better, worse: names of variants.
      metric: a final number of the records, such as "test_error".
      from_depth: the depth from which the source makes the claim; shallower networks cannot refute or support it.
      every_depth: whether all networks of that depth and more must agree, not only the deepest.
    """

    claim: str
    better: str
    worse: str
    metric: str = "test_error"
    from_depth: int = 0
    every_depth: bool = False

    unit: ClassVar[str] = "%"

    @property
    def measured(self) -> str:
        """What the numbers are, as the beginning of a sentence."""
        return metric_words(self.metric).capitalize()

    def summary(self, arm: Arm) -> Summary | None:
        """Returns the statistics of an arm's numbers; None if it has none."""
        return arm.summary(self.metric, diverged_as=chance(arm))

    def lack(self, name: str, network: Network) -> str:
        """Returns what is said of a variant without numbers."""
        return f"No run of {name} is done at {network.name}."

    def note(self, arms: Sequence[Arm]) -> str:
        """Returns what is said of diverged runs; begins with a space, empty if there are none."""
        return diverged_note(arms)

    def judge(self, grid: Grid) -> Clause:
        """Returns the clause with its outcome and the numbers that it rests on."""
        variants = (self.better, self.worse)
        for name in variants:
            if not any(variant == name for variant, _ in grid):
                return Clause(self.claim, UNKNOWN, f"There is no run of {name}.")
        compared = []
        for networks in _by_kind(network for variant, network in grid if variant in variants):
            compared += networks if self.every_depth else networks[-1:]
        return _conclude(self.claim, self.from_depth, [self._at(grid, network) for network in compared])

    def _at(self, grid: Grid, network: Network) -> Part:
        """Judges one network."""
        arms: list[Arm] = []
        errors: list[Summary] = []
        for name in (self.better, self.worse):
            arm = grid.get((name, network))
            error = self.summary(arm) if arm else None
            if arm is None or error is None:
                lack = self.lack(name, network) if arm else f"There is no run of {name} at {network.name}."
                return (network.depth, UNKNOWN, lack)
            arms.append(arm)
            errors.append(error)
        difference = Difference(before=errors[1], after=errors[0])
        numbers = ", ".join(
            f"{arm.variant} {percent(error)} {self.unit}" for arm, error in zip(arms, errors, strict=True)
        )
        evidence = f"{self.measured} at {network.name}: {numbers}; difference {difference.text()}.{self.note(arms)}"
        return (network.depth, difference.is_lower(), evidence)


@dataclass(frozen=True)
class Trend:
    """The error of one variant rises, or does not rise, from the shallowest to the deepest network of each kind.

    Attributes:
      claim: the sentence.
      variant: its name.
      rises: whether it should.
      metric: a final number of the records, such as "train_error".
      from_depth: the depth that the deepest network must have for the source's claim to apply.
      every_step: whether it must hold from each network to the next deeper one, not only from end to end.
    """

    claim: str
    variant: str
    rises: bool
    metric: str = "train_error"
    from_depth: int = 0
    every_step: bool = False

    def judge(self, grid: Grid) -> Clause:
        """Returns the clause with its outcome and the numbers that it rests on."""
        kinds = _by_kind(network for variant, network in grid if variant == self.variant)
        if not kinds:
            return Clause(self.claim, UNKNOWN, f"There is no run of {self.variant}.")
        parts = [self._along(grid, networks) for networks in kinds if len(networks) > 1]
        if not parts:
            only = ", ".join(network.name for networks in kinds for network in networks)
            return Clause(self.claim, UNKNOWN, f"Two depths of {self.variant} are needed; there is {only}.")
        return _conclude(self.claim, self.from_depth, parts)

    def _along(self, grid: Grid, networks: Sequence[Network]) -> Part:
        """Judges networks of one kind, from shallow to deep."""
        arms = {network: grid[self.variant, network] for network in networks}
        errors = {
            network: summary
            for network, arm in arms.items()
            if (summary := arm.summary(self.metric, diverged_as=chance(arm)))
        }
        deepest = networks[-1].depth
        if waiting := [network.name for network in networks if network not in errors]:
            return (deepest, UNKNOWN, f"No run of {self.variant} is done at {', '.join(waiting)}.")
        ends = list(errors.values())
        pairs = list(pairwise(ends)) if self.every_step else [(ends[0], ends[-1])]
        differences = [Difference(before, after) for before, after in pairs]
        evidence = (
            f"{metric_words(self.metric).capitalize()} of {self.variant}: "
            + ", ".join(f"{network.name} {percent(error)} %" for network, error in errors.items())
            + f"; difference {', then '.join(difference.text() for difference in differences)}."
            + diverged_note(list(arms.values()))
        )
        outcomes = [step.is_higher() if self.rises else step.is_not_higher() for step in differences]
        return (deepest, together(outcomes), evidence)


def _by_kind(networks: Iterable[Network]) -> list[list[Network]]:
    """Returns the distinct networks of each kind, from shallow to deep."""
    kinds: dict[tuple[str, str], list[Network]] = {}
    for network in sorted(set(networks), key=lambda network: (network.kind, network.depth)):
        kinds.setdefault(network.kind, []).append(network)
    return list(kinds.values())


def _conclude(claim: str, from_depth: int, parts: Sequence[Part]) -> Clause:
    """Returns the clause that the parts of sufficient depth decide; all of them must hold."""
    deep = [part for part in parts if part[0] >= from_depth]
    evidence = " ".join(text for _, _, text in deep or parts)
    if deep:
        return Clause(claim, together([outcome for _, outcome, _ in deep]), evidence)
    deepest = max(depth for depth, _, _ in parts)
    too_shallow = (
        f"The source’s claim is about depth {from_depth:,} and more; the deepest network compared here has depth "
        f"{deepest:,}. Its errors decide nothing: "
    )
    return Clause(claim, UNKNOWN, too_shallow + evidence)
