"""Clauses on arms made by hand, and what makes an arm."""

from dataclasses import replace

import pytest
from synthetic import NO, OPEN, YES, arm, experiment, grid, made

from normres.errors import UserError
from normres.report.arms import distinguishing_fields, group
from normres.report.clauses import TEST, TRAIN, Lower, Quantity, Trend, judge, quantity_of
from normres.report.probes import probed


def seeds(mean):
    return [mean - 0.001, mean, mean + 0.0012]


def verdict(clause, *arms):
    (one,) = judge([(clause, grid(*arms))])
    return one


LOWER = Lower("x", "A", "B")
RISES = Trend("x", "A", rises=True)


# --- Lower


def test_lower_is_about_the_last_setting_or_all():
    arms = [arm("A", at, seeds(e)) for at, e in ((20, 0.5), (56, 0.2))]
    arms += [arm("B", at, [e, e, e]) for at, e in ((20, 0.3), (56, 0.3))]
    assert verdict(LOWER, *arms).outcome == YES
    assert verdict(Lower("x", "B", "A"), *arms).outcome == NO
    assert verdict(Lower("x", "A", "B", everywhere=True), *arms).outcome == NO
    assert verdict(Lower("x", "A", "B", everywhere=True, at_least=50), *arms).outcome == YES
    assert verdict(LOWER, *arms).evidence.startswith(
        "Test error at depth 56: A 20.01 ± 0.11 %, B 30.00 ± 0.00 %; difference −9.99 points, 95 % interval −10.27 to "
    )


def test_shallower_than_the_source_decides_nothing():
    arms = [arm("A", 20, seeds(0.2)), arm("B", 20, seeds(0.4))]
    one = verdict(Lower("x", "A", "B", at_least=1001), *arms)
    assert one.outcome == OPEN
    assert one.evidence == (
        "The source’s claim is about depth 1,001 and more; the largest compared here is 20. These numbers decide "
        "nothing: Test error at depth 20: A 20.01 ± 0.11 %, B 40.01 ± 0.11 %."
    )


def test_the_best_setting_of_each_variant():
    rates = {"over": "optim.learning_rate"}
    arms = [arm("A", at, seeds(e), **rates) for at, e in ((0.1, 0.5), (0.3, 0.2), (1.0, 0.6))]
    arms += [arm("B", at, [e, e, e], **rates) for at, e in ((0.1, 0.3), (0.3, 0.9), (1.0, 0.25))]
    one = verdict(Lower("x", "A", "B", best=True), *arms)
    assert one.outcome == YES
    assert one.evidence.startswith("Test error: A 20.01 ± 0.11 % at learning rate 0.3, B 25.00 ± 0.00 % at ")
    assert one.evidence.endswith(" B is best at the largest value that was tried: its best may lie beyond.")
    assert verdict(Lower("x", "A", "B"), *arms).outcome == NO  # at 1.0
    # Where a sweep has only one seed yet, it may be the lowest by luck.
    assert verdict(Lower("x", "A", "B", best=True), *arms, arm("B", 3.0, [0.1], **rates)).outcome == YES
    # Of one kind there are runs of one variant only.
    one = verdict(Lower("x", "A", "B", best=True), *arms, arm("A", 0.1, [0.2], block="bottleneck", **rates))
    assert one.outcome == OPEN
    assert "There is no run of B" in one.evidence
    # What is refuted stays refuted, whatever else is missing.
    one = verdict(Lower("x", "A", "B", everywhere=True), *arms, arm("A", 3.0, [0.2], **rates))
    assert one.outcome == NO
    assert "There is no run of B at learning rate 3.0." in one.evidence


@pytest.mark.parametrize(
    ("clause", "arms", "evidence"),
    [
        (LOWER, [], "There is no run of A."),
        (LOWER, [arm("A", 20, [0.1])], "There is no run of B."),
        (LOWER, [arm("A", 20, [0.1]), arm("B", 56, [0.1])], "There is no run of A at depth 56."),
        (
            LOWER,
            [arm("A", 20, [0.1]), arm("B", 20, [0.1], status={0: "running"})],
            "No run of B at depth 20 has a test error yet.",
        ),
        (RISES, [], "There is no run of A."),
        (RISES, [arm("A", 20, [0.1])], "Two settings of A are needed; there is depth 20."),
        (
            RISES,
            [arm("A", 20, [0.1]), arm("A", 56, [0.1], status={0: "running"})],
            "No run of A at depth 56 has a training error yet.",
        ),
    ],
)
def test_what_is_missing_is_named(clause, arms, evidence):
    one = verdict(clause, *arms)
    assert (one.outcome, one.evidence) == (OPEN, evidence)


# --- Trend


def test_a_trend_is_from_end_to_end():
    arms = [arm("A", at, [e, e + shift, e]) for at, e, shift in ((8, 0.3, 0), (20, 0.2, 0.001), (56, 0.4, 0.002))]
    assert verdict(RISES, *arms).outcome == YES
    assert verdict(Trend("x", "A", rises=False), *arms).outcome == NO
    assert verdict(Trend("x", "A", rises=False), *arms[:2]).outcome == YES
    assert verdict(Trend("x", "A", rises=False, backwards=True), *arms[:2]).outcome == NO
    # Steps of different kinds are not joined.
    assert verdict(RISES, arms[2], arm("A", 110, [0.1], block="bottleneck")).outcome == OPEN


def test_no_higher_has_a_margin():
    arms = [arm("A", 20, seeds(0.300)), arm("A", 56, [0.3055, 0.305, 0.3045])]
    wide, narrow = (verdict(Trend("x", "A", rises=False, margin=margin), *arms) for margin in (0.02, 0.006))
    assert (wide.outcome, narrow.outcome) == (YES, OPEN)
    assert "limit +2.00" in wide.evidence


def test_networks_that_diverge_at_both_ends_do_not_show_that_an_error_does_not_rise():
    lost = dict.fromkeys(range(3), "diverged")
    arms = [arm("A", at, seeds(0.3), status=lost) for at in (20, 56)]
    one = verdict(Trend("x", "A", rises=False), *arms)
    assert one.outcome == OPEN
    assert "90.00 ± 0.00 % at depth 56. Runs diverged at both, so this decides nothing." in one.evidence
    assert verdict(Trend("x", "A", rises=False), arm("A", 20, seeds(0.3)), arms[1]).outcome == NO


# --- what counts


def test_a_diverged_run_counts_as_guessing_and_is_named():
    plain = arm("B", 20, [0.3, 0.31, 0.3], status={1: "diverged"}, data={"classes": 100})
    assert TEST.by_seed(plain) == {0: 0.3, 1: 0.99, 2: 0.3}
    one = verdict(LOWER, arm("A", 20, [0.2, 0.2, 0.2], data={"classes": 100}), plain)
    assert one.evidence.endswith("Diverged runs count at the error of guessing, 99 %: 1 of 3 runs of B, depth 20.")
    assert one.outcome == OPEN  # one in three is a large spread
    assert not quantity_of("test_top5_error").by_seed(plain)  # which these runs lack
    assert not Quantity("x", "test_loss").by_seed(replace(plain, runs=plain.runs[1:2]))  # which has no such error
    everyone = arm("B", 20, [0, 0, 0], status=dict.fromkeys(range(3), "diverged"))
    assert verdict(LOWER, arm("A", 20, [0.2, 0.2, 0.2]), everyone).outcome == YES


def test_the_step_of_an_error_is_one_image():
    one = arm("A", 14, [0.1])
    assert (TRAIN.step(one), TEST.step(one), quantity_of("test_top5_error").step(one)) == (1 / 2560, 1 / 640, 1 / 640)
    assert quantity_of("test_loss").step(one) == probed("similarity").step(one) == 0
    # Two seeds with the same rise by one of 640 images: equal by rounding, not without spread.
    arms = [arm("A", at, [e, e]) for at, e in ((8, 0.3), (20, 0.3 + 1 / 640))]
    assert verdict(Trend("x", "A", rises=True, quantity=TEST), *arms).outcome == OPEN


def test_the_clauses_of_a_page_are_corrected_together():
    # t = 4.85 with two degrees of freedom: p = 0.040, enough alone and not beside another.
    first = arm("A", 8, [0.3, 0.3, 0.3])
    arms = grid(first, arm("A", 20, [0.31, 0.32, 0.33]))
    after = grid(first, arm("A", 20, [0.318, 0.328, 0.338]))
    assert [one.outcome for one in judge([(RISES, after)])] == [YES]
    assert [one.outcome for one in judge([(RISES, after), (RISES, arms)])] == [OPEN, OPEN]


# --- arms


def test_arms_are_over_seeds_and_unlike_things_are_told_apart():
    runs = [made((0.1, 0.2), seed=s, change={"model.order": o}) for s in (1, 0) for o in ("post", "pre")]
    runs.append(made((0.1, 0.2), change={"model.depth": 8, "model.shortcut": "B"}))
    arms = experiment("degradation").arms(runs)
    assert [one.label for one in arms] == [
        "residual (A), depth 14, post order",
        "shortcut B, depth 8, post order",
        "residual (A), depth 14, pre order",
    ]
    assert [run.record["seed"] for run in arms[0].runs] == [0, 1]
    assert [one.claim for one in experiment("degradation").judge(arms)][4].endswith("[pre order]")


def test_no_arm_hides_another():
    # A gate's bias means nothing to the identity, and yet these are not seeds of one arm.
    runs = [made((0.1, 0.2), seed=s, change={"model.gate_bias": bias}) for bias in (0.0, -6.0) for s in (0, 1)]
    shortcuts = experiment("shortcuts")
    arms = shortcuts.arms(runs)
    assert [one.context for one in arms] == ["gate bias -6.0", "gate bias 0.0"]
    assert sum(len(grid) for grid in shortcuts.grids(arms).values()) == 2
    assert len(shortcuts.main_chart(arms).panels) == 3


def test_a_recipe_stands_for_its_fields_and_how_it_was_computed_tells_nothing():
    short = made((0.4, 0.5), seed=5, change={"recipe": "short", "train.steps": 3200, "data.path": "x"})
    assert distinguishing_fields([made((0.4, 0.5)), short], first=["recipe"]) == ["recipe"]
    how = {"model.remat": "block", "model.unroll": "always", "train.ops": "plain", "train.seeds_per_program": 4}
    assert distinguishing_fields([made((0.4, 0.5)), made((0.4, 0.5), change=how)]) == []
    with pytest.raises(UserError, match=r"the config has no field 'model\.colour'"):
        group([short], ["model.colour"])
