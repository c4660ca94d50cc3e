"""A verdict is computed from numbers by a rule that the report states, clause by clause."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normres.report.statistics import Summary

Outcome = Literal["borne out", "not borne out", "cannot be judged yet"]

# A difference counts when it is larger than this many of its standard errors.
STANDARD_ERRORS = 2.0

RULE = (
    "Rule: with two seeds or more on both sides, a difference between two means counts if it is larger "
    "than twice its standard error, √(s₁²/n₁ + s₂²/n₂); one that points the right way but is smaller "
    "cannot be judged yet. With one seed on either side only the sign of the difference is used, and "
    "there is no spread to hold it against."
)


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
