"""A verdict is computed from numbers by a rule that the report states; and what is said of any numbers beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from normres.report.statistics import Arm, Summary, field

Outcome = Literal["borne out", "not borne out", "cannot be judged yet"]

# A difference counts when it is larger than this many of its standard errors.
STANDARD_ERRORS = 2.0

RULE = (
    "Rule: with two seeds or more on both sides, a difference between two means counts if it is larger "
    "than twice its standard error, √(s₁²/n₁ + s₂²/n₂); one that points the right way but is smaller "
    "cannot be judged yet. With one seed on either side only the sign of the difference is used, and "
    "there is no spread to hold it against."
)

# The training of He et al. 2015 and 2016 on CIFAR.
PAPER_SCALE: Mapping[str, Any] = {"model.width": 16, "train.steps": 64_000, "train.batch_size": 128}
PAPER_TRAINING_IMAGES = 50_000


@dataclass(frozen=True)
class Clause:
    """One part of a claim, what came of it, and the numbers (or the lack) that this rests on."""

    claim: str
    outcome: Outcome
    evidence: str


@dataclass(frozen=True)
class Difference:
    """The mean of `after` minus that of `before`; its standard error is None if either has one seed."""

    before: Summary
    after: Summary

    @property
    def value(self) -> float:
        """The difference of the means."""
        return self.after.mean - self.before.mean

    @property
    def standard_error(self) -> float | None:
        """sqrt(s1^2/n1 + s2^2/n2)."""
        first, second = self.before.standard_error, self.after.standard_error
        return None if first is None or second is None else math.hypot(first, second)

    @property
    def margin(self) -> float:
        """What the difference must exceed to count; 0 without a spread."""
        return STANDARD_ERRORS * (self.standard_error or 0.0)

    def is_higher(self) -> Outcome:
        """Whether `after` is higher than `before`."""
        if self.value > self.margin:
            return "borne out"
        return "cannot be judged yet" if self.value > 0 else "not borne out"

    def is_not_higher(self) -> Outcome:
        """Whether `after` is no higher than `before`."""
        if self.value <= 0:
            return "borne out"
        return "cannot be judged yet" if self.value <= self.margin else "not borne out"

    def is_lower(self) -> Outcome:
        """Whether `after` is lower than `before`."""
        return Difference(self.after, self.before).is_higher()

    def text(self) -> str:
        """Returns the difference in percentage points, with its standard error or why it has none."""
        sign = "−" if self.value < 0 else "+"
        points = f"{sign}{100 * abs(self.value):.2f}"
        counts = f"{self.before.count} and {self.after.count} seeds"
        if self.standard_error is None:
            why = "one seed each" if self.before.count == self.after.count == 1 else counts
            return f"{points} points ({why}: no spread)"
        return f"{points} ± {100 * self.standard_error:.2f} points (standard error; {counts})"


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Returns the outcome of a claim all of whose parts must hold: one refuted part refutes it."""
    if "not borne out" in outcomes:
        return "not borne out"
    if not outcomes or "cannot be judged yet" in outcomes:
        return "cannot be judged yet"
    return "borne out"


def chance(arm: Arm) -> float:
    """Returns the error of guessing, 1 - 1/classes, at which a diverged network counts."""
    return 1 - 1 / (_data_count(arm, "classes") or 10)


def runs_text(count: int, of: int) -> str:
    """Returns "1 of 2 runs"."""
    return f"{count} of {of} run{'s' * (of != 1)}"


def seeds_text(arms: Sequence[Arm]) -> str:
    """Returns "3 seeds" or "1 to 3 seeds"."""
    fewest, most = min(len(arm.runs) for arm in arms), max(len(arm.runs) for arm in arms)
    return f"{most if fewest == most else f'{fewest} to {most}'} seed{'s' * (most > 1)}"


def diverged_note(arms: Sequence[Arm]) -> str:
    """Says which of the arms' errors are those of diverged runs; begins with a space, empty if none is."""
    diverged = [arm for arm in arms if arm.diverged]
    if not diverged:
        return ""
    which = "; ".join(f"{runs_text(len(arm.diverged), len(arm.runs))} of {arm.label}" for arm in diverged)
    return f" Diverged runs count at the error of guessing, {100 * chance(diverged[0]):g} %: {which}."


def overfitting_note(lines: Mapping[str, Sequence[Arm]]) -> str:
    """Says where the test error rises with depth although the training error falls: that is not degradation."""
    sentences = []
    for label, arms in lines.items():
        shallow, deep = arms[0], arms[-1]
        train, test = (
            Difference(before, after) if before and after else None
            for before, after in ((shallow.summary(name), deep.summary(name)) for name in ("train_error", "test_error"))
        )
        if train and test and train.is_lower() == test.is_higher() == "borne out":
            sentences.append(
                f" From depth {shallow.network.depth} to {deep.network.depth} the test error of {label} "
                f"rises, but its training error falls: the deeper network overfits the "
                f"{_data_count(deep, 'train_examples'):,} training images, which is not degradation."
            )
    return "".join(sentences)


def digits(arms: Sequence[Arm]) -> int:
    """Returns the decimals of an error in percent: 2 if every set has 5,000 images or more, otherwise 1."""
    sizes = [_data_count(arm, name) for arm in arms for name in ("train_examples", "test_examples")]
    return 2 if min(sizes, default=0) >= 5_000 else 1


def scale_notes(arms: Sequence[Arm]) -> list[str]:
    """Returns a sentence on how these runs differ in scale from the papers'; none if they do not."""
    runs = [run for arm in arms for run in arm.runs]
    scale = []
    for name, paper in PAPER_SCALE.items():
        here = sorted({field(run, name) for run in runs})
        if here != [paper]:
            word = name.rpartition(".")[2].replace("_", " ")
            scale.append(f"{word} {', '.join(f'{value:,}' for value in here)} here, {paper:,} there")
    images = sorted({_data_count(arm, "train_examples") for arm in arms})
    if images != [PAPER_TRAINING_IMAGES]:
        counts = ", ".join(f"{count:,}" for count in images)
        scale.append(f"{counts} training images here, {PAPER_TRAINING_IMAGES:,} there")
    return [f"The scale differs, so only the order can be compared: {'; '.join(scale)}."] if scale else []


def _data_count(arm: Arm, name: str) -> int:
    """Returns a count of the record's data, such as "train_examples"; 0 if it is not known."""
    return int((arm.runs[0].record.get("data") or {}).get(name) or 0)
