"""Clauses that several experiments share: one variant is better than another; error rises, or does not, with depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from normres.report.evidence import chance, diverged_note
from normres.report.statistics import Arm, Summary
from normres.report.tables import percent
from normres.report.verdict import Clause, Difference, Outcome, together

UNKNOWN: Outcome = "cannot be judged yet"
_METRICS = {"test_error": "test error", "train_error": "training error"}
_DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


@dataclass(frozen=True)
class Network:
    """What the papers' columns are: a depth, a kind of block and a data set."""

    depth: int
    block: str = "basic"
    data: str = "cifar10"

    @property
    def name(self) -> str:
        """Returns "depth 110", "depth 164 (bottleneck), CIFAR-100"."""
        block = "" if self.block == "basic" else f" ({self.block})"
        return f"depth {self.depth:,}{block}" + (
            "" if self.data == "cifar10" else f", {_DATA.get(self.data, self.data)}"
        )

    @property
    def kind(self) -> tuple[str, str]:
        """Returns what must agree for two depths to be compared; also the first part of the order."""
        return (self.data, self.block)


# The arms of one context, by variant and network.
Found = Mapping[tuple[str, Network], Arm]


@dataclass(frozen=True)
class Lower:
    """One variant has a lower error than another, in the deepest network of each kind in which either was run.

    Attributes:
      claim: the sentence.
      better, worse: names of variants.
      metric: "test_error" or "train_error".
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
        return _METRICS[self.metric].capitalize()

    def summary(self, arm: Arm) -> Summary | None:
        """Returns the statistics of an arm's numbers; None if it has none."""
        return _summary(arm, self.metric)

    def lack(self, name: str, network: Network) -> str:
        """Returns what is said of a variant without numbers."""
        return f"No run of {name} is done at {network.name}."

    def note(self, arms: Sequence[Arm]) -> str:
        """Returns what is said of diverged runs; begins with a space, empty if there are none."""
        return diverged_note(arms)

    def judge(self, found: Found) -> Clause:
        """Returns the clause with its outcome and the numbers that it rests on."""
        for name in (self.better, self.worse):
            if not any(variant == name for variant, _ in found):
                return Clause(self.claim, UNKNOWN, f"There is no run of {name}.")
        networks = {network for variant, network in found if variant in (self.better, self.worse)}
        chosen = sorted(networks, key=lambda network: (network.kind, network.depth))
        if not self.every_depth:
            chosen = [n for n in chosen if n.depth == max(other.depth for other in chosen if other.kind == n.kind)]
        deep = [network for network in chosen if network.depth >= self.from_depth]
        judged = [self._at(found, network) for network in deep or chosen]
        evidence = " ".join(text for _, text in judged)
        if deep:
            return Clause(self.claim, together([outcome for outcome, _ in judged]), evidence)
        return Clause(
            self.claim, UNKNOWN, f"{_too_shallow(self.from_depth, chosen)} There, which decides nothing: {evidence}"
        )

    def _at(self, found: Found, network: Network) -> tuple[Outcome, str]:
        """Returns the outcome in one network, and the numbers."""
        summaries = {}
        for name in (self.better, self.worse):
            arm = found.get((name, network))
            if arm is None:
                return UNKNOWN, f"There is no run of {name} at {network.name}."
            summary = self.summary(arm)
            if summary is None:
                return UNKNOWN, self.lack(name, network)
            summaries[name] = (summary, arm)
        (better, first), (worse, second) = summaries[self.better], summaries[self.worse]
        difference = Difference(worse, better)
        text = (
            f"{self.measured} at {network.name}: {self.better} {percent(better)} {self.unit}, "
            f"{self.worse} {percent(worse)} {self.unit}; difference {difference.text()}.{self.note([first, second])}"
        )
        return difference.is_lower(), text


@dataclass(frozen=True)
class Trend:
    """The error of one variant rises, or does not, from the shallowest to the deepest network of each kind.

    Attributes:
      claim: the sentence.
      variant: its name.
      rises: whether it should.
      metric: "test_error" or "train_error".
      from_depth: the depth that the deepest network must have for the source's claim to apply.
    """

    claim: str
    variant: str
    rises: bool
    metric: str = "train_error"
    from_depth: int = 0

    def judge(self, found: Found) -> Clause:
        """Returns the clause with its outcome and the numbers that it rests on."""
        kinds: dict[tuple[str, str], list[Network]] = {}
        for variant, network in sorted(found, key=lambda key: (key[1].kind, key[1].depth)):
            if variant == self.variant:
                kinds.setdefault(network.kind, []).append(network)
        if not kinds:
            return Clause(self.claim, UNKNOWN, f"There is no run of {self.variant}.")
        everything = [network for networks in kinds.values() for network in networks]
        judged = [self._along(found, networks) for networks in kinds.values() if len(networks) > 1]
        if not judged:
            only = ", ".join(network.name for network in everything)
            return Clause(self.claim, UNKNOWN, f"Two depths of {self.variant} are needed; there is {only}.")
        evidence = " ".join(text for _, _, text in judged)
        deep = [outcome for depth, outcome, _ in judged if depth >= self.from_depth]
        if deep:
            return Clause(self.claim, together(deep), evidence)
        return Clause(
            self.claim, UNKNOWN, f"{_too_shallow(self.from_depth, everything)} There, which decides nothing: {evidence}"
        )

    def _along(self, found: Found, networks: list[Network]) -> tuple[int, Outcome, str]:
        """Returns the largest depth, the outcome and the numbers along networks of one kind."""
        arms = [found[self.variant, network] for network in networks]
        summaries = [_summary(arm, self.metric) for arm in arms]
        waiting = [network.name for network, summary in zip(networks, summaries, strict=True) if summary is None]
        first, last = summaries[0], summaries[-1]
        if waiting or first is None or last is None:
            return networks[-1].depth, UNKNOWN, f"No run of {self.variant} is done at {', '.join(waiting)}."
        difference = Difference(first, last)
        listed = ", ".join(f"{n.name} {percent(s)} %" for n, s in zip(networks, summaries, strict=True))
        text = (
            f"{_METRICS[self.metric].capitalize()} of {self.variant}: {listed}; "
            f"difference {difference.text()}.{diverged_note(arms)}"
        )
        return networks[-1].depth, difference.is_higher() if self.rises else difference.is_not_higher(), text


def _summary(arm: Arm, metric: str) -> Summary | None:
    return arm.summary(metric, diverged_as=chance(arm))


def _too_shallow(depth: int, networks: list[Network]) -> str:
    deepest = max(network.depth for network in networks)
    return f"The source’s claim is about depth {depth:,} and more; the deepest network here has depth {deepest:,}."
