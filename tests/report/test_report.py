"""The report, on synthetic run directories in the documented format: nothing is trained here."""

import copy
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments import degradation
from normres.errors import UserError
from normres.report import curves, facts, figures, tables
from normres.report.lines import arms_of, missing_arms
from normres.report.statistics import Summary, distinguishing_fields, group, summarize
from normres.report.verdict import Difference, together
from normres.runs.results import read_runs, write_json

CONFIG = {
    "seed": 0,
    "recipe": "demo",
    "model": {"depth": 14, "width": 8, "shortcut": "A", "order": "post", "norm": "batch"},
    "data": {"name": "cifar10", "source": "embedded", "path": ""},
    "optim": {"learning_rate": 0.1, "schedule": "cosine", "warmup_steps": 100, "boundaries": []},
    "train": {"steps": 320, "batch_size": 128, "log_every": 10, "eval_every": 80},
}
# Training and test errors by shortcut and depth, like those of the demo.
HOLDS = {
    ("none", 14): (0.41, 0.50),
    ("none", 26): (0.52, 0.58),
    ("none", 56): (0.745, 0.76),
    ("A", 14): (0.36, 0.48),
    ("A", 26): (0.25, 0.45),
    ("A", 56): (0.26, 0.46),
}


def write_run(root, shortcut, depth, errors, *, seed=0, name=None, status="finished", change=(), record=()):
    """Writes one run directory; `change` are config fields by dotted name, `record` of record.json."""
    config = copy.deepcopy(CONFIG)
    config["seed"] = seed
    fields = {"model.depth": depth, "model.shortcut": shortcut} | dict(change)
    for field, value in fields.items():
        section, _, key = field.rpartition(".")
        (config[section] if section else config)[key] = value
    name = name or f"{shortcut}-{depth}-{seed}"
    path = root / f"run{len(list(root.glob('*')))}"
    path.mkdir(parents=True)
    write_json(path / "config.json", config)
    last = 320 if status == "finished" else 100
    train, test = errors if status == "finished" else (None, None)
    lines = [
        {"step": step, "split": "train", "loss": 1.9, "error": 0.9 - 0.001 * step, "learning_rate": 0.1}
        for step in range(10, last + 1, 10)
    ]
    if status == "diverged":
        lines.append({"step": last, "split": "train", "loss": None, "error": None, "learning_rate": 0.1})
    else:
        lines += [{"step": s, "split": "test", "loss": 1.9, "error": 0.9 - 0.001 * s} for s in range(80, last + 1, 80)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "status": status,
        "run_id": name,
        "seed": seed,
        "dtype": "float32",
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "versions": {"jax": "0.12.0"},
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "host": {"system": "Linux", "cpu": "a processor", "cpu_count": 2},
        "parameters": 1000 * depth,
        "data": {
            "name": "cifar10",
            "source": "embedded",
            "train_examples": 2560,
            "test_examples": 640,
            "sha256": "ab" * 32,
        },
        "step": last,
        "steps": 320,
        "seconds": 60.0,
        "compile_seconds": 5.0,
        "diverged_at_step": last if status == "diverged" else None,
        "final": {"train_loss": 1.0, "train_error": train, "test_loss": 1.5, "test_error": test},
        "best_test_error": test,
    }
    write_json(path / "record.json", values | dict(record))
    return path


def write_all(root, results, seeds=(0.0,)):
    """Writes one run per result and seed; each seed is an offset to every error."""
    for (shortcut, depth), (train, test) in results.items():
        for seed, offset in enumerate(seeds):
            write_run(root, shortcut, depth, (train + offset, test + offset), seed=seed)
    return read_runs(root)


def outcomes(runs):
    """Returns the outcome by the letter of the clause."""
    return {clause.claim[: clause.claim.index(")") + 1]: clause.outcome for clause in degradation.judge(arms_of(runs))}


# --- statistics


def test_summary_by_hand():
    # mean 20/4 = 5; squared deviations 9 + 1 + 1 + 9 = 20, over n - 1 = 3; median (4 + 6) / 2.
    summary = summarize([2.0, 4.0, 6.0, 8.0])
    assert summary.count == 4
    assert summary.mean == 5
    assert summary.standard_deviation == pytest.approx(math.sqrt(20 / 3))
    assert summary.standard_error == pytest.approx(math.sqrt(20 / 3) / 2)
    assert (summary.median, summary.minimum, summary.maximum) == (5, 2, 8)


def test_one_seed_has_no_spread():
    assert summarize([0.25]) == Summary(1, 0.25, None, 0.25, 0.25, 0.25)
    assert summarize([0.25]).standard_error is None
    assert summarize([]) is None


def test_arms_are_over_seeds_and_count_the_diverged(tmp_path):
    write_run(tmp_path, "none", 14, (0.4, 0.5), seed=1)
    write_run(tmp_path, "none", 14, (0.2, 0.5), seed=0)
    write_run(tmp_path, "none", 14, (0, 0), seed=2, status="diverged")
    write_run(tmp_path, "none", 14, (0, 0), seed=3, status="running")
    write_run(tmp_path, "none", 8, (0.3, 0.5))
    runs = read_runs(tmp_path)
    eight, fourteen = group(runs, ["model.depth"])
    assert (eight.label, fourteen.label) == ("depth 8", "depth 14")  # as numbers: as texts, 14 is before 8
    assert [run.record["seed"] for run in fourteen.runs] == [0, 1, 2, 3]
    assert (len(fourteen.finished), len(fourteen.diverged), len(fourteen.unfinished)) == (2, 1, 1)
    assert fourteen.summary("train_error").mean == pytest.approx(0.3)
    assert fourteen.summary("train_error", diverged_as=0.9).mean == pytest.approx((0.4 + 0.2 + 0.9) / 3)


def test_distinguishing_fields_lets_a_recipe_stand_for_what_it_sets(tmp_path):
    write_run(tmp_path, "none", 14, (0.4, 0.5))
    write_run(
        tmp_path,
        "A",
        14,
        (0.4, 0.5),
        seed=5,
        change={"recipe": "budget", "train.steps": 6400, "data.path": "x"},
    )
    runs = read_runs(tmp_path)
    assert distinguishing_fields(runs, ignore=["model.shortcut"], first=["recipe"]) == ["recipe"]
    assert distinguishing_fields(runs[:1]) == []


def test_how_a_run_was_computed_is_no_difference_between_arms(tmp_path):
    execution = {"model.remat": "block", "model.unroll": "always", "train.ops": "plain"}
    execution["train.seeds_per_program"] = 4
    write_run(tmp_path, "A", 14, (0.4, 0.5))
    write_run(tmp_path, "A", 14, (0.4, 0.5), seed=1, change=execution)
    assert distinguishing_fields(read_runs(tmp_path)) == []


def test_a_missing_field_names_the_file(tmp_path):
    path = write_run(tmp_path, "none", 14, (0.4, 0.5))
    with pytest.raises(UserError, match=re.escape(f"{path / 'config.json'}: has no field 'model.colour'")):
        group(read_runs(tmp_path), ["model.colour"])


# --- the rule


def test_difference_by_hand():
    # Standard deviations 0.03 of 9 and 0.04 of 4 seeds: standard errors 0.01 and 0.02, together sqrt(0.0005).
    before = Summary(9, 0.50, 0.03, 0.5, 0.5, 0.5)
    after = Summary(4, 0.54, 0.04, 0.5, 0.5, 0.5)
    difference = Difference(before, after)
    assert difference.standard_error == pytest.approx(math.sqrt(0.0005))
    assert difference.text() == "+4.00 ± 2.24 points (standard error; 9 and 4 seeds)"
    # 0.04 is less than twice 0.02236, so neither is known.
    assert difference.is_higher() == difference.is_not_higher() == "cannot be judged yet"
    assert difference.is_lower() == "not borne out"
    clear = Difference(before, Summary(4, 0.56, 0.04, 0.5, 0.5, 0.5))
    assert (clear.is_higher(), clear.is_not_higher()) == ("borne out", "not borne out")
    single = Difference(summarize([0.5]), summarize([0.4]))
    assert (single.is_lower(), single.is_not_higher()) == ("borne out", "borne out")
    assert single.text() == "−10.00 points (one seed each: no spread)"


def test_together():
    assert together(["borne out", "borne out"]) == "borne out"
    assert together(["borne out", "cannot be judged yet"]) == "cannot be judged yet"
    assert together(["cannot be judged yet", "not borne out"]) == "not borne out"
    assert together([]) == "cannot be judged yet"


# --- the verdict


@pytest.mark.parametrize("seeds", [(0.0,), (-0.01, 0.0, 0.01)])
def test_verdict_holds(tmp_path, seeds):
    runs = write_all(tmp_path, HOLDS, seeds)
    assert outcomes(runs) == dict.fromkeys(["(a)", "(a′)", "(b)", "(c)"], "borne out")
    evidence = degradation.judge(arms_of(runs))[0].evidence
    # Standard deviation of -1, 0, 1 points is 1; the standard error of the difference is sqrt(1/3 + 1/3).
    assert ("+33.50 ± 0.82 points" if len(seeds) == 3 else "+33.50 points (one seed each: no spread)") in evidence


def test_verdict_fails_where_the_claim_does(tmp_path):
    swapped = {("A" if shortcut == "none" else "none", depth): errors for (shortcut, depth), errors in HOLDS.items()}
    assert outcomes(write_all(tmp_path, swapped)) == dict.fromkeys(["(a)", "(a′)", "(b)", "(c)"], "not borne out")


def test_monotone_is_a_clause_of_its_own(tmp_path):
    result = outcomes(write_all(tmp_path, HOLDS | {("none", 26): (0.40, 0.5)}))
    assert (result["(a)"], result["(a′)"]) == ("borne out", "not borne out")


def test_a_difference_within_the_spread_cannot_be_judged(tmp_path):
    close = HOLDS | {("A", 56): (0.361, 0.46)}
    assert outcomes(write_all(tmp_path / "many", close, (-0.02, 0.0, 0.02)))["(b)"] == "cannot be judged yet"
    assert outcomes(write_all(tmp_path / "one", close))["(b)"] == "not borne out"


def test_a_diverged_plain_net_counts_as_guessing(tmp_path):
    write_run(tmp_path, "none", 56, (0, 0), status="diverged")
    runs = write_all(tmp_path, {key: errors for key, errors in HOLDS.items() if key != ("none", 56)})
    assert outcomes(runs) == dict.fromkeys(["(a)", "(a′)", "(b)", "(c)"], "borne out")
    clauses = degradation.judge(arms_of(runs))
    for clause in (clauses[0], clauses[3]):
        assert "counted at the error of guessing, 90 %: 1 of 1 run of plain, depth 56." in clause.evidence
    assert "difference +49.00 points" in clauses[0].evidence
    assert degradation.chance(arms_of(runs)[0]) == pytest.approx(0.9)
    for run in runs:
        run.record["data"]["classes"] = 100
    assert degradation.chance(arms_of(runs)[0]) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("kept", "unknown", "said"),
    [
        ([("none", 14), ("none", 26)], ["(b)", "(c)"], "There is no residual run."),
        ([("A", 14), ("A", 26)], ["(a)", "(a′)", "(c)"], "There is no plain run."),
        (
            [("none", 14), ("A", 14)],
            ["(a)", "(a′)", "(b)"],
            "There is only one depth of plain nets (14); two",
        ),
        (
            [("none", 14), ("none", 26), ("A", 14), ("A", 56)],
            ["(c)"],
            "There is no plain run of depth 56 that",
        ),
    ],
)
def test_verdict_names_what_is_missing(tmp_path, kept, unknown, said):
    runs = write_all(tmp_path, {key: HOLDS[key] for key in kept})
    assert [name for name, outcome in outcomes(runs).items() if outcome == "cannot be judged yet"] == unknown
    first = next(clause for clause in degradation.judge(arms_of(runs)) if clause.outcome == "cannot be judged yet")
    assert first.evidence.startswith(said)


def test_a_run_that_is_not_done_is_waited_for(tmp_path):
    write_run(tmp_path, "none", 110, (0, 0), status="running")
    clause = degradation.judge(arms_of(write_all(tmp_path, HOLDS)))[0]
    assert (clause.outcome, clause.evidence) == ("cannot be judged yet", "No plain run is done at depth 110.")
    assert [clause.outcome for clause in degradation.judge([])] == ["cannot be judged yet"] * 4


def test_unlike_things_are_not_averaged_or_compared(tmp_path):
    write_all(tmp_path, HOLDS)
    for shortcut in ("B", "A"):
        for depth in (14, 56):
            errors, order = (0.9, 0.9), {"model.order": "pre"} if shortcut == "A" else {}
            write_run(tmp_path, shortcut, depth, errors, name=f"other {shortcut}", change=order)
    arms = arms_of(read_runs(tmp_path))
    assert all(len(arm.runs) == 1 for arm in arms)
    lines = [
        "plain, post order",
        "residual (A), post order",
        "residual (B), post order",
        "residual (A), pre order",
    ]
    assert list(degradation.lines_of(arms)) == lines
    pre = [clause for clause in degradation.judge(arms) if "pre order" in clause.claim]
    assert [clause.outcome for clause in pre if clause.claim.startswith("(c)")] == ["cannot be judged yet"]


# --- tables


def test_table_exactly(tmp_path):
    write_all(tmp_path, {("A", 56): (0.26, 0.46), ("none", 14): (0.41, 0.50)}, (-0.01, 0.01))
    write_run(tmp_path, "none", 14, (0, 0), seed=2, status="diverged")
    write_run(tmp_path, "none", 56, (0, 0), seed=2, status="diverged")
    table = degradation.table(arms_of(read_runs(tmp_path)))
    # The standard deviation of -1 and 1 points is sqrt(2) points.
    diverged = "diverged at step 100"
    assert table.rows == (
        ("plain", "14", "14,000", "2 of 3", f"41.0 ± 1.4 (1 {diverged})", f"50.0 ± 1.4 (1 {diverged})", "–"),
        ("plain", "56", "56,000", "0 of 1", diverged, diverged, "–"),
        ("residual (A)", "56", "56,000", "2", "26.0 ± 1.4", "46.0 ± 1.4", "6.97"),
    )  # fmt: skip


def test_markdown_and_latex_exactly():
    table = tables.Table(("a_b", "error (%)"), (("x|y", "8.75 ± 0.12"), ("[*]\n<b>", "–")), "Cap & 1 %")
    assert tables.markdown(table) == (
        "Cap &amp; 1 %\n"
        "\n"
        "| a\\_b         |   error (%) |\n"
        "| ------------ | ----------: |\n"
        "| x\\|y         | 8.75 ± 0.12 |\n"
        "| \\[\\*\\] \\<b\\> |           – |\n"
    )
    assert tables.latex(table) == (
        "% Cap & 1 %\n"
        "% needs \\usepackage{booktabs}\n"
        "\\begin{tabular}{lr}\n"
        "\\toprule\n"
        "a\\_b & error (\\%) \\\\\n"
        "\\midrule\n"
        "x|y & 8.75 $\\pm$ 0.12 \\\\\n"
        "{[}{*}] \\textless{}b\\textgreater{} & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )
    assert tables.latex(tables.Table(("\\$#{}~^",), ())).count(
        r"\textbackslash{}\$\#\{\}\textasciitilde{}\textasciicircum{}"
    )
    with pytest.raises(ValueError, match="a row of 1 cells under a header of 2"):
        tables.Table(("a", "b"), (("c",),))


def test_percent():
    assert tables.percent(summarize([0.0875])) == "8.75"
    assert tables.percent(summarize([0.1, 0.2]), 1) == "15.0 ± 7.1"  # 0.1 / sqrt(2)
    assert tables.percent(None) == "–"


# --- warnings and facts


def test_warnings_name_what_is_wrong(tmp_path):
    write_run(tmp_path, "none", 14, (0.4, 0.5), name="one")
    write_run(
        tmp_path,
        "none",
        14,
        (0.4, 0.5),
        name="two",
        record={"dtype": "bfloat16", "uncommitted_changes": True},
    )
    write_run(tmp_path, "none", 26, (0, 0), name="three", status="diverged", record={"commit": None})
    write_run(tmp_path, "A", 14, (0, 0), name="four", status="running")
    write_run(tmp_path, "A", 14, (None, 0.5), name="five", seed=1)
    arms = arms_of(read_runs(tmp_path))
    found = facts.warnings(arms, missing=missing_arms(arms))
    for sentence in (
        "One seed only, so no spread: plain, depth 14; plain, depth 26.",
        "plain, depth 14 has more than one run of seed 0: these are not independent, and the spread is understated.",
        "Diverged, 1 of 1 run of plain, depth 26: three at step 100.",
        "Not finished, and in no mean: four of residual (A), depth 14.",
        "Finished without a final training error: five of residual (A), depth 14.",
        "No run of residual (A), depth 26.",
        "Number formats differ among the runs: float32 (4 runs); bfloat16 (1 run).",
        "Code with uncommitted changes: two. The commit alone does not reproduce it.",
        "The commit is not known for every run.",
    ):
        assert sentence in found
    assert any(sentence.startswith("Commits differ among the runs: 0123456789ab (3 runs)") for sentence in found)


def test_nothing_to_warn_of(tmp_path):
    arms = arms_of(write_all(tmp_path, HOLDS, (-0.01, 0.01)))
    assert facts.warnings(arms, missing=missing_arms(arms)) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(47.6, "48 s"), (60, "1 min 0 s"), (307, "5 min 7 s"), (9000, "2 h 30 min")]
)
def test_duration(seconds, text):
    assert facts.duration(seconds) == text


# --- figures


def test_a_curve_is_the_mean_over_seeds_at_shared_steps(tmp_path):
    for seed, errors in enumerate(([0.8, 0.6, 0.4], [0.6, 0.5])):
        path = write_run(tmp_path, "A", 14, (0.4, 0.5), seed=seed)
        lines = [{"step": 10 * n, "split": "test", "error": error} for n, error in enumerate(errors)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arm,) = arms_of(read_runs(tmp_path))
    axes = curves.training_curves({"A": [arm]}, label=lambda arm: "14").axes[0]
    (line,) = axes.lines  # no training line was logged
    assert list(line.get_xdata()) == [0, 10]
    assert list(line.get_ydata()) == pytest.approx([70, 55])


def test_long_curves_are_averaged_in_blocks(tmp_path):
    path = write_run(tmp_path, "A", 14, (0.4, 0.5))
    lines = [{"step": n, "split": "train", "error": (n % 2) / 2} for n in range(1, 2 * curves.CURVE_POINTS + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (line,) = curves.training_curves({"A": arms_of(read_runs(tmp_path))}, label=lambda arm: "14").axes[0].lines
    assert list(line.get_xdata()) == list(range(2, 2 * curves.CURVE_POINTS + 1, 2))
    assert set(line.get_ydata()) == {25.0}  # of 50 and 0 percent


def test_error_against_depth_draws_means_and_marks_the_diverged(tmp_path):
    write_all(tmp_path, {("none", 14): (0.4, 0.5), ("none", 26): (0.5, 0.6)}, (-0.1, 0.1))
    write_run(tmp_path, "none", 56, (0, 0), status="diverged")
    training, test = figures.error_against_depth(degradation.lines_of(arms_of(read_runs(tmp_path)))).axes
    for axes, means in ((training, [40, 50]), (test, [50, 60])):
        assert list(axes.lines[0].get_xdata()) == [14, 26]
        assert list(axes.lines[0].get_ydata()) == pytest.approx(means)
        assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"] == [[56]]
        assert list(axes.get_xticks()) == [56, 26, 14]


# --- everything drawn


class Reader(HTMLParser):
    """Collects tags, addresses and text, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("src", "href", "srcset", "action", "data", "poster", "background")
        self.addresses += [value for name, value in attributes if name in names]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draws runs with several seeds, a diverged and a running one, and one with a hostile name."""
    root = tmp_path_factory.mktemp("report")
    write_all(root / "runs", HOLDS, (-0.01, 0.01))
    write_run(root / "runs", "none", 110, (0, 0), status="diverged")
    write_run(root / "runs", "A", 110, (0, 0), status="running")
    hostile = '"><script>alert(1)</script><img src=http://x.example/ onerror="x">&$_^'
    write_run(
        root / "runs",
        "A",
        110,
        (0.2, 0.4),
        seed=1,
        name=hostile,
        record={"dtype": "</style><b>", "device": {}},
    )
    return degradation.draw(read_runs(root / "runs"), root / "made" / "out"), hostile, root


def test_files(drawn):
    paths, _, root = drawn
    names = [
        "degradation.png",
        "degradation.pdf",
        "curves.png",
        "curves.pdf",
        "table.md",
        "table.tex",
        "index.html",
    ]
    assert [path.name for path in paths] == names
    # Nothing else is left, temporary files for example.
    assert sorted(path.name for path in (root / "made" / "out").iterdir()) == sorted(names)
    for path in paths[:4]:
        assert path.stat().st_size > 8_000
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF-")
    for path in (paths[1], paths[3]):
        assert b"/FontFile2" in path.read_bytes()  # TrueType; Type 3 fonts have no file
        assert b"/Type3" not in path.read_bytes()


def test_page_is_self_contained(drawn):
    paths, hostile, _ = drawn
    text = paths[-1].read_text()
    reader = Reader(text)
    assert len(reader.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not {"script", "link", "iframe", "object", "b"} & set(reader.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "http://x.example" not in text.replace("src=http://x.example/", "")
    assert hostile in reader.text  # shown as it is
    assert "<script" not in text


def test_page_says_what_matters(drawn):
    paths, _, root = drawn
    text = Reader(paths[-1].read_text()).text.replace("\xa0", " ")
    for part in (
        "borne out",
        "counted at the error of guessing, 90 %: 1 of 1 run of plain, depth 110",
        "Rule: with two seeds or more",
        "cifar10 (embedded), 2,560 training and 640 test images, SHA-256 abababababab…",
        "width 8 here, 16 there",
        "steps 320 here, 64,000 there",
        "2,560 training images here, 50,000 there",
        "plain-110 stays above 60 % error",
        "6.43 (6.61 ± 0.16)",
        "15 min 0 s in 15 runs",
        "diverged at step 100",
    ):
        assert part in text, part
    assert str(root) not in paths[-1].read_text()


def test_drawing_again_gives_the_same_bytes(drawn, tmp_path):
    paths, _, root = drawn
    # In another process, with another hash seed: metadata, font subsets and order must not depend on either.
    code = (
        "import sys; from pathlib import Path; from experiments import degradation; "
        "from normres.runs.results import read_runs; "
        "degradation.draw(read_runs(Path(sys.argv[1])), Path(sys.argv[2])); print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, root / "runs", tmp_path],
        cwd=Path(degradation.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": "", "HOME": str(tmp_path)},
    )
    for path in paths:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    modules = done.stdout
    assert not [name for name in ("jax", "flax", "normres.training", "matplotlib.pyplot") if f"'{name}'" in modules]


def test_a_sweep_that_has_only_begun_can_be_drawn(tmp_path):
    write_run(tmp_path / "runs", "none", 14, (0, 0), status="running")
    paths = degradation.draw(read_runs(tmp_path / "runs"), tmp_path / "out")
    assert "cannot be judged yet" in paths[-1].read_text()
    assert "not finished" in paths[4].read_text()


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="there is no run to report"):
        degradation.draw([], tmp_path)
