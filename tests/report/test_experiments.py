"""Every ablation: its sweep can run at each size, and its experiment draws what came out; nothing is trained here."""

import importlib
import re
from pathlib import Path

import pytest
from test_report import write_run

from normres.errors import UserError
from normres.report import figures
from normres.report.clauses import Lower, Network
from normres.report.dots import error_per_variant
from normres.runs import config as configs
from normres.runs import sweep
from normres.runs.results import read_runs

ROOT = Path(__file__).resolve().parents[2]
# What the arms may differ in, and how many arms there are at each size: counted by hand.
STUDIED = {
    "shortcuts": ({"model.shortcut", "model.gate_bias"}, {"demo": 11, "budget": 13, "paper": 13}),
    "activation_order": ({"model.order", "model.depth", "model.block"}, {"demo": 10, "budget": 10, "paper": 10}),
    "preactivation": ({"model.order", "model.depth", "model.block"}, {"demo": 6, "budget": 4, "paper": 6}),
    "aux_loss": ({"model.shortcut", "model.auxiliary", "model.depth"}, {"demo": 9, "budget": 12, "paper": 15}),
    "norm_free": (
        {
            "model.norm",
            "model.residual_scale",
            "model.order",
            "model.weights",
            "model.depth",
            "optim.clip_factor",
        },
        {"demo": 12, "budget": 18, "paper": 18},
    ),
    "robustness": ({"model.norm"}, {"demo": 5, "budget": 5, "paper": 5}),
}
# Those that are judged by clean errors and drawn alike; robustness has its own tests in test_robustness.py.
COMPARED = [name for name in STUDIED if name != "robustness"]
EVERY = [(name, size) for name in STUDIED for size in ("demo", "budget", "paper")]


def expand(name, size, overrides=()):
    return sweep.expand(f"{ROOT / 'configs' / name}.py:{size}", dict(overrides), 1)


def experiment(name):
    return importlib.import_module(f"experiments.{name}")


def write(root, name, size, errors, *, seeds=(0.0,), skip=(), diverged=(), overrides=()):
    """Writes a run per arm of the sweep and seed.

    `errors` gives (training, test) error of a variant and depth, a seed is an offset to both; `skip` and `diverged`
    are (variant, depth) without runs and with diverged ones.
    """
    comparison = experiment(name).COMPARISON
    for arm in expand(name, size, overrides):
        fields = {k: v for k, v in configs.fields(arm.config).items() if not k.startswith("seeds.")}
        variant, depth = comparison._variant(fields), fields["model.depth"]
        if (variant, depth) in skip:
            continue
        for seed, offset in enumerate(seeds):
            both = tuple(error + offset for error in errors(variant, depth))
            write_run(
                root,
                fields["model.shortcut"],
                depth,
                both,
                seed=seed,
                change=fields | {"seed": seed},
                status="diverged" if (variant, depth) in diverged else "finished",
            )
    return read_runs(root)


def outcomes(name, runs):
    module = experiment(name)
    return [clause.outcome for clause in module.judge(module.COMPARISON.arms(runs))]


def bearing_out(name):
    """Returns (training, test) errors by variant and depth with which every clause that applies is borne out."""
    ranks = {
        # The first of the variants is the best; the plain net is the worst; B and C lie between.
        "shortcuts": lambda variant, depth: 0.3 if variant.startswith("none") else 0.1 * (not variant.startswith("id")),
        "activation_order": lambda variant, depth: {"full pre-activation": 0.0, "original": 0.1}.get(variant, 0.2),
        "preactivation": lambda variant, depth: (0.1 + depth / 10_000) if variant == "original" else -depth / 10_000,
        "aux_loss": lambda variant, depth: {"plain": 0.2, "plain + auxiliary": 0.1}.get(variant, 0) * depth / 50,
        "norm_free": lambda variant, depth: 0.3 if variant == "no norm" else 0.1 * (not variant.startswith("batch")),
    }
    return lambda variant, depth: (0.3 + ranks[name](variant, depth), 0.4 + ranks[name](variant, depth))


# --- configs


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_sweep_expands_and_varies_what_is_studied_only(name, size):
    studied, counts = STUDIED[name]
    arms = expand(name, size)
    assert len(arms) == counts[size]
    flat = [configs.fields(arm.config) for arm in arms]
    varied = {field for field in flat[0] if any(other[field] != flat[0][field] for other in flat)}
    assert varied <= studied
    # A bottleneck is among the networks of the papers only, and a demo of the shortcuts has one depth.
    assert studied - varied <= {"model.block"}
    assert flat[0]["train.steps"] == {"demo": 400, "budget": 6_400, "paper": 64_000}[size]
    assert flat[0]["model.width"] == (8 if size == "demo" else 16)


@pytest.mark.parametrize("name", STUDIED)
def test_an_unknown_size_is_named(name):
    for function in ("load", "load_sweep"):
        with pytest.raises(UserError, match=rf"configs/{name}.py:papr is no size; did you mean 'paper'\?"):
            getattr(configs, function)(f"{ROOT / 'configs' / name}.py:papr")


@pytest.mark.parametrize("name", STUDIED)
def test_docstrings_say_command_size_and_expectation(name):
    module = importlib.import_module(f"configs.{name}")
    for part in (
        f"--config=configs/{name}.py:demo",
        f"--experiment=experiments/{name}.py",
        "Sizes: `demo`",
        "Expected",
    ):
        assert part in module.__doc__
    text = experiment(name)
    assert f"configs/{name}.py" == text.CONFIG
    assert re.search(r"arXiv \d{4}\.\d{5}", text.SOURCE)
    assert "xpected" in text.__doc__


def test_every_arm_of_a_sweep_has_a_name():
    for name, size in EVERY:
        comparison = experiment(name).COMPARISON
        named = [comparison._variant(configs.fields(arm.config)) for arm in expand(name, size)]
        assert set(named) <= set(comparison.variants)


# --- verdicts


@pytest.mark.parametrize("name", COMPARED)
def test_the_verdict_follows_the_errors(tmp_path, name):
    holds = bearing_out(name)
    runs = write(tmp_path / "holds", name, "paper", holds)
    assert set(outcomes(name, runs)) == {"borne out"}

    # Mirrored about 0.5: what was lower is higher, what rose falls.
    def mirrored(variant, depth):
        return tuple(1 - error for error in holds(variant, depth))

    runs = write(tmp_path / "flipped", name, "paper", mirrored)
    assert set(outcomes(name, runs)) == {"not borne out"}


@pytest.mark.parametrize(
    ("name", "judged"),
    # Clauses that a demo can decide: options A, B, C against plain; nothing; nothing; all; the first four.
    [("shortcuts", 3), ("activation_order", 0), ("preactivation", 0), ("aux_loss", 3), ("norm_free", 4)],
)
def test_a_demo_decides_what_its_depth_allows(tmp_path, name, judged):
    runs = write(tmp_path, name, "demo", bearing_out(name))
    found = outcomes(name, runs)
    assert found == ["borne out"] * judged + ["cannot be judged yet"] * (len(found) - judged)


def test_a_shallow_network_is_named_as_the_reason(tmp_path):
    runs = write(tmp_path, "activation_order", "demo", bearing_out("activation_order"))
    module = experiment("activation_order")
    clause = module.judge(module.COMPARISON.arms(runs))[0]
    assert clause.evidence == (
        "The source’s claim is about depth 110 and more; the deepest network here has depth 38. There, which decides "
        "nothing: Test error at depth 38: full pre-activation 40.00 %, original 50.00 %; "
        "difference −10.00 points (one seed each: no spread)."
    )


def test_a_difference_within_the_spread_cannot_be_judged(tmp_path):
    # One point apart; standard deviation of -5, 0, 5 points is 5, the standard error sqrt(25/3 + 25/3) = 4.1 points.
    def close(variant, depth):
        return (0.3, 0.40 if variant == "full pre-activation" else 0.41)

    runs = write(tmp_path, "activation_order", "paper", close, seeds=(-0.05, 0.0, 0.05))
    module = experiment("activation_order")
    clause = module.judge(module.COMPARISON.arms(runs))[0]
    assert clause.outcome == "cannot be judged yet"
    assert "−1.00 ± 4.08 points" in clause.evidence


def test_every_depth_or_the_deepest(tmp_path):
    # Better at 110 and 1001 layers and worse at 164: refuted where the claim is about every depth only.
    def mixed(variant, depth):
        return (0.3, 0.4 + (0.1 if (variant == "original") != (depth == 164) else 0))

    module = experiment("preactivation")
    arms = module.COMPARISON.arms(write(tmp_path, "preactivation", "paper", mixed))
    assert module.judge(arms)[0].outcome == "not borne out"
    deepest = Lower("x", module.FULL, module.ORIGINAL, from_depth=110).judge(module.COMPARISON.found(arms)[""])
    assert deepest.outcome == "borne out"
    assert "depth 164" not in deepest.evidence
    nothing = Lower("x", "a", "b").judge({})
    assert (nothing.outcome, nothing.evidence) == ("cannot be judged yet", "There is no run of a.")


def test_missing_arms_are_named(tmp_path):
    module = experiment("aux_loss")
    runs = write(tmp_path, "aux_loss", "demo", bearing_out("aux_loss"), skip={("residual (A)", 38)})
    arms = module.COMPARISON.arms(runs)
    assert module.COMPARISON.missing(arms) == ["residual (A), depth 38"]
    second = module.judge(arms)[1]
    assert second.outcome == "cannot be judged yet"
    assert second.evidence == "There is no run of residual (A) at depth 38."
    page = module.draw(runs, tmp_path / "out")[-1].read_text()
    assert "No run of residual (A), depth 38." in page


def test_a_diverged_run_counts_as_guessing(tmp_path):
    module = experiment("norm_free")
    runs = write(tmp_path, "norm_free", "demo", bearing_out("norm_free"), diverged={("no norm", 38)})
    arms = module.COMPARISON.arms(runs)
    first = module.judge(arms)[0]
    # 90 - 30 points.
    assert "difference −60.00 points" in first.evidence
    assert "the error of guessing, 90 %: 1 of 1 run of no norm, depth 38." in first.evidence
    page = module.draw(runs, tmp_path / "out")[-1].read_text()
    assert "Diverged, 1 of 1 run of no norm, depth 38" in page
    rows = [row for row in module.COMPARISON.table(arms).rows if row[:2] == ("no norm", "depth 38")]
    assert rows[0][4] == "diverged at step 100"


def test_unlike_things_are_told_apart(tmp_path):
    module = experiment("activation_order")
    write(tmp_path, "activation_order", "demo", bearing_out("activation_order"))
    runs = write(
        tmp_path, "activation_order", "demo", bearing_out("activation_order"), overrides={"model.shortcut": "B"}.items()
    )
    arms = module.COMPARISON.arms(runs)
    assert all(len(arm.runs) == 1 for arm in arms)
    assert len({arm.label for arm in arms}) == 20
    assert len(module.judge(arms)) == 2 * len(module.COMPARISON.clauses)


# --- what is drawn


@pytest.mark.parametrize("name", COMPARED)
def test_everything_is_drawn(tmp_path, name):
    module = experiment(name)
    runs = write(tmp_path / "runs", name, "paper", bearing_out(name), seeds=(-0.01, 0.01))
    out = tmp_path / "out"
    paths = module.draw(runs, out)
    names = [f"{name}.png", f"{name}.pdf", "curves.png", "curves.pdf", "table.md", "table.tex", "index.html"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    for path in paths[:4]:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF-")
    page, table = paths[-1].read_text(), paths[4].read_text()
    cells = {(row[0], row[1]): row[-1] for row in module.COMPARISON.table(module.COMPARISON.arms(runs)).rows}
    for network, errors in module.PAPER.items():
        for variant, error in errors.items():
            number = error if isinstance(error, str) else f"{error:.2f}"
            assert f">{number}<" in page
            if network.data == "cifar10":  # the paper's second data set is a sweep of its own
                assert cells[variant, network.name] == number
                assert number in table
    assert "here, 50,000 there" in page  # the synthetic runs say that they had 2,560 images


def test_the_papers_numbers():
    # Transcribed once more from the papers' tables.
    paper = experiment("shortcuts").PAPER[Network(110)]
    assert list(paper.values()) == [6.61, *["fail"] * 2, 12.35, *["fail"] * 2, 8.70, 9.81, 12.86, 6.91, 12.22, "fail"]
    assert [list(errors.values()) for errors in experiment("activation_order").PAPER.values()] == [
        [6.61, 8.17, 7.84, 6.71, 6.37],
        [5.93, 6.50, 6.14, 5.91, 5.46],
    ]
    assert [tuple(errors.values()) for errors in experiment("preactivation").PAPER.values()] == [
        (6.61, 6.37),
        (5.93, 5.46),
        (7.61, 4.92),
        (25.16, 24.33),
        (27.82, 22.71),
    ]


def test_a_papers_number_stands_beside_its_own_network_only(tmp_path):
    # The same orders and depths, with another norm: not the paper's networks.
    runs = write(
        tmp_path,
        "activation_order",
        "paper",
        bearing_out("activation_order"),
        overrides={"model.norm": "group"}.items(),
    )
    module = experiment("activation_order")
    assert {row[-1] for row in module.COMPARISON.table(module.COMPARISON.arms(runs)).rows} == {"–"}


def test_dots_are_means_seeds_and_crosses(tmp_path):
    module = experiment("shortcuts")
    runs = write(
        tmp_path,
        "shortcuts",
        "demo",
        lambda variant, depth: (0.3, 0.5),
        seeds=(-0.1, 0.1),
        diverged={("none (plain)", 20)},
    )
    arms = {module.COMPARISON.variant(arm): arm for arm in module.COMPARISON.arms(runs)}
    names = [module.IDENTITY, module.PLAIN]
    figure = error_per_variant({"depth 20": arms}, {"depth 110": {module.IDENTITY: 6.61, module.PLAIN: "fail"}}, names)
    here, paper = figure.axes
    dots = {line.get_marker(): (list(line.get_xdata()), list(line.get_ydata())) for line in here.lines}
    assert dots["s"] == (pytest.approx([30]), [0])
    assert dots["o"] == (pytest.approx([50]), [0])
    assert dots["|"] == (pytest.approx([40, 60]), [0, 0])
    assert dots["x"] == ([1.0], [1])
    assert [text.get_text() for text in paper.texts] == ["fail"]
    assert [list(line.get_xdata()) for line in paper.lines] == [[6.61]]


def test_the_papers_lines_have_the_colours_of_ours(tmp_path):
    module = experiment("preactivation")
    runs = write(tmp_path, "preactivation", "demo", bearing_out("preactivation"))
    lines = module.COMPARISON.lines(module.COMPARISON.arms(runs))
    assert list(lines) == ["original", "full pre-activation"]
    figure = figures.error_against_depth(lines, published={"full pre-activation": {110: 6.37, 164: 5.46}})
    ours, paper = figure.axes[1].lines[1], figure.axes[2].lines[0]
    assert list(paper.get_ydata()) == [6.37, 5.46]
    assert paper.get_color() == ours.get_color()
    # CIFAR-100's errors, three times as high, are left out where no run is of it.
    drawn = module.COMPARISON._depth_sketch(module.COMPARISON.arms(runs)).figure.axes[2]
    assert [list(line.get_ydata()) for line in drawn.lines] == [[6.61, 5.93, 7.61], [6.37, 5.46, 4.92]]


def test_a_sweep_that_has_only_begun_can_be_drawn(tmp_path):
    module = experiment("shortcuts")
    skipped = {(name, 20) for name in module.VARIANTS if name != module.IDENTITY}
    runs = write(tmp_path, "shortcuts", "demo", bearing_out("shortcuts"), skip=skipped)
    assert "cannot be judged yet" in module.draw(runs, tmp_path / "out")[-1].read_text()
    with pytest.raises(UserError, match=r"there is no run to report; `normres sweep --config=configs/shortcuts\.py`"):
        module.draw([], tmp_path)
