"""What numbers over seeds allow to say: means, differences with confidence intervals, and the verdict on them.

A comparison is a difference of two means.  Seeds that both sides have are judged by the paired t test, as arms that
share a seed share its data order; sides that share fewer than two seeds are judged by Welch's.  So no result decides
which test it is.  All comparisons of a page are corrected together by Holm's method (1979, Scandinavian Journal of
Statistics 6), so that a page whose true differences all are at their limits has a verdict with a probability
below 5 %.  That holds for seeds and clauses that were fixed before the runs.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean, median, stdev
from typing import Literal

from scipy import stats

from normres.report.labels import counted

Outcome = Literal["supported", "contradicted", "cannot be judged yet"]
OPEN: Outcome = "cannot be judged yet"

FALSE_VERDICTS = 0.05  # the share of pages without any difference that may have one
POWER = 0.8  # the chance that the number of seeds which is named decides the comparison
MOST_SEEDS = 200

RULE = (
    "Rule: a comparison is decided by the confidence interval of the difference of two means: paired t over the seeds "
    "that both arms have, Welch’s where they share fewer than two. It is supported if the whole interval lies on the "
    "claimed side, contradicted if it lies on the other, and cannot be judged yet if it contains the limit. The limit "
    "is 0, or for “no higher” the margin that the claim names. A claim is contradicted if one of its clauses is, and "
    "supported if all are. Holm’s method corrects for all comparisons of the page: if all true differences were equal "
    f"to their limits, fewer than {FALSE_VERDICTS:.0%} of such pages would have any verdict. This holds if seeds and "
    "clauses were fixed before the runs; adding seeds until an interval decides gives more false verdicts. One seed "
    "has no spread and decides nothing. The number of further seeds is an estimate: it gives "
    f"{POWER:.0%} power if mean and spread stay the same."
)

# A value of each seed.
Seeds = Mapping[Hashable, float]


@dataclass(frozen=True)
class Summary:
    """Of n numbers: mean, sample standard deviation (None if n = 1), median and interquartile mean."""

    count: int
    mean: float
    standard_deviation: float | None
    median: float
    interquartile_mean: float


def summarize(values: Iterable[float]) -> Summary | None:
    """Summarizes finite numbers; None if there are none."""
    numbers = sorted(values)
    if not numbers:
        return None
    deviation, count = stdev(numbers) if len(numbers) > 1 else None, len(numbers)
    # The i-th number stands for the quantiles from i / n to (i + 1) / n; those from 1/4 to 3/4 count.
    weights = [max(0.0, min(i + 1, 0.75 * count) - max(i, 0.25 * count)) for i in range(count)]
    return Summary(count, fmean(numbers), deviation, median(numbers), fmean(numbers, weights))


@dataclass(frozen=True)
class Difference:
    """The mean of `after` minus that of `before`.

    Attributes:
      before, after: a value per seed.
      step: between neighbouring values, such as 1 / (number of images) for an error.  Few seeds can have the same
        value by rounding alone, so the spread counts as no smaller than that of rounding, step / sqrt(12).
    """

    before: Seeds
    after: Seeds
    step: float = 0.0

    @cached_property
    def paired(self) -> bool:
        """Whether the seeds that both sides have are compared one by one, and no others."""
        return len(self.before.keys() & self.after.keys()) > 1

    @cached_property
    def sides(self) -> tuple[list[float], list[float]]:
        """The values that are compared, before and after."""
        if not self.paired:
            return list(self.before.values()), list(self.after.values())
        shared = [seed for seed in self.before if seed in self.after]
        return [self.before[seed] for seed in shared], [self.after[seed] for seed in shared]

    @cached_property
    def mean(self) -> float:
        """The difference of the means."""
        before, after = self.sides
        return fmean(after) - fmean(before)

    @cached_property
    def has_spread(self) -> bool:
        """Whether both sides have two seeds or more."""
        return min(map(len, self.sides)) > 1

    def spread(self, seeds: int = 0) -> tuple[float, float]:
        """Returns (standard error, degrees of freedom) with the measured spread, as if each side had so many seeds.

        0 seeds are as many as there are.
        """
        before, after = self.sides
        if self.paired:
            count = seeds or len(before)
            pairs = [b - a for a, b in zip(before, after, strict=True)]
            return max(stdev(pairs), self.step / math.sqrt(6)) / math.sqrt(count), count - 1
        counts = [seeds or len(side) for side in self.sides]
        spreads = [max(stdev(side), self.step / math.sqrt(12)) for side in self.sides]
        parts = [spread**2 / n for spread, n in zip(spreads, counts, strict=True)]
        each = sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
        # Welch's degrees of freedom (1947) are too many if the side with fewer seeds has the larger spread.
        welch = sum(parts) ** 2 / each if each and counts[0] == counts[1] else min(counts) - 1
        return math.sqrt(sum(parts)), welch

    def p_value(self, limit: float) -> float:
        """Returns the two-sided p of the true difference being `limit`."""
        error, freedom = self.spread()
        distance = abs(self.mean - limit)
        rounding = 1e-12 * max(map(abs, (limit, *self.sides[0], *self.sides[1])))
        if error <= rounding:  # equal to the last digit in every seed
            return float(distance <= rounding)
        return float(2 * stats.t.sf(distance / error, freedom))

    def interval(self, level: float) -> tuple[float, float]:
        """Returns the confidence interval of the difference."""
        error, freedom = self.spread()
        reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        return self.mean - reach, self.mean + reach

    def seeds_to_decide(self, limit: float, level: float) -> int | None:
        """Returns the seeds on each side with which `interval` would exclude `limit`; None for more than MOST_SEEDS."""
        for seeds in range(2, MOST_SEEDS + 1):
            error, freedom = self.spread(seeds)
            distance = abs(self.mean - limit) / error if error else (math.inf if self.mean != limit else 0.0)
            if math.isinf(distance) or stats.nct.sf(stats.t.ppf((1 + level) / 2, freedom), freedom, distance) >= POWER:
                return seeds
        return None


@dataclass(frozen=True)
class Comparison:
    """A difference, and what is claimed of it: that it lies above the limit, or below.

    The limit is 0, or the margin of a claim such as "no higher".
    """

    difference: Difference
    above: bool
    limit: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """What came of a comparison: the outcome, and the level of the interval that gave it."""

    comparison: Comparison
    outcome: Outcome
    level: float

    def text(self, unit: str = "points", scale: float = 100.0, digits: int = 2) -> str:
        """Returns the difference, its interval, and how many seeds would decide what is open."""
        difference, signed = self.comparison.difference, partial(_signed, digits=digits)
        text = f"{signed(scale * difference.mean)} {unit}".rstrip()
        if not difference.has_spread:
            return f"{text} (an arm with one seed has no spread; it needs at least 1 more)"
        low, high = difference.interval(self.level)
        kind = (
            f"paired over {len(difference.sides[0])} seeds"
            if difference.paired
            else f"Welch, {len(difference.before)} and {len(difference.after)} seeds"
        )
        level = 100 - float(f"{100 * (1 - self.level):.2g}")  # 98.8, 99.958
        text += f", {level:g} % interval {signed(scale * low)} to {signed(scale * high)} ({kind})"
        if self.comparison.limit:
            text += f", limit {signed(scale * self.comparison.limit)}"
        if self.outcome != OPEN:
            return text
        needed = difference.seeds_to_decide(self.comparison.limit, self.level)
        if not needed:
            return f"{text}; even {MOST_SEEDS} seeds would probably not decide"
        more = max(1, needed - min(map(len, difference.sides)))
        return f"{text}; {counted(more, 'more seed')} for each arm would probably decide"


def judge(comparisons: Sequence[Comparison]) -> list[Judgement]:
    """Judges the comparisons of one claim together, by Holm's method; those without spread stay open."""
    measured = [number for number, comparison in enumerate(comparisons) if comparison.difference.has_spread]
    p_values = {number: comparisons[number].difference.p_value(comparisons[number].limit) for number in measured}
    judgements = [Judgement(comparison, OPEN, 1 - FALSE_VERDICTS) for comparison in comparisons]
    open_from = 0.0  # the level at which the first comparison stayed open: no later one is judged at a lower one
    for rank, number in enumerate(sorted(measured, key=p_values.__getitem__)):
        level = max(1 - FALSE_VERDICTS / (len(measured) - rank), open_from)
        comparison, outcome = comparisons[number], OPEN
        if p_values[number] < 1 - level:
            holds = (comparison.difference.mean > comparison.limit) == comparison.above
            outcome = "supported" if holds else "contradicted"
        else:
            open_from = level
        judgements[number] = Judgement(comparison, outcome, level)
    return judgements


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Returns the outcome of a claim all of whose parts must hold: one refuted part refutes it."""
    if "contradicted" in outcomes:
        return "contradicted"
    return OPEN if not outcomes or OPEN in outcomes else "supported"


def _signed(value: float, digits: int) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"
