"""Every published sweep has its arms, and its experiment judges and draws what came out; nothing is trained here."""

import importlib
import re

import pytest
from synthetic import ROOT, arms_of_sweep, comparison, outcomes, write_grid, write_run, write_sweep
from test_report import HOLDS

from normres.errors import UserError
from normres.report.clauses import Lower, Network
from normres.runs import config as configs
from normres.runs.results import read_runs

YES, NO, OPEN = "borne out", "not borne out", "cannot be judged yet"
# The fields in which the arms may differ, and the number of arms at each size: counted by hand.
STUDIED = {
    "degradation": ("shortcut depth", {"demo": 6, "short": 8, "paper": 10}),
    "shortcuts": ("shortcut gate_bias", {"demo": 11, "short": 13, "paper": 13}),
    "activation_order": ("order depth block", {"demo": 10, "short": 10, "paper": 10}),
    "preactivation": ("order depth block", {"demo": 6, "short": 4, "paper": 6}),
    "aux_loss": ("shortcut auxiliary depth", {"demo": 9, "short": 12, "paper": 15}),
    "norm_free": ("norm residual_scale order weights depth clip_factor", {"demo": 12, "short": 18, "paper": 18}),
    "robustness": ("norm", {"demo": 5, "short": 5, "paper": 5}),
}
EVERY = [(name, size) for name in STUDIED for size in ("demo", "short", "paper")]
# Those that are judged by clean errors; test_robustness.py has the other.
COMPARED = [name for name in STUDIED if name != "robustness"]


def bearing_out(name):
    """Returns (training, test) errors by variant and depth with which every clause that applies is borne out."""
    ranks = {
        "degradation": lambda variant, depth: depth / 1000 if variant == "plain" else -depth / 1000,
        # The first of the variants is the best; the plain net is the worst; B and C lie between.
        "shortcuts": lambda variant, depth: 0.3 if variant.startswith("none") else 0.1 * (not variant.startswith("id")),
        "activation_order": lambda variant, depth: {"full pre-activation": 0.0, "original": 0.1}.get(variant, 0.2),
        "preactivation": lambda variant, depth: (0.1 + depth / 10_000) if variant == "original" else -depth / 10_000,
        "aux_loss": lambda variant, depth: {"plain": 0.2, "plain + auxiliary": 0.1}.get(variant, 0) * depth / 50,
        "norm_free": lambda variant, depth: 0.3 if variant == "no norm" else 0.1 * (not variant.startswith("batch")),
    }
    return lambda variant, depth: (0.3 + ranks[name](variant, depth), 0.4 + ranks[name](variant, depth))


def judge(name, runs):
    return comparison(name).judge(comparison(name).arms(runs))


# --- sweeps


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_a_sweep_varies_only_the_studied_fields_and_names_every_arm(name, size):
    words, counts = STUDIED[name]
    arms = arms_of_sweep(name, size)
    assert len(arms) == counts[size]
    assert {variant for variant, _ in arms} <= set(comparison(name).variants)
    flat = [fields for _, fields in arms]
    varied = {field.rpartition(".")[2] for field in flat[0] if any(other[field] != flat[0][field] for other in flat)}
    assert varied <= set(words.split())
    # A bottleneck is among the networks of the papers only.
    assert set(words.split()) - varied <= {"block"}
    assert flat[0]["train.steps"] == {"demo": 400, "short": 3_200, "paper": 64_000}[size]
    assert flat[0]["model.width"] == (8 if size == "demo" else 16)


@pytest.mark.parametrize("name", STUDIED)
def test_an_unknown_size_is_named_and_the_docstring_has_the_commands(name):
    for function in ("load", "load_sweep"):
        with pytest.raises(UserError, match=rf"configs/{name}.py:papr is no size; did you mean 'paper'\?"):
            getattr(configs, function)(f"{ROOT / 'configs' / name}.py:papr")
    assert comparison(name).config == f"configs/{name}.py"
    text = importlib.import_module(f"normres.configs.{name}").__doc__
    assert re.findall(r"--(?:config|experiment)=(\w+)", text)[:2] == [name, name]


# --- verdicts


@pytest.mark.parametrize("name", COMPARED)
def test_the_verdict_follows_the_errors(tmp_path, name):
    holds = bearing_out(name)
    assert set(outcomes(name, write_sweep(tmp_path / "holds", name, "paper", holds))) == {YES}

    # Mirrored about 0.5: what was lower is higher, what rose falls.
    def mirrored(variant, depth):
        return tuple(1 - error for error in holds(variant, depth))

    assert set(outcomes(name, write_sweep(tmp_path / "mirrored", name, "paper", mirrored))) == {NO}


@pytest.mark.parametrize(
    ("name", "judged"),
    # Clauses that a demo can decide: all; options A, B, C against plain; none; none; all; the first four.
    list(zip(COMPARED, (4, 3, 0, 0, 3, 4), strict=True)),
)
def test_a_demo_decides_what_its_depth_allows(tmp_path, name, judged):
    decided = outcomes(name, write_sweep(tmp_path, name, "demo", bearing_out(name)))
    assert decided == [YES] * judged + [OPEN] * (len(decided) - judged)


def test_a_shallow_network_is_named_as_the_reason(tmp_path):
    runs = write_sweep(tmp_path, "activation_order", "demo", bearing_out("activation_order"))
    assert judge("activation_order", runs)[0].evidence == (
        "The source’s claim is about depth 110 and more; the deepest network compared here has depth 38. Its errors "
        "decide nothing: Test error at depth 38: full pre-activation 40.00 %, original 50.00 %; "
        "difference −10.00 points (one seed each: no spread)."
    )


def test_a_difference_within_the_spread_cannot_be_judged(tmp_path):
    # Standard deviation of -2, 0, 2 points is 2, the standard error sqrt(4/3 + 4/3) = 1.63 points, of a rise by 0.1.
    close = HOLDS | {("A", 56): (0.361, 0.46)}
    clause = judge("degradation", write_grid(tmp_path / "many", close, (-0.02, 0.0, 0.02)))[2]
    assert clause.outcome == OPEN
    assert "difference +0.10 ± 1.63 points" in clause.evidence
    assert outcomes("degradation", write_grid(tmp_path / "one", close))[2] == NO


def test_end_to_end_and_every_step_are_clauses_of_their_own(tmp_path):
    first, second, *_ = judge("degradation", write_grid(tmp_path, HOLDS | {("none", 26): (0.40, 0.5)}))
    assert (first.outcome, second.outcome) == (YES, NO)
    assert second.evidence.endswith(
        "difference −1.00 points (one seed each: no spread), then +34.50 points (one seed each: no spread)."
    )


def test_every_depth_or_the_deepest(tmp_path):
    # Better at 110 and 1001 layers and worse at 164: refuted where the claim is about every depth only.
    def mixed(variant, depth):
        return (0.3, 0.4 + (0.1 if (variant == "original") != (depth == 164) else 0))

    preactivation = comparison("preactivation")
    arms = preactivation.arms(write_sweep(tmp_path, "preactivation", "paper", mixed))
    assert preactivation.judge(arms)[0].outcome == NO
    deepest = Lower("x", "full pre-activation", "original", from_depth=110).judge(preactivation.grids(arms)[""])
    assert deepest.outcome == YES
    assert "depth 164" not in deepest.evidence


@pytest.mark.parametrize(
    ("kept", "undecided", "evidence"),
    [
        ([("none", 14), ("none", 26)], [2, 3], "There is no run of residual (A)."),
        ([("A", 14), ("A", 26)], [0, 1, 3], "There is no run of plain."),
        ([("none", 14), ("A", 14)], [0, 1, 2], "Two depths of plain are needed; there is depth 14."),
        ([("none", 14), ("none", 26), ("A", 14), ("A", 56)], [3], "There is no run of plain at depth 56."),
        ([], [0, 1, 2, 3], "There is no run of plain."),
        ([*HOLDS, "running"], [0, 1, 3], "No run of plain is done at depth 110."),
    ],
)
def test_the_missing_run_is_named(tmp_path, kept, undecided, evidence):
    write_grid(tmp_path, {place: HOLDS[place] for place in kept if place != "running"})
    if "running" in kept:
        write_run(tmp_path, (0, 0), status="running", change={"model.shortcut": "none", "model.depth": 110})
    clauses = judge("degradation", read_runs(tmp_path))
    assert [number for number, clause in enumerate(clauses) if clause.outcome == OPEN] == undecided
    assert clauses[undecided[0]].evidence == evidence


def test_a_diverged_run_counts_as_guessing(tmp_path):
    deepest = {("no norm", 38): "diverged"}
    runs = write_sweep(tmp_path, "norm_free", "demo", bearing_out("norm_free"), status=deepest)
    first = judge("norm_free", runs)[0]
    # 30 - 90 points.
    assert "difference −60.00 points" in first.evidence
    assert "the error of guessing, 90 %: 1 of 1 run of no norm, depth 38." in first.evidence


def test_unlike_things_are_told_apart_and_not_compared(tmp_path):
    write_grid(tmp_path, HOLDS)
    for shortcut, order in (("B", "post"), ("A", "pre")):
        for depth in (14, 56):
            change = {"model.shortcut": shortcut, "model.depth": depth, "model.order": order}
            write_run(tmp_path, (0.9, 0.9), change=change)
    degradation = comparison("degradation")
    arms = degradation.arms(read_runs(tmp_path))
    assert all(len(arm.runs) == 1 for arm in arms)
    assert list(degradation.lines(arms)) == [
        "plain, post order",
        "residual (A), post order",
        "shortcut B, post order",
        "residual (A), pre order",
    ]
    clauses = degradation.judge(arms)
    assert [clause.outcome for clause in clauses] == [YES] * 4 + [OPEN, OPEN, YES, OPEN]
    assert clauses[7].claim.endswith("[pre order]")


# --- what is drawn


@pytest.mark.parametrize("name", COMPARED)
def test_the_papers_numbers_stand_beside_their_networks(tmp_path, name):
    declared = comparison(name)
    arms = declared.arms(write_sweep(tmp_path, name, "paper", bearing_out(name)))
    numbers = {
        (variant, network.name): error if error == "fail" else f"{error:.2f}"
        for network, errors in declared.published.items()
        for variant, error in errors.items()
    }
    cells = {row[:2]: row[-1] for row in declared.table(arms).rows}
    assert {place: cell for place, cell in cells.items() if cell != "–"} == {
        place: number for place, number in numbers.items() if place in cells
    }
    here = {row[:2]: row[2:] for row in declared.paper_table(arms).rows}
    assert {place: number for place, (number, _) in here.items()} == numbers
    assert {place for place, (_, error) in here.items() if error != "not run"} == numbers.keys() & cells.keys()


def test_a_papers_number_is_not_of_another_norm(tmp_path):
    orders, errors = comparison("activation_order"), bearing_out("activation_order")
    runs = write_sweep(tmp_path, "activation_order", "paper", errors, overrides={"model.norm": "group"})
    assert {row[-1] for row in orders.table(orders.arms(runs)).rows} == {"–"}


def test_the_papers_numbers():
    # Transcribed once more from the papers' tables.
    def numbers(name):
        return [tuple(errors.values()) for errors in comparison(name).published.values()]

    fail = "fail"
    table_1 = (6.61, fail, 12.22, fail, 12.35, fail, fail, 8.70, 9.81, 12.86, 6.91, fail)
    assert numbers("shortcuts") == [table_1]
    assert numbers("activation_order") == [(6.61, 8.17, 7.84, 6.71, 6.37), (5.93, 6.50, 6.14, 5.91, 5.46)]
    assert numbers("preactivation") == [(6.61, 6.37), (5.93, 5.46), (7.61, 4.92), (25.16, 24.33), (27.82, 22.71)]
    table_6 = [(8.75,), (7.51,), (7.17,), (6.97,), (6.61,), (7.93,)]
    assert numbers("degradation") == table_6
    assert numbers("aux_loss") == table_6[:5]


def test_error_against_depth(tmp_path):
    write_grid(tmp_path, {("none", 14): (0.4, 0.5), ("none", 26): (0.5, 0.6)}, (-0.1, 0.1))
    deepest = {"model.shortcut": "none", "model.depth": 56}
    runs = [*read_runs(tmp_path), *read_runs(write_run(tmp_path, (0, 0), status="diverged", change=deepest))]
    degradation = comparison("degradation")
    training, test, paper = degradation.drawing(degradation.arms(runs)).figure.axes
    for axes, means in ((training, [40, 50]), (test, [50, 60])):
        mean, *others = axes.lines
        assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([14, 26], pytest.approx(means))
        assert [list(line.get_ydata()) for line in others[:1]] == [pytest.approx([means[0] - 10, means[0] + 10])]
        assert [list(line.get_xdata()) for line in others if line.get_marker() == "x"] == [[56]]
        assert list(axes.get_xticks()) == [56, 26, 14]
    assert paper.lines[0].get_ydata() == pytest.approx([8.75, 7.51, 7.17, 6.97, 6.61, 7.93])


def test_the_papers_lines_have_the_colours_of_ours(tmp_path):
    preactivation = comparison("preactivation")
    runs = write_sweep(tmp_path, "preactivation", "demo", bearing_out("preactivation"))
    _, test, paper = preactivation.drawing(preactivation.arms(runs)).figure.axes
    # CIFAR-100's errors, three times as high, are left out where no run is of it.
    lines = [list(line.get_ydata()) for line in paper.lines]
    assert lines == [pytest.approx([6.61, 5.93, 7.61]), pytest.approx([6.37, 5.46, 4.92])]
    assert [line.get_color() for line in paper.lines] == [line.get_color() for line in test.lines]


def test_dots_are_means_seeds_and_crosses(tmp_path):
    shortcuts = comparison("shortcuts")
    identity, plain, b = list(shortcuts.variants)[:3]
    skip = {(name, 20) for name in shortcuts.variants if name not in (identity, plain)}
    runs = write_sweep(
        tmp_path,
        "shortcuts",
        "demo",
        lambda variant, depth: (0.3, 0.5),
        seeds=(-0.1, 0.1),
        skip=skip,
        status={(plain, 20): "diverged"},
    )
    here, paper = shortcuts.drawing(shortcuts.arms(runs)).figure.axes
    dots = {line.get_marker(): (list(line.get_xdata()), list(line.get_ydata())) for line in here.lines}
    assert dots["s"] == (pytest.approx([30]), [0])
    assert dots["o"] == (pytest.approx([50]), [0])
    assert dots["|"] == (pytest.approx([40, 60]), [0, 0])
    assert dots["x"] == ([1.0], [1])
    names = [text.get_text() for text in here.get_yticklabels()]
    assert b not in names  # neither run nor in the paper's table
    assert [names[round(text.get_position()[1])] for text in paper.texts] == [
        name for name, error in shortcuts.published[Network(110)].items() if error == "fail"
    ]


def test_a_sweep_with_one_run_can_be_drawn(tmp_path):
    shortcuts = comparison("shortcuts")
    skip = {(name, 20) for name in list(shortcuts.variants)[1:]}
    runs = write_sweep(tmp_path, "shortcuts", "demo", bearing_out("shortcuts"), skip=skip)
    assert shortcuts.draw(runs, tmp_path / "out")[-1].is_file()
    running = write_run(tmp_path / "running", (0, 0), status="running")
    assert "not finished" in comparison("degradation").draw(read_runs(running), tmp_path / "out")[4].read_text()
    with pytest.raises(UserError, match=r"there is no run to report; `normres sweep --config=configs/shortcuts\.py`"):
        shortcuts.draw([], tmp_path)


def test_missing_arms_are_named_on_the_page(tmp_path):
    skip = {("residual (A)", 38)}
    runs = write_sweep(tmp_path, "aux_loss", "demo", bearing_out("aux_loss"), skip=skip)
    assert "No run of residual (A), depth 38." in comparison("aux_loss").draw(runs, tmp_path / "out")[-1].read_text()
