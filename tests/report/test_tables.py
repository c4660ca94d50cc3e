"""Tables, the notes beside an arm's numbers, warnings about all of them, and the facts."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import experiment, made

from normres.report import facts, tables
from normres.report.clauses import Lower

degradation = experiment("degradation")
PLAIN, DEEP = {"model.shortcut": "none"}, {"model.shortcut": "none", "model.depth": 56}


def test_the_results_exactly():
    runs = [made((t, e), seed=s) for s, (t, e) in enumerate([(0.25, 0.45), (0.27, 0.47), (0.28, 0.49), (0.20, 0.41)])]
    runs += [made((0.4, 0.5), seed=s, change=PLAIN) for s in (0, 0)]
    runs += [
        made((0, 0), seed=2, status="diverged", change=PLAIN, name="two"),
        made((None, 0.56), seed=3, change=PLAIN),
    ]
    runs += [made((0, 0), status="diverged", change=DEEP, name="deep", record={"warnings": ["odd"]})]
    runs += [made((0, 0), status="running", change={"model.depth": 20}, name="late")]
    table = degradation.table(degradation.arms(runs))
    # Of 41, 45, 47 and 49: deviations 4.5, 0.5, 1.5, 3.5 about 45.5, squared 35 over 3; the middle two have mean 46.
    assert [" | ".join(row) for row in (table.header, *table.rows)] == [
        "variant | setting | notes | parameters | seeds | training error (%) | test error (%) | median | "
        "interquartile mean | paper, test (%)",
        # Two copies of seed 0 count once: the mean of 50 and 56.
        "plain | depth 14 | a b c | 14,000 | 2 of 3 | 40.0 (1 diverged) | 53.0 ± 4.2 (1 diverged) | 53.0 | 53.0 | –",
        "plain | depth 56 | d e f | 56,000 | 0 of 1 | diverged | diverged | – | – | –",
        "residual (A) | depth 14 |  | 14,000 | 4 | 25.0 ± 3.6 | 45.5 ± 3.4 | 46.0 | 46.0 | –",
        "residual (A) | depth 20 | d g | 20,000 | 0 of 1 | not finished | not finished | – | – | 8.75",
    ]
    assert table.footnotes == [
        "a: Diverged, 1 of 4 runs: two at step 100.",
        "b: Finished without a final training error: depth=14,shortcut=none,seed=3.",
        "c: More than one run of seed 0: their mean counts as one seed.",
        "d: One seed only, so no spread.",
        "e: Diverged, 1 of 1 run: deep at step 100.",
        "f: odd.",
        "g: Not finished, and in no mean: late.",
        *facts.scale_notes(degradation.arms(runs)),  # since the paper's numbers stand beside
    ]
    assert "# The scale differs" not in tables.latex(table)
    assert "% The scale differs, so only the order can be compared: width 8 here" in tables.latex(table)
    clean = degradation.table(degradation.arms(runs[:4]))
    assert "notes" not in clean.header
    assert clean.footnotes == facts.scale_notes(degradation.arms(runs[:4]))
    own = replace(degradation, published={})
    assert not own.table(own.arms(runs[:4])).footnotes


def test_letters_go_on_after_z():
    arms = degradation.arms([made((0.1, 0.2), record={"warnings": [f"w{n}" for n in range(30)]})])
    letters = [*facts.lettered(arms).values()]
    assert (letters[:2], letters[25:28], len(letters)) == (["a", "b"], ["z", "aa", "ab"], 31)


def test_any_metric_has_a_column_where_a_record_has_it():
    calibrated = {"test_top5_error": 0.125, "test_calibration": 0.0625}
    arms = degradation.arms([made((0.4, 0.5), change=PLAIN, final=calibrated), made((0.3, 0.5))])
    table = degradation.table(arms)
    assert table.header[5:8] == ("training error (%)", "test error (%)", "test top-5 error (%)")
    assert [row[7] for row in table.rows] == ["12.5", "–"]
    runs = facts.run_table(arms)
    assert runs.header[-3:] == ("test top-5 error (%)", "test calibration", "best test error (%)")
    assert [row[-3:] for row in runs.rows] == [("12.50", "0.062", "50.00"), ("–", "–", "50.00")]
    rows = list(csv.DictReader(facts.runs_csv(arms).splitlines()))
    assert [row["test_top5_error"] for row in rows] == ["0.125", ""]
    assert [(row["arm"], row["model.shortcut"], row["train_error"], row["seconds"]) for row in rows] == [
        ("plain, depth 14", "none", "0.4", "60.0"),
        ("residual (A), depth 14", "A", "0.3", "60.0"),
    ]


def test_cells_and_notes_are_escaped():
    rows = (("x|y", "8.75 ± 0.12"), ("[*]\n<b>", "–"))
    table = tables.Table(("a_b", "error (%)"), rows, "Cap & 1 %", footnotes=["a: *odd*\n50 %"])
    assert tables.markdown(table).splitlines() == [
        "Cap &amp; 1 %",
        "",
        "| a\\_b         |   error (%) |",
        "|:-------------|------------:|",
        "| x\\|y         | 8.75 ± 0.12 |",
        "| \\[\\*\\] \\<b\\> |           – |",
        "",
        "a: \\*odd\\* 50 %",
    ]
    latex = re.sub(" +", " ", tables.latex(table)).splitlines()
    assert latex[:2] == ["% Cap & 1 %", "% needs \\usepackage{booktabs}"]
    assert latex[4:] == [
        " a\\_b & error (\\%) \\\\",
        "\\midrule",
        " x|y & 8.75 $\\pm$ 0.12 \\\\",
        " {}[*] \\ensuremath{<}b\\ensuremath{>} & -- \\\\",  # [*] would be an argument of the \\ before it
        "\\bottomrule",
        "\\end{tabular}",
        "% a: *odd* 50 %",
    ]


def test_errors_of_a_validation_set_are_called_so():
    arms = degradation.arms([made((0.1, 0.2), change=net, data={"evaluated_on": "validation"}) for net in (PLAIN, {})])
    table = degradation.table(arms)
    assert table.header[6] == "validation error (%)"
    assert "the whole training and validation set" in table.caption
    assert facts.run_table(arms).header[-1] == "best validation error (%)"
    clause = replace(degradation, clauses=[Lower("x", "plain", "residual (A)")])
    assert clause.judge(arms)[0].evidence.startswith("Validation error at depth 14: plain 20.00 %")
    for chart in degradation.charts([], arms):
        assert "validation error" in chart.alternative
        assert "test error" not in chart.caption


# --- warnings and facts


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"data": {"source": "synthetic"}}, "Synthetic images: random pixels"),
        ({}, "Embedded images: 2,560 and 640 images in place of the full data set’s 50,000 and 10,000."),
        (
            {"data": {"evaluated_on": "validation"}},
            "Some errors were measured on a validation set, which is part of the training images.",
        ),
        ({"attempt": {"commit": "fedcba9876543210"}}, "Commits differ among the runs: 0123456789ab (2 runs); fedcba98"),
        (
            {"attempt": {"host": {"cpu": "another", "cpu_count": 2}}},
            "Processors differ among the runs: a processor (2 cores) (2 runs); another (2 cores) (1 run).",
        ),
        ({"attempt": {"commit": None}}, "The commit is not known for every run."),
        ({"attempt": {"diff": "x"}}, "Code with uncommitted changes: odd. The commit alone does not reproduce it."),
        ({"record": {"dtype": "bfloat16"}}, "Number formats differ among the runs: float32 (2 runs); bfloat16 (1 run)"),
        ({"change": {"model.depth": 56}}, "No run of plain, depth 56."),
    ],
)
def test_a_warning_for_each_weakness(more, words):
    normal = [made((0.1, 0.2), change=PLAIN, data={"source": "binary"}), made((0.1, 0.2), data={"source": "binary"})]
    arms = degradation.arms(normal)
    assert degradation.warnings(arms) == []
    more = {"data": {"source": "binary"}} | more if more else {}
    said = degradation.warnings(degradation.arms([*normal, made((0.1, 0.2), seed=1, name="odd", **more)]))
    assert sum(words in sentence for sentence in said) == 1, said


@pytest.mark.parametrize(("name", "value"), [("model.module", "my.py:Net"), ("init_from", "runs/try")])
def test_versions_of_one_file_are_arms_of_their_own(name, value):
    def one(seed, version):
        sha = version * 64
        own = {"attempt": {"module": sha}} if name == "model.module" else {"record": {"init_from": {"sha256": sha}}}
        return made((0.1, 0.2), change=PLAIN | {name: value}, seed=seed, **own)

    assert len(degradation.arms([one(seed, "a") for seed in (0, 1)])) == 1
    first, second = degradation.arms([one(seed, version) for seed, version in enumerate("ab")])
    assert [arm.label.rpartition(", ")[2] for arm in (first, second)] == [
        f"{name.rpartition('.')[2].replace('_', ' ')} {Path(value).name}-{version * 8}" for version in "ab"
    ]
    named = replace(degradation, variants={"own": {name: value}, "other": {name: "another"}}, held={})
    assert {arm.variant for arm in named.arms([one(0, "a"), one(1, "b")])} == {"own"}


def test_a_caption_names_what_the_runs_were_computed_on():
    gpu = made((0.1, 0.2), attempt={"device": {"platform": "gpu", "kind": "NVIDIA H200", "count": 1}})
    for run, where in ((made((0.1, 0.2)), "a processor (2 cores)"), (gpu, "1 × NVIDIA H200 (gpu)")):
        assert facts.provenance([run]) == f"Run in float32 on {where}, at commit 0123456789ab."


def test_what_was_chosen_on_the_test_set_is_said():
    best = replace(degradation, clauses=[Lower("x", "plain", "residual (A)", best=True)], over="optim.learning_rate")
    words = "The learning rate of each variant was chosen on the test set: its test error is lower than on "
    assert any(line.startswith(words) for line in best.warnings(best.arms([made((0.1, 0.2))])))
    said = best.warnings(best.arms([made((0.1, 0.2), data={"evaluated_on": "validation"})]))
    assert any(line.startswith(words.replace("test", "validation")) for line in said)
    assert not any("chosen" in line for line in degradation.warnings(degradation.arms([made((0.1, 0.2))])))


def test_a_run_that_nobody_trains_is_not_called_running():
    table = facts.run_table(degradation.arms([made((0, 0), status="running")]))
    assert table.rows[0][2] == "interrupted"


@pytest.mark.parametrize(("seconds", "text"), [(47.6, "48 s"), (60, "1 min 0 s"), (9000, "2 h 30 min")])
def test_seconds_are_those_of_all_runs_and_attempts(seconds, text):
    older = {"attempts": [], "compile_seconds": 3.0, "seconds": seconds - 1}
    runs = [
        made((0.1, 0.2), record={"seconds": 1}, change={"optim.optimizer": "adamw"}),
        made((0.1, 0.2), record=older),
    ]
    said = dict(facts.what_was_run(runs))
    assert said["Training time"] == f"{text} in 2 runs, and 8 s of compilation"
    assert "optimizer adamw, " in said["Optimizer"]


def test_a_warning_of_some_runs_counts_them():
    runs = [made((0.1, 0.2), change=PLAIN, seed=seed, record={"warnings": ["odd"][seed:]}) for seed in (0, 1)]
    assert "odd (1 of 2 runs)." in facts.notes_of(*degradation.arms(runs))
