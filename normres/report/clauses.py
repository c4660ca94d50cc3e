"""Clauses of a claim: one variant has a lower error than another; an error rises with depth, or does not.

A clause turns the arms into comparisons; inference.py judges all comparisons of a page together.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from normres.report import inference
from normres.report.arms import Arm, Setting, counted, final, metric_words, seed, unit_of
from normres.report.inference import Comparison, Difference, Outcome, Seeds, summarize
from normres.report.tables import number
from normres.runs.results import Run

# The arms of one context, by variant and setting.
Grid = Mapping[tuple[str, Setting], Arm]


@dataclass(frozen=True)
class Quantity:
    """A number of a finished run.

    Attributes:
      words: what it is, such as "test error".
      metric: the final number of the record.
      unit: of the number, "" if it has none; "%" and "points" are printed times 100.
      chance: whether a diverged run counts at the error of guessing; otherwise it is left out.
    """

    words: str
    metric: str = ""
    unit: str = "%"
    chance: bool = True

    def of(self, run: Run) -> float | None:
        """Returns the number of a finished run; None if its record lacks it."""
        return final(run, self.metric)

    @property
    def scale(self) -> float:
        """By what it is multiplied before it is printed."""
        return 100.0 if self.unit in ("%", "points") else 1.0

    @property
    def difference_unit(self) -> str:
        """The unit of a difference: of percentages it is points."""
        return "points" if self.unit == "%" else self.unit

    def measured(self, arm: Arm) -> Sequence[Run]:
        """Returns the runs of an arm whose numbers count: those that finished."""
        return arm.finished

    def by_seed(self, arm: Arm) -> Seeds:
        """Returns the number of each seed; of several runs with one seed, their mean."""
        values: dict[object, list[float]] = {}
        for run in self.measured(arm):
            if (value := self.of(run)) is not None:
                values.setdefault(seed(run), []).append(value)
        for run in arm.diverged if self.chance else ():
            values.setdefault(seed(run), []).append(arm.chance)
        return {number: fmean(several) for number, several in values.items()}

    def step(self, arm: Arm) -> float:
        """Returns the difference between neighbouring values, one image of those evaluated; 0 if it is not known."""
        images = arm.count("train_examples" if self.metric.startswith("train_") else "test_examples")
        return 1 / images if images and (self.metric.endswith("error") or not self.metric) else 0.0

    def difference(self, before: Arm, after: Arm) -> Difference:
        """Returns the difference of two arms."""
        return Difference(self.by_seed(before), self.by_seed(after), max(self.step(before), self.step(after)))

    def text(self, arm: Arm) -> str:
        """Returns "8.75 ± 0.12 %" over the seeds of an arm."""
        return f"{number(summarize(self.by_seed(arm).values()), scale=self.scale)} {self.unit}".rstrip()


def quantity_of(metric: str) -> Quantity:
    """Returns the final number called `metric`, such as "test_error"; only an error has one for diverged runs."""
    return Quantity(metric_words(metric), metric, unit_of(metric), chance=unit_of(metric) == "%")


TRAIN, TEST = quantity_of("train_error"), quantity_of("test_error")


@dataclass(frozen=True)
class Statement:
    """A clause before it is judged.

    Attributes:
      claim: the sentence.
      comparisons: all of them must be as claimed; none if something is missing.
      evidence: the numbers of each comparison, or what is missing; then what else must be said, a sentence each.
      quantity: what is compared.
    """

    claim: str
    comparisons: Sequence[Comparison] = ()
    evidence: Sequence[str] = ()
    quantity: Quantity = TEST


@dataclass(frozen=True)
class Verdict:
    """A clause, what came of it, and the numbers (or the lack) that this rests on."""

    claim: str
    outcome: Outcome
    evidence: str


def judge(statements: Sequence[Statement]) -> list[Verdict]:
    """Judges the statements of a page together."""
    judgements = iter(inference.judge([one for statement in statements for one in statement.comparisons]))
    verdicts = []
    for statement in statements:
        own = [next(judgements) for _ in statement.comparisons]
        texts = list(statement.evidence)
        unit, scale = statement.quantity.difference_unit, statement.quantity.scale
        for place, judgement in enumerate(own):
            texts[place] += f"; difference {judgement.text(unit, scale)}."
        outcome = inference.together([judgement.outcome for judgement in own])
        verdicts.append(Verdict(statement.claim, outcome, " ".join(texts)))
    return verdicts


@dataclass(frozen=True)
class Lower:
    """One variant has a lower number than another, in the last setting of each kind where either was run.

    Attributes:
      claim: the sentence.
      better, worse: names of variants.
      quantity: the number.
      at_least: the depth (or other value) from which the source makes the claim; others neither refute nor support it.
      everywhere: whether all settings from there on must agree, not only the last.
      best: compare each variant at the setting where its own mean is lowest, such as its own learning rate.
      first: compare in the first setting in place of the last.
    """

    claim: str
    better: str
    worse: str
    quantity: Quantity = TEST
    at_least: float = 0
    everywhere: bool = False
    best: bool = False
    first: bool = False

    def state(self, grid: Grid) -> Statement:
        """Returns the comparisons that the arms allow."""
        for name in (self.better, self.worse):
            if not any(variant == name for variant, _ in grid):
                return Statement(self.claim, evidence=[f"There is no run of {name}."])
        variants = (self.better, self.worse)
        chosen: list[Sequence[Setting]] = []
        for settings in _by_kind(setting for variant, setting in grid if variant in variants):
            if self.best:
                chosen.append([self._best(grid, name, settings) or settings[-1] for name in variants])
            else:
                ends = settings[:1] if self.first else settings[-1:]
                chosen += [(one, one) for one in (settings if self.everywhere else ends)]
        return _state(self.claim, self.at_least, [self._at(grid, *settings) for settings in chosen], self.quantity)

    def _best(self, grid: Grid, name: str, settings: Iterable[Setting]) -> Setting | None:
        """Returns the setting with the variant's lowest mean; None if it was run in none of them."""
        done = {one: self.quantity.by_seed(grid[name, one]) for one in settings if (name, one) in grid}
        return min(done, key=lambda one: fmean(done[one].values()) if done[one] else math.inf, default=None)

    def _at(self, grid: Grid, of_better: Setting, of_worse: Setting) -> "_Part":
        arms = []
        for name, setting in ((self.better, of_better), (self.worse, of_worse)):
            arm = grid.get((name, setting))
            if arm is None:
                return _Part(setting, f"There is no run of {name} at {setting.name}.")
            if not self.quantity.by_seed(arm):
                return _Part(setting, f"No run of {name} at {setting.name} has a {self.quantity.words} yet.")
            arms.append(arm)
        better, worse = arms
        where = "" if of_better != of_worse else f" at {of_better.name}"
        numbers = ", ".join(
            f"{arm.variant}{'' if where else f' at {arm.setting.name}'} {self.quantity.text(arm)}" for arm in arms
        )
        difference = self.quantity.difference(worse, better)
        text = f"{self.quantity.words.capitalize()}{where}: {numbers}"
        notes = [*_diverged_note(self.quantity, arms), *(self._edge_note(grid, arm) for arm in arms if self.best)]
        return _Part(of_better, text, Comparison(difference, above=False), list(filter(None, notes)))

    def _edge_note(self, grid: Grid, arm: Arm) -> str:
        """Says that a variant's best setting is the first or the last that was tried; "" if it is not."""
        kind = arm.setting.kind
        tried = [one.at for variant, one in grid if variant == arm.variant and one.kind == kind]
        end = "smallest" if arm.setting.at == min(tried) else "largest" if arm.setting.at == max(tried) else ""
        beyond = f"{arm.variant} is best at the {end} value that was tried: its best may lie beyond."
        return beyond[0].upper() + beyond[1:] if end else ""


@dataclass(frozen=True)
class Trend:
    """The number of one variant rises, or does not rise, from the first to the last setting of each kind.

    Attributes:
      claim: the sentence.
      variant: its name.
      rises: whether it should.
      quantity: the number.
      at_least: the depth that the deepest network must have for the source's claim to apply.
      every_step: whether it must hold from each setting to the next, not only from end to end.
      margin: by how much it may rise and still be "no higher"; named beforehand, of an error 0 to 1.
    """

    claim: str
    variant: str
    rises: bool
    quantity: Quantity = TRAIN
    at_least: float = 0
    every_step: bool = False
    margin: float = 0.01

    def state(self, grid: Grid) -> Statement:
        """Returns the comparisons that the arms allow."""
        kinds = _by_kind(setting for variant, setting in grid if variant == self.variant)
        if not kinds:
            return Statement(self.claim, evidence=[f"There is no run of {self.variant}."])
        parts = [part for settings in kinds if len(settings) > 1 for part in self._along(grid, settings)]
        if not parts:
            only = ", ".join(setting.name for settings in kinds for setting in settings)
            return Statement(self.claim, evidence=[f"Two settings of {self.variant} are needed; there is {only}."])
        return _state(self.claim, self.at_least, parts, self.quantity)

    def _along(self, grid: Grid, settings: Sequence[Setting]) -> "list[_Part]":
        arms = [grid[self.variant, setting] for setting in settings]
        if missing := [arm.setting.name for arm in arms if not self.quantity.by_seed(arm)]:
            words = f"No run of {self.variant} at {', '.join(missing)} has a {self.quantity.words} yet."
            return [_Part(settings[-1], words)]
        parts = []
        for first, last in pairwise(arms) if self.every_step else [(arms[0], arms[-1])]:
            difference = self.quantity.difference(first, last)
            comparison = Comparison(difference, self.rises, 0.0 if self.rises else self.margin)
            numbers = ", ".join(f"{arm.setting.name} {self.quantity.text(arm)}" for arm in (first, last))
            text = f"{self.quantity.words.capitalize()} of {self.variant}: {numbers}"
            parts.append(_Part(settings[-1], text, comparison, _diverged_note(self.quantity, [first, last])))
        return parts


@dataclass(frozen=True)
class _Part:
    """One comparison of a clause, or what it lacks."""

    setting: Setting
    text: str
    comparison: Comparison | None = None
    notes: Sequence[str] = ()


def _by_kind(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Returns the distinct settings of each kind, in order."""
    kinds: dict[tuple[str, str], list[Setting]] = {}
    for setting in sorted(set(settings), key=lambda setting: (setting.kind, setting.at)):
        kinds.setdefault(setting.kind, []).append(setting)
    return list(kinds.values())


def _state(claim: str, at_least: float, parts: Sequence[_Part], quantity: Quantity) -> Statement:
    """Returns the statement of the parts that the source speaks of; all of them must hold."""
    applicable = [part for part in parts if part.setting.at >= at_least]
    if not applicable:
        over = parts[0].setting.over.rpartition(".")[2].replace("_", " ")
        largest = max(part.setting.at for part in parts)
        evidence = (
            f"The source’s claim is about {over} {at_least:,} and more; the largest compared here is {largest:,}. "
            f"These numbers decide nothing: {'. '.join(part.text for part in parts)}."
        )
        return Statement(claim, evidence=[evidence])
    notes = list(dict.fromkeys(note for part in applicable for note in part.notes))
    comparisons = [part.comparison for part in applicable if part.comparison]
    if len(comparisons) < len(applicable):  # one that is missing leaves the clause open
        return Statement(claim, evidence=[*(part.text for part in applicable if not part.comparison), *notes])
    return Statement(claim, comparisons, [*(part.text for part in applicable), *notes], quantity)


def _diverged_note(quantity: Quantity, arms: Sequence[Arm]) -> list[str]:
    """Says of each arm how its diverged runs count."""
    counts = f"count at the error of guessing, {100 * arms[0].chance:g} %" if quantity.chance else "are left out"
    return [
        f"Diverged runs {counts}: {len(arm.diverged)} of {counted(len(arm.runs), 'run')} of {arm.label}."
        for arm in arms
        if arm.diverged and len(quantity.measured(arm)) == len(arm.finished)
    ]
