"""Clauses on arms made by hand, and every experiment: its sweep's arms, its verdicts, the papers' numbers."""

import csv
import importlib
import re
from dataclasses import replace

import pytest
from synthetic import NO, OPEN, ROOT, YES, arm, arms_of_sweep, experiment, grid, made, outcomes, runs_of_sweep

from normres.errors import UserError
from normres.report.arms import distinguishing_fields, group
from normres.report.clauses import TEST, TRAIN, Lower, Quantity, Trend, judge, quantity_of
from normres.report.commands import load_experiment
from normres.report.probes import probed
from normres.runs import config as configs


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


FILE = """
from normres.report.clauses import Lower
from normres.report.experiment import Experiment
EXPERIMENT = Experiment("x", "x", "x", "mine.py", {})
"""
GOOD = "{'A': {'model.norm': 'layer'}, 'B': {}}"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("['A']", "EXPERIMENT.variants must be a dict"),
        (f"{GOOD}, clauses=Lower('x', 'A', 'B')", "EXPERIMENT.clauses must be a list of Lower and Trend"),
        (f"{GOOD}, clauses=[Lower('x', 'A', 'b')]", "'b' is no variant; did you mean 'B'?"),
        ("{'A': {'model.nrm': 'layer'}}", "'model.nrm' is no field; did you mean 'model.norm'?"),
        (f"{GOOD}, over='model.dept'", "'model.dept' is no field; did you mean 'model.depth'?"),
    ],
)
def test_a_mistake_in_an_experiment_names_its_file(made, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FILE.replace("{}", made))
    with pytest.raises(UserError, match=r"mine\.py: EXPERIMENT") as caught:
        load_experiment(str(file))
    assert message in str(caught.value)
    file.write_text("EXPERIMENT = {}")
    with pytest.raises(UserError, match="EXPERIMENT is a dict and no Experiment"):
        load_experiment(str(file))


def test_of_several_variants_a_run_is_the_one_that_says_most_of_it():
    names = {"baseline": {}, "instance": {"model.norm": "instance"}, "boundaries": {"optim.boundaries": "1,2"}}
    named = replace(experiment("degradation"), variants=names)
    runs = [
        made((0.1, 0.2), change=change) for change in ({"model.norm": "instance"}, {"optim.boundaries": [1, 2]}, {})
    ]
    assert [arm.variant for arm in named.arms(runs)] == ["baseline", "instance", "boundaries"]
    with pytest.raises(UserError, match=r"EXPERIMENT\.over='model\.norm' is no number: a run has"):
        replace(named, over="model.norm").arms(runs)


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


# --- every experiment

# The fields in which the arms may differ, and the number of arms at each size: counted by hand.
STUDIED = {
    "degradation": ("shortcut depth", {"demo": 4, "short": 8, "paper": 10}),
    "shortcuts": ("shortcut gate_bias", {"demo": 11, "short": 13, "paper": 13}),
    "activation_order": ("order depth block", {"demo": 10, "short": 10, "paper": 10}),
    "preactivation": ("order depth block", {"demo": 6, "short": 4, "paper": 6}),
    "aux_loss": ("shortcut auxiliary depth", {"demo": 9, "short": 12, "paper": 15}),
    "norm_free": ("norm residual_scale order weights depth clip_factor", {"demo": 12, "short": 18, "paper": 18}),
    "norm_depth": ("norm order shortcut depth norm_groups", {"demo": 24, "short": 12, "paper": 36}),
    "batch_size": (
        "norm norm_groups batch_size steps learning_rate warmup_steps boundaries eval_every checkpoint_every log_every",
        {"demo": 6, "short": 8, "paper": 14},
    ),
    "groups": ("norm norm_groups", {"demo": 6, "short": 6, "paper": 6}),
    "learning_rate": ("norm norm_groups learning_rate", {"demo": 20, "short": 20, "paper": 20}),
    "robustness": ("norm norm_groups", {"demo": 5, "short": 5, "paper": 5}),
    "style": ("norm condition styles", {"demo": 5, "short": 5, "paper": 5}),
    "signals": ("norm norm_groups shortcut depth", {"demo": 20, "short": 20, "paper": 30}),
}
# Fields that vary at one size and not at another.
FOLLOW = {"block", "shortcut", "norm_groups", "warmup_steps", "boundaries"}
# Those that are judged by clean errors; test_robustness.py and test_probes.py have the others.
JUDGED = [name for name in STUDIED if name not in ("robustness", "signals")]
RANKS = {
    "degradation": lambda variant, depth: depth / 1000 if variant == "plain" else -depth / 1000,
    # The first of the variants is the best; the plain net is the worst; B and C lie between.
    "shortcuts": lambda variant, depth: 0.3 if variant.startswith("none") else 0.1 * (not variant.startswith("id")),
    "activation_order": lambda variant, depth: {"full pre-activation": 0.0, "original": 0.1}.get(variant, 0.2),
    "preactivation": lambda variant, depth: (0.1 + depth / 10_000) if variant == "original" else -depth / 10_000,
    "aux_loss": lambda variant, depth: {"plain": 0.2, "plain + auxiliary": 0.1}.get(variant, 0) * depth / 50,
    "norm_free": lambda variant, depth: 0.3 if variant == "no norm" else 0.1 * (not variant.startswith("batch")),
    "norm_depth": lambda variant, depth: (
        depth / 1000 if variant.endswith("plain") else 0.1 * (variant != "batch, residual")
    ),
    "batch_size": lambda variant, batch: 0.1 - batch / 1000 if variant == "batch norm" else batch / 2000,
    "groups": lambda variant, _: 0.1 * (variant != "8 groups"),
    "learning_rate": lambda variant, _: 0.1 * (variant != "batch norm"),
    "style": lambda variant, _: 0.1 * (variant in ("batch norm", "style not told")),
}


def bearing_out(name):
    """Returns (training, test) errors by variant and depth with which every clause that applies is supported."""
    return lambda variant, depth: (0.3 + RANKS[name](variant, depth), 0.4 + RANKS[name](variant, depth))


def test_no_experiment_is_forgotten():
    assert {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")} == STUDIED.keys()


@pytest.mark.parametrize("name", STUDIED)
def test_a_sweep_varies_only_the_studied_fields_and_names_every_arm(name):
    words, counts = STUDIED[name]
    for size, steps in {"demo": 400, "short": 3_200, "paper": 64_000}.items():
        arms = arms_of_sweep(name, size)
        assert len(arms) == counts[size]
        assert {variant for variant, _ in arms} <= set(experiment(name).variants)
        flat = [fields for _, fields in arms]
        varied = {field.rpartition(".")[2] for field in flat[0] if any(one[field] != flat[0][field] for one in flat)}
        assert varied <= set(words.split())
        assert set(words.split()) - varied <= FOLLOW
        if name not in ("batch_size", "groups", "style"):
            assert (flat[0]["train.steps"], flat[0]["model.width"]) == (steps, 8 if size == "demo" else 16)
    for function in ("load", "load_sweep"):
        with pytest.raises(UserError, match=rf"configs/{name}.py:papr is no size; did you mean 'paper'\?"):
            getattr(configs, function)(f"{ROOT / 'configs' / name}.py:papr")
    assert experiment(name).config == f"configs/{name}.py"
    text = importlib.import_module(f"normres.configs.{name}").__doc__
    assert re.findall(r"--(?:config|experiment)=(\w+)", text)[:2] == [name, name]


@pytest.mark.parametrize("name", JUDGED)
def test_the_verdict_follows_the_errors(name):
    holds = bearing_out(name)
    assert set(outcomes(name, runs_of_sweep(name, "paper", holds))) == {YES}

    # Mirrored about 0.5: what was lower is higher, what rose falls.
    def mirrored(variant, depth):
        return tuple(1 - error for error in holds(variant, depth))

    assert set(outcomes(name, runs_of_sweep(name, "paper", mirrored))) == {NO}
    assert set(outcomes(name, runs_of_sweep(name, "paper", holds, seeds=1))) == {OPEN}


# Clauses that a demo can decide: all; options A, B, C against plain; none; none; all; the first four; then all.
@pytest.mark.parametrize(("name", "judged"), list(zip(JUDGED, (3, 3, 0, 0, 3, 4, 7, 3, 2, 3, 4), strict=True)))
def test_a_demo_decides_what_its_depth_allows(name, judged):
    decided = outcomes(name, runs_of_sweep(name, "demo", bearing_out(name)))
    assert decided == [YES] * judged + [OPEN] * (len(decided) - judged)


def test_the_papers_numbers():
    # Transcribed once more from the papers' tables.
    def numbers(name):
        return [tuple(errors.values()) for errors in experiment(name).published.values()]

    fail = "fail"
    table_1 = (6.61, fail, 12.22, fail, 12.35, fail, fail, 8.70, 9.81, 12.86, 6.91, fail)
    assert numbers("shortcuts") == [table_1]
    assert numbers("activation_order") == [(6.61, 8.17, 7.84, 6.71, 6.37), (5.93, 6.50, 6.14, 5.91, 5.46)]
    assert numbers("preactivation") == [(6.61, 6.37), (5.93, 5.46), (7.61, 4.92), (25.16, 24.33), (27.82, 22.71)]
    table_6 = [(8.75,), (7.51,), (7.17,), (6.97,), (6.61,), (7.93,)]
    assert numbers("degradation") == table_6
    assert numbers("aux_loss") == table_6[:5]
    assert numbers("norm_free") == [(8.75,), (6.97,), (6.61, 6.37)]
    assert numbers("norm_depth") == [(7.8, 9.7, 12.6, 9.6)]
    assert numbers("batch_size") == [(23.6, 24.1), (23.7, 24.2), (24.8, 24.0), (27.3, 24.2), (34.7, 24.1)]
    assert numbers("groups") == [(25.3, 24.7, 24.6, 24.4, 28.4, 23.6)]
    assert numbers("robustness") == [("23.6", "28.4", "25.3", "24.1")]


@pytest.mark.parametrize("name", [name for name in JUDGED if experiment(name).published])
def test_the_papers_numbers_stand_beside_their_networks(name):
    declared = experiment(name)
    runs = runs_of_sweep(name, "paper", bearing_out(name))
    arms = declared.arms(runs)
    decimals = 1 if name in ("norm_depth", "batch_size", "groups") else 2  # as the source prints them
    numbers = {
        (variant, setting.name): error if error == "fail" else f"{error:.{decimals}f}"
        for setting, errors in declared.published.items()
        for variant, error in errors.items()
    }
    column = declared.table(arms).header.index("paper, test (%)")
    cells = {row[:2]: row[column] for row in declared.table(arms).rows}
    assert {place: cell for place, cell in cells.items() if cell != "–"} == {
        place: number for place, number in numbers.items() if place in cells
    }
    here = {row[:2]: row[2:] for row in declared.paper_table(arms).rows}
    assert {place: number for place, (number, _) in here.items()} == numbers
    assert {place for place, (_, cell) in here.items() if cell != "not run"} == numbers.keys() & cells.keys()
    if not declared.held:
        return
    # A paper's number is not of a network with another stem, say.
    other = runs_of_sweep(name, "paper", bearing_out(name), seeds=1, change=dict.fromkeys(declared.held, "other"))
    assert {row[-1] for row in declared.table(declared.arms(other)).rows} == {"–"}


def test_other_seeds_bear_the_demo_out():
    """docs/demo/seeds.csv: `normres sweep --config=degradation:demo --config.seed=10 --seeds=40`, then `collect`."""
    sets = dict[int, list]()
    with (ROOT / "docs/demo/seeds.csv").open() as file:
        for row in csv.DictReader(file):
            errors, seed = (float(row["train_error"]), float(row["test_error"])), int(row["seed"])
            change = {"model.shortcut": row["shortcut"], "model.depth": int(row["depth"])}
            sets.setdefault((seed - 10) // 4, []).append(made(errors, seed=seed, change=change))
    assert {len(runs) for runs in sets.values()} == {16}
    supported = sum(outcomes("degradation", runs) == [YES] * 3 for runs in sets.values())
    assert f"supported in {supported} of {len(sets)} other sets of four seeds" in (ROOT / "README.md").read_text()
