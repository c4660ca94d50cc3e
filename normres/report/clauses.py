"""Clauses of a claim: one variant has a lower error than another; an error rises with depth, or does not.

A clause turns the arms into comparisons; inference.py judges all comparisons of a page together.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from normres.report import inference
from normres.report.arms import Arm, Setting, final
from normres.report.inference import Comparison, Difference, Outcome, Seeds, summarize
from normres.report.labels import counted, metric_words, unit_of
from normres.report.tables import number
from normres.runs.results import Run

# The arms of one context, by variant and setting.
Grid = Mapping[tuple[str, Setting], Arm]


@dataclass(frozen=True)
class Quantity:
    """A number of a run.

    Attributes:
      words: what it is, such as "test error".
      metric: the final number of the record.
      unit: of the number, "" if it has none; "%" and "points" are printed times 100.
      chance: whether a diverged run counts at the error of guessing, as for train_error and test_error; otherwise it is
        left out.
      number: run -> the number, in place of the final one; None of a run that lacks it.
      unfinished: whether the numbers of runs that have not finished count, too, such as one from before training.
    """

    words: str
    metric: str = ""
    unit: str = "%"
    chance: bool = False
    number: Callable[[Run], float | None] | None = None
    unfinished: bool = False

    @property
    def scale(self) -> float:
        """By what it is multiplied before it is printed."""
        return 100.0 if self.unit in ("%", "points") else 1.0

    @property
    def of_difference(self) -> tuple[str, float, int]:
        """Unit, scale and digits of a difference: of percentages the unit is points."""
        return "points" if self.unit == "%" else self.unit, self.scale, self.digits

    def by_seed(self, arm: Arm) -> Seeds:
        """Returns the number of each seed; of several runs with one seed, their mean."""

        def number(run: Run) -> float | None:
            if self.chance and run.record["status"] == "diverged":
                return arm.chance
            return self.number(run) if self.number else final(run, self.metric)

        done = (*arm.finished, *(arm.diverged if self.chance else ()))
        return arm.by_seed(number, arm.runs if self.unfinished else done)

    def step(self, arm: Arm) -> float:
        """Returns the difference between neighbouring values, one image of those evaluated; 0 if it is not known."""
        images = arm.count("train_examples" if self.metric.startswith("train_") else "test_examples")
        return 1 / images if images and self.scale == 100 else 0.0

    def difference(self, before: Arm, after: Arm) -> Difference:
        """Returns the difference of two arms."""
        return Difference(self.by_seed(before), self.by_seed(after), max(self.step(before), self.step(after)))

    def text(self, values: Iterable[float]) -> str:
        """Returns "8.75 ± 0.12 %" of the values of seeds."""
        return f"{number(summarize(values), self.digits, self.scale)} {self.unit}".rstrip()

    @property
    def digits(self) -> int:
        """Returns the decimals that are printed: of a loss, three."""
        return 3 if self.metric.endswith("loss") else 2


def quantity_of(metric: str) -> Quantity:
    """Returns the final number called `metric`; of diverged runs, train_error and test_error are those of guessing."""
    return Quantity(metric_words(metric), metric, unit_of(metric), chance=metric in ("train_error", "test_error"))


TRAIN, TEST = quantity_of("train_error"), quantity_of("test_error")


@dataclass(frozen=True)
class Part:
    """A comparison of a clause and its numbers, or a sentence that says what is missing; and what else must be said."""

    text: str
    comparison: Comparison | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """A clause, what came of it, and the numbers (or the lack) that this rests on."""

    claim: str
    outcome: Outcome
    evidence: str


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

    def parts(self, grid: Grid) -> list[Part]:
        """Returns the comparisons that the arms allow."""
        variants = (self.better, self.worse)
        for name in variants:
            if not any(variant == name for variant, _ in grid):
                return [Part(f"There is no run of {name}.")]
        parts = []
        for settings in _by_kind(setting for variant, setting in grid if variant in variants):
            if self.best:
                better, worse = (self._best(grid, name, settings) for name in variants)
                parts.append((better, self._part(grid, better, worse)))
            else:
                ends = settings[:1] if self.first else settings[-1:]
                parts += [(one, self._part(grid, one, one)) for one in (settings if self.everywhere else ends)]
        return _applicable(parts, self.at_least)

    def _best(self, grid: Grid, name: str, settings: Sequence[Setting]) -> Setting:
        """Returns the setting with the variant's lowest mean among those with the most seeds; the last if it has none.

        A setting with fewer seeds, of a sweep that still runs, could be the lowest by luck.
        """
        arms = {setting: arm for setting in settings if (arm := grid.get((name, setting)))}
        values = {setting: [*self.quantity.by_seed(arm).values()] for setting, arm in arms.items()}
        most = max(map(len, values.values()), default=0)
        means = {setting: fmean(each or [math.inf]) for setting, each in values.items() if len(each) == most}
        return min(means, key=means.__getitem__, default=settings[-1])

    def _part(self, grid: Grid, of_better: Setting, of_worse: Setting) -> Part:
        arms = []
        for name, setting in ((self.better, of_better), (self.worse, of_worse)):
            arm = grid.get((name, setting))
            if arm is None:
                return Part(f"There is no run of {name} at {setting.name}.")
            if not self.quantity.by_seed(arm):
                return Part(f"No run of {name} at {setting.name} has a {self.quantity.words} yet.")
            arms.append(arm)
        better, worse = arms
        where = f" at {of_better.name}" if of_better == of_worse else ""
        places = ["" if where else f" at {arm.setting.name}" for arm in arms]
        comparison = Comparison(self.quantity.difference(worse, better), above=False)
        values = comparison.difference.sides[::-1]  # of the seeds that are compared
        texts = map(self.quantity.text, values)
        numbers = ", ".join(f"{arm.variant} {text}{at}" for arm, text, at in zip(arms, texts, places, strict=True))
        notes = [*_diverged_notes(self.quantity, arms), *(self._edge_notes(grid, arms) if self.best else ())]
        return Part(f"{self.quantity.words.capitalize()}{where}: {numbers}", comparison, notes)

    def _edge_notes(self, grid: Grid, arms: Sequence[Arm]) -> Iterator[str]:
        """Says of each variant whose best setting is the first or the last that was tried that it is."""
        for arm in arms:
            at, kind = arm.setting.at, arm.setting.kind
            tried = [one.at for variant, one in grid if variant == arm.variant and one.kind == kind]
            if at in (min(tried), max(tried)):
                end, name = "smallest" if at == min(tried) else "largest", arm.variant[0].upper() + arm.variant[1:]
                yield f"{name} is best at the {end} value that was tried: its best may lie beyond."


@dataclass(frozen=True)
class Trend:
    """The number of one variant rises, or does not rise, from the first to the last setting of each kind.

    Attributes:
      claim: the sentence.
      variant: its name.
      rises: whether it should.
      quantity: the number.
      at_least: the depth that the deepest network must have for the source's claim to apply.
      margin: by how much it may rise and still be "no higher"; named beforehand, of an error 0 to 1.
      backwards: from the last setting to the first.
    """

    claim: str
    variant: str
    rises: bool
    quantity: Quantity = TRAIN
    at_least: float = 0
    margin: float = 0.01
    backwards: bool = False

    def parts(self, grid: Grid) -> list[Part]:
        """Returns the comparisons that the arms allow."""
        kinds = _by_kind(setting for variant, setting in grid if variant == self.variant)
        if not kinds:
            return [Part(f"There is no run of {self.variant}.")]
        series = [settings for settings in kinds if len(settings) > 1]
        if not series:
            only = ", ".join(setting.name for settings in kinds for setting in settings)
            return [Part(f"Two settings of {self.variant} are needed; there is {only}.")]
        return _applicable([(settings[-1], self._part(grid, settings)) for settings in series], self.at_least)

    def _part(self, grid: Grid, settings: Sequence[Setting]) -> Part:
        arms = [grid[self.variant, setting] for setting in (settings[::-1] if self.backwards else settings)]
        if missing := [arm.setting.name for arm in arms if not self.quantity.by_seed(arm)]:
            return Part(f"No run of {self.variant} at {', '.join(missing)} has a {self.quantity.words} yet.")
        first, last = arms[0], arms[-1]
        difference = self.quantity.difference(first, last)
        comparison: Comparison | None = Comparison(difference, self.rises, 0.0 if self.rises else self.margin)
        sides = zip((first, last), difference.sides, strict=True)  # of the seeds that are compared
        numbers = ", ".join(f"{self.quantity.text(values)} at {arm.setting.name}" for arm, values in sides)
        text = f"{self.quantity.words.capitalize()} of {self.variant}: {numbers}"
        if not self.rises and self.quantity.chance and first.diverged and last.diverged:
            comparison, text = None, f"{text}. Runs diverged at both, so this decides nothing."
        return Part(text, comparison, _diverged_notes(self.quantity, [first, last]))


def _by_kind(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Returns the distinct settings of each kind, in order."""
    kinds: dict[tuple[str, str], list[Setting]] = {}
    for setting in sorted(set(settings), key=lambda setting: (setting.kind, setting.at)):
        kinds.setdefault(setting.kind, []).append(setting)
    return list(kinds.values())


def _applicable(parts: Sequence[tuple[Setting, Part]], at_least: float) -> list[Part]:
    """Returns the parts at the settings that the source speaks of; if there are none, one that says so."""
    if applicable := [part for setting, part in parts if setting.at >= at_least]:
        return applicable
    over = parts[0][0].over.rpartition(".")[2].replace("_", " ")
    largest = max(setting.at for setting, _ in parts)
    text = (
        f"The source’s claim is about {over} {at_least:,} and more; the largest compared here is {largest:,}. "
        f"These numbers decide nothing: {'. '.join(part.text for _, part in parts)}."
    )
    return [Part(text)]


def _diverged_notes(quantity: Quantity, arms: Sequence[Arm]) -> list[str]:
    """Says of each arm how its diverged runs count."""
    counts = f"count at the error of guessing, {100 * arms[0].chance:g} %" if quantity.chance else "are left out"
    return [
        f"Diverged runs {counts}: {len(arm.diverged)} of {counted(len(arm.runs), 'run')} of {arm.label}."
        for arm in arms
        if arm.diverged and not quantity.unfinished
    ]


def judge(claims: Sequence[tuple[Lower | Trend, Grid]]) -> list[Verdict]:
    """Judges the clauses of a page together, each on its arms; a part that is missing leaves its clause open."""
    parts_of = [clause.parts(grid) for clause, grid in claims]
    judgements = iter(inference.judge([part.comparison for parts in parts_of for part in parts if part.comparison]))
    verdicts = []
    for (clause, _), parts in zip(claims, parts_of, strict=True):
        texts, outcomes = [], []
        for part in parts:
            judgement = next(judgements) if part.comparison else None
            outcomes.append(judgement.outcome if judgement else inference.OPEN)
            difference = f"; difference {judgement.text(*clause.quantity.of_difference)}." if judgement else ""
            texts.append(part.text + difference)
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        verdicts.append(Verdict(clause.claim, inference.together(outcomes), " ".join([*texts, *notes])))
    return verdicts
