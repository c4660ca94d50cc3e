"""Experiments: mistakes in a file, the variant of a run; all of the project: arms, verdicts, numbers of papers."""

import csv
import importlib
import re
from dataclasses import replace

import pytest
from synthetic import NO, OPEN, ROOT, YES, arms_of_sweep, experiment, made, outcomes, runs_of_sweep

from normres.errors import UserError
from normres.report.commands import load_experiment
from normres.runs import config as configs

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
