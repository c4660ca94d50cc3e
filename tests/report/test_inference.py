"""Intervals and p against scipy, Holm by hand, and the promises on false verdicts and power by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic import NO, OPEN, YES

from normres.report.inference import MOST_SEEDS, Comparison, Difference, Summary, judge, summarize, together


def numbered(values, first=0):
    return dict(enumerate(map(float, values), first))


def test_summary_by_hand():
    # Mean 20/4 = 5; squared deviations 9 + 1 + 1 + 9 = 20, over n - 1 = 3; median (4 + 6) / 2, also the mean of
    # the middle half.
    assert summarize([8.0, 2.0, 6.0, 4.0]) == Summary(4, 5, pytest.approx(math.sqrt(20 / 3)), 5, 5)
    # Without the two least and the two greatest: (2 + 3 + 4 + 9) / 4.
    assert summarize([0, 0, 2, 3, 4, 9, 70, 80]).interquartile_mean == 4.5
    assert summarize([0.25]) == Summary(1, 0.25, None, 0.25, 0.25)
    assert summarize([]) is None


@pytest.mark.parametrize("limit", [0.0, 0.01, -0.5])
@pytest.mark.parametrize("first", [0, 4, 5])  # of the second side's seeds; one that both sides have makes no pairs
def test_pairs_and_welch_as_scipy_has_them(first, limit):
    rng = np.random.default_rng(1)
    before, after = rng.normal(0.4, 0.02, 5), rng.normal(0.42, 0.05, 5)
    difference = Difference(numbered(before), numbered(after, first))
    welch, paired = stats.ttest_ind(after - limit, before, equal_var=False), stats.ttest_rel(after - limit, before)
    reference = welch if first else paired
    assert difference.paired == (not first)
    assert difference.spread()[1] == pytest.approx(reference.df, rel=1e-9)
    assert difference.p_value(limit) == pytest.approx(reference.pvalue, rel=1e-9)
    interval = [end + limit for end in reference.confidence_interval(0.97)]
    assert difference.interval(0.97) == pytest.approx(interval, rel=1e-9)
    # The order of the seeds is nothing.
    turned = Difference(numbered(before), dict(reversed(numbered(after, first).items())))
    assert turned.p_value(limit) == difference.p_value(limit)


def test_seeds_of_both_sides_are_paired_and_unequal_numbers_are_judged_with_care():
    before, after = numbered([0.40, 0.42, 0.41, 0.9, 0.9]), numbered([0.43, 0.44, 0.46])
    extra = Difference(before, after)
    same = Difference(numbered([0.40, 0.42, 0.41]), after)
    assert (extra.paired, extra.mean, extra.spread()) == (True, same.mean, same.spread())
    # Two noisy seeds against five: Welch's degrees of freedom would be 1.02, those of two seeds are 1.
    assert Difference(numbered([0.3, 0.5]), numbered([0.4, 0.41, 0.39, 0.4, 0.42], 9)).spread()[1] == 1


# --- Holm


def paired_with(p, above=True):
    """Returns a difference of 1 whose p is as given: with one degree of freedom t = tan(pi/2 (1 - p))."""
    error = 1 / math.tan(math.pi / 2 * (1 - p))
    return Comparison(Difference({0: 0.0, 1: 0.0}, {0: 1 - error, 1: 1 + error}), above)


def test_holm_by_hand():
    # R, p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"): 0.03, 0.06, 0.06, 0.02.
    judged = judge([paired_with(p) for p in (0.01, 0.04, 0.03, 0.005)])
    assert [one.outcome for one in judged] == [YES, OPEN, OPEN, YES]
    # 0.005 is judged at 0.05/4, 0.01 at 0.05/3; 0.03 is above 0.05/2, and 0.04 is not judged at 0.05 after it.
    assert [one.level for one in judged] == pytest.approx([1 - 0.05 / 3, 0.975, 0.975, 0.9875])
    for one in judged:  # what is printed is what decides
        low, high = one.comparison.difference.interval(one.level)
        assert (low > 0 or high < 0) == (one.outcome != OPEN)
    assert [one.outcome for one in judge([paired_with(0.04)])] == [YES]
    assert [one.outcome for one in judge([paired_with(0.04, above=False)])] == [NO]
    # R: 0.024, 0.048, 0.048 of 0.008, 0.024 and 0.03.
    assert [one.outcome for one in judge([paired_with(p) for p in (0.03, 0.008, 0.024)])] == [YES] * 3


def test_one_seed_decides_nothing_and_costs_the_others_nothing():
    single = Comparison(Difference({0: 0.1}, {0: 0.9}), True)
    against = Comparison(Difference({0: 0.1}, {0: 0.9, 1: 0.9, 2: 0.91}), True)
    first, second, third = judge([single, against, paired_with(0.04)])
    assert (first.outcome, second.outcome, third.outcome) == (OPEN, OPEN, YES)
    assert third.level == 0.95
    assert first.text() == "+80.00 points (an arm with one seed has no spread; it needs at least 1 more)"


def test_no_higher_needs_the_interval_below_the_margin():
    def outcome(*after):
        return judge([Comparison(Difference(numbered([0.4, 0.4, 0.4]), numbered(after)), False, 0.01)])[0].outcome

    assert outcome(0.399, 0.400, 0.401) == YES  # 0.0 ± 0.25 points
    assert outcome(0.40, 0.41, 0.405) == OPEN  # 0.5 ± 1.2 points: no sign of a rise is no sign of none
    assert outcome(0.45, 0.46, 0.455) == NO
    assert outcome(0.4049, 0.405, 0.4052) == YES  # surely higher, and surely by less than the margin
    assert outcome(0.35, 0.36, 0.355) == YES


def test_text_by_hand():
    # Differences of 1 and 3 points: mean 2, standard error 1; t(0.975, 1) = 12.706.  With 10 seeds, t(0.975, 9) = 2.262
    # and the noncentral t of 1.5 sqrt(10 / 2) lies above it in 85 %, with 9 in 79.5 %.
    (judged,) = judge([Comparison(Difference({0: 0.1, 1: 0.1}, {0: 0.11, 1: 0.13}), True, 0.005)])
    assert judged.text() == (
        "+2.00 points, 95 % interval −10.71 to +14.71 (paired over 2 seeds), limit +0.50; "
        "8 more seeds for each arm would probably decide"
    )
    for judged_at, words in {0.05 / 3: ", 98.3 % ", 0.0125: ", 98.8 % ", 0.00042: ", 99.958 % "}.items():
        assert words in replace(judged, level=1 - judged_at).text()
    assert judged.text("", 1).startswith("+0.02, 95 % interval −0.11 to +0.15 (")
    (judged,) = judge([Comparison(Difference({0: 0.1, 1: 0.1}, {2: 0.11, 3: 0.0901, 4: 0.1}), True)])
    assert judged.text().endswith(f"(Welch, 2 and 3 seeds); even {MOST_SEEDS} seeds would probably not decide")


def test_together():
    assert together([YES, YES]) == YES
    assert together([YES, OPEN]) == OPEN
    assert together([OPEN, NO]) == NO
    assert together([]) == OPEN


# --- zero spread


def test_equal_seeds_do_not_crash():
    same = Difference({0: 0.3, 1: 0.3}, {0: 0.3, 1: 0.3})
    assert judge([Comparison(same, True), Comparison(Difference({0: 0.3, 1: 0.3}, {2: 0.3, 3: 0.3}), True)])[1].text()
    assert same.p_value(0) == 1
    assert same.seeds_to_decide(0.01, 0.95) == 2
    assert same.seeds_to_decide(same.mean, 0.95) is None
    # The difference is the margin but for the rounding of binary fractions.
    assert Difference({0: 0.3, 1: 0.3}, {0: 0.31, 1: 0.31}).p_value(0.01) == 1
    assert Difference({0: 0.3, 1: 0.3}, {0: 0.4, 1: 0.4}).p_value(0) == 0


def test_the_spread_is_no_smaller_than_that_of_rounding():
    step = 1 / 640
    paired = Difference({0: 0.3, 1: 0.3}, {0: 0.3 + step, 1: 0.3 + step}, step)
    assert paired.spread() == pytest.approx((step / math.sqrt(12), 1))  # step / sqrt(6) over two seeds
    apart = Difference({0: 0.3, 1: 0.3}, {2: 0.3 + step, 3: 0.3 + step}, step)
    assert apart.spread() == pytest.approx((step / math.sqrt(12), 2))
    assert judge([Comparison(paired, True)])[0].outcome == OPEN


# --- the promises


@pytest.mark.parametrize(
    ("counts", "deviations", "first", "images"),  # seeds that begin at 9 are none of the other side's
    [
        ((2, 2), (0.01, 0.01), 9, 0),
        ((3, 3), (0.01, 0.005), 9, 0),
        ((2, 5), (0.01, 0.005), 9, 0),
        ((5, 3), (0.01, 0.005), 9, 0),
        ((2, 2), (0.01, 0.005), 0, 0),
        ((3, 3), (0.01, 0.01), 0, 0),
        ((2, 2), (0.002, 0.002), 0, 640),  # seeds that differ by one or two of 640 images are often equal
    ],
)
def test_without_a_difference_few_pages_have_a_verdict(counts, deviations, first, images):
    rng = np.random.default_rng(sum(counts))

    def comparison():
        sides = [rng.normal(0.4, deviation, count) for count, deviation in zip(counts, deviations, strict=True)]
        if images:
            sides = [np.round(side * images) / images for side in sides]
        step = 1 / images if images else 0.0
        return Comparison(Difference(numbered(sides[0]), numbered(sides[1], first), step), True)

    for comparisons, number in ((1, 1000), (4, 600)):
        pages = [judge([comparison() for _ in range(comparisons)]) for _ in range(number)]
        verdicts = sum(any(one.outcome != OPEN for one in page) for page in pages)
        assert verdicts <= stats.binom.isf(1e-3, number, 0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_so_many_seeds_decide_in_80_percent(paired):
    rng = np.random.default_rng(0)
    # The spread of the difference is 0.02 in a pair, or 0.01 and sqrt(0.0003) on its sides; its mean is 0.015.
    for level in (0.95, 0.9875):
        before = numbered([0.40 - 0.01 / math.sqrt(2), 0.40 + 0.01 / math.sqrt(2)])
        half = 0.02 / math.sqrt(2) + 0.01 / math.sqrt(2) if paired else math.sqrt(0.0003 / 2)
        after = numbered([0.415 - half, 0.415 + half], 0 if paired else 2)
        seeds = Difference(before, after).seeds_to_decide(0.0, level)

        def power(count, level=level):
            if paired:
                p = stats.ttest_1samp(rng.normal(0.015, 0.02, (20_000, count)), 0, axis=1).pvalue
            else:
                sides = rng.normal(0, 0.01, (20_000, count)), rng.normal(0.015, math.sqrt(0.0003), (20_000, count))
                p = stats.ttest_ind(*sides, axis=1, equal_var=False).pvalue
            return np.mean(p < 1 - level)

        assert power(seeds) > 0.79
        assert power(seeds - 1) < 0.81
