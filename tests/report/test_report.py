"""Statistics, the rule, tables, warnings, curves and the page, on synthetic run directories."""

import csv
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from synthetic import ROOT, comparison, write_grid, write_lines, write_run

from normres.errors import UserError
from normres.report import curves, facts, tables
from normres.report.statistics import Summary, distinguishing_fields, group, summarize
from normres.report.verdict import Difference, chance, together
from normres.runs.results import read_runs

degradation = comparison("degradation")
# Training and test errors by shortcut and depth, like those of the demo.
HOLDS = {
    ("none", 14): (0.41, 0.50),
    ("none", 26): (0.52, 0.58),
    ("none", 56): (0.745, 0.76),
    ("A", 14): (0.36, 0.48),
    ("A", 26): (0.25, 0.45),
    ("A", 56): (0.26, 0.46),
}
PLAIN, DEEP = {"model.shortcut": "none"}, {"model.shortcut": "none", "model.depth": 56}


# --- statistics


def test_summary_by_hand():
    # mean 20/4 = 5; squared deviations 9 + 1 + 1 + 9 = 20, over n - 1 = 3; median (4 + 6) / 2.
    summary = summarize([2.0, 4.0, 6.0, 8.0])
    assert summary == Summary(4, 5, pytest.approx(math.sqrt(20 / 3)), 5)
    assert summary.standard_error == pytest.approx(math.sqrt(20 / 3) / 2)
    assert summarize([0.25]) == Summary(1, 0.25, None, 0.25)
    assert summarize([0.25]).standard_error is None
    assert summarize([]) is None


def test_arms_are_over_seeds_and_count_the_diverged(tmp_path):
    write_run(tmp_path, (0.4, 0.5), seed=1)
    write_run(tmp_path, (0.2, 0.5), seed=0)
    write_run(tmp_path, (0, 0), seed=2, status="diverged")
    write_run(tmp_path, (0, 0), seed=3, status="running")
    write_run(tmp_path, (0.3, 0.5), change={"model.depth": 8})
    eight, fourteen = degradation.arms(read_runs(tmp_path))
    labels = ("residual (A), depth 8", "residual (A), depth 14")
    assert (eight.label, fourteen.label) == labels  # as numbers: as texts, 14 is before 8
    assert [run.record["seed"] for run in fourteen.runs] == [0, 1, 2, 3]
    assert (len(fourteen.finished), len(fourteen.diverged), len(fourteen.unfinished)) == (2, 1, 1)
    assert fourteen.summary("train_error").mean == pytest.approx(0.3)
    assert fourteen.summary("train_error", diverged_as=0.9).mean == pytest.approx((0.4 + 0.2 + 0.9) / 3)
    assert chance(fourteen) == pytest.approx(0.9)
    fourteen.runs[0].record["data"]["classes"] = 100
    assert chance(fourteen) == pytest.approx(0.99)


def test_distinguishing_fields(tmp_path):
    write_run(tmp_path, (0.4, 0.5), change=PLAIN)
    # A recipe stands for the fields that it sets; the seed and where the data lie tell nothing.
    short = {"recipe": "short", "train.steps": 3200, "data.path": "x"}
    write_run(tmp_path, (0.4, 0.5), seed=5, change=short)
    runs = read_runs(tmp_path)
    assert distinguishing_fields(runs, ignore=["model.shortcut"], first=["recipe"]) == ["recipe"]
    # Neither does how a run was computed.
    execution = {"model.remat": "block", "model.unroll": "always", "train.ops": "plain", "train.seeds_per_program": 4}
    write_run(tmp_path / "more", (0.4, 0.5), change=execution | PLAIN)
    assert distinguishing_fields([runs[0], *read_runs(tmp_path / "more")]) == []


def test_a_missing_field_names_the_file(tmp_path):
    path = write_run(tmp_path, (0.4, 0.5))
    with pytest.raises(UserError, match=re.escape(f"{path / 'config.json'}: has no field 'model.colour'")):
        group(read_runs(tmp_path), ["model.colour"])


# --- the rule


def test_difference_by_hand():
    # Standard deviations 0.03 of 9 and 0.04 of 4 seeds: standard errors 0.01 and 0.02, together sqrt(0.0005).
    before = Summary(9, 0.50, 0.03, 0.5)
    difference = Difference(before, Summary(4, 0.54, 0.04, 0.5))
    assert difference.standard_error == pytest.approx(math.sqrt(0.0005))
    assert difference.text() == "+4.00 ± 2.24 points (standard error; 9 and 4 seeds)"
    # 0.04 is less than twice 0.02236, so neither is known.
    assert difference.is_higher() == difference.is_not_higher() == "cannot be judged yet"
    assert difference.is_lower() == "not borne out"
    clear = Difference(before, Summary(4, 0.56, 0.04, 0.5))
    assert (clear.is_higher(), clear.is_not_higher()) == ("borne out", "not borne out")
    single = Difference(summarize([0.5]), summarize([0.4]))
    assert (single.is_lower(), single.is_not_higher()) == ("borne out", "borne out")
    assert single.text() == "−10.00 points (one seed each: no spread)"


def test_together():
    assert together(["borne out", "borne out"]) == "borne out"
    assert together(["borne out", "cannot be judged yet"]) == "cannot be judged yet"
    assert together(["cannot be judged yet", "not borne out"]) == "not borne out"
    assert together([]) == "cannot be judged yet"


# --- tables


def test_the_results_exactly(tmp_path):
    write_grid(tmp_path, {("A", 56): (0.26, 0.46), ("none", 14): (0.41, 0.50)}, (-0.01, 0.01))
    write_run(tmp_path, (0, 0), seed=2, status="diverged", change=PLAIN)
    write_run(tmp_path, (0, 0), seed=2, status="diverged", change=DEEP)
    write_run(tmp_path, (0, 0), change={"model.depth": 26}, status="running")
    table = degradation.table(degradation.arms(read_runs(tmp_path)))
    # The standard deviation of -1 and 1 points is sqrt(2) points.
    at = "diverged at step 100"
    assert [row[:2] + row[3:] for row in table.rows] == [
        ("plain", "depth 14", "2 of 3", f"41.0 ± 1.4 (1 {at})", f"50.0 ± 1.4 (1 {at})", "50.0", "–"),
        ("plain", "depth 56", "0 of 1", at, at, "–", "–"),
        ("residual (A)", "depth 26", "0 of 1", "not finished", "not finished", "–", "–"),
        ("residual (A)", "depth 56", "2", "26.0 ± 1.4", "46.0 ± 1.4", "46.0", "6.97"),
    ]
    assert [row[2] for row in table.rows] == ["14,000", "56,000", "26,000", "56,000"]
    assert tables.percent(summarize([0.0875])) == "8.75"


def test_any_metric_has_a_column_where_a_record_has_it(tmp_path):
    write_run(tmp_path, (0.4, 0.5), change=PLAIN, final={"test_top5_error": 0.125, "test_calibration": 0.0625})
    write_run(tmp_path, (0.3, 0.5))
    arms = degradation.arms(read_runs(tmp_path))
    table = degradation.table(arms)
    assert table.header[4:7] == ("training error (%)", "test error (%)", "test top-5 error (%)")
    assert [row[6] for row in table.rows] == ["12.5", "–"]
    runs = facts.run_table(arms)
    assert runs.header[-3:] == ("test top-5 error (%)", "test calibration", "best test error (%)")
    assert [row[-3:] for row in runs.rows] == [("12.50", "0.062", "50.00"), ("–", "–", "50.00")]
    rows = list(csv.DictReader(facts.runs_csv(arms).splitlines()))
    assert [row["test_top5_error"] for row in rows] == ["0.125", ""]
    assert [(row["status"], row["seconds"], row["parameters"]) for row in rows] == [("finished", "60.0", "14000")] * 2
    assert [(row["arm"], row["model.shortcut"], row["train_error"]) for row in rows] == [
        ("plain, depth 14", "none", "0.4"),
        ("residual (A), depth 14", "A", "0.3"),
    ]


def test_cells_are_escaped():
    table = tables.Table(("a_b", "error (%)"), (("x|y", "8.75 ± 0.12"), ("[*]\n<b>", "–")), "Cap & 1 %")
    assert tables.markdown(table).splitlines() == [
        "Cap &amp; 1 %",
        "",
        "| a\\_b         |   error (%) |",
        "|:-------------|------------:|",
        "| x\\|y         | 8.75 ± 0.12 |",
        "| \\[\\*\\] \\<b\\> |           – |",
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
    ]
    with pytest.raises(ValueError, match="a row of 1 cells under a header of 2"):
        tables.Table(("a", "b"), (("c",),))


# --- warnings and facts


def test_warnings_name_what_is_wrong(tmp_path):
    write_run(tmp_path, (0.4, 0.5), name="one", change=PLAIN)
    changed = {"dtype": "bfloat16", "uncommitted_changes": True}
    write_run(tmp_path, (0.4, 0.5), name="two", change=PLAIN, record=changed)
    write_run(tmp_path, (0, 0), name="three", status="diverged", change=DEEP, record={"commit": None})
    write_run(tmp_path, (0, 0), name="four", status="running")
    write_run(tmp_path, (None, 0.5), name="five", seed=1)
    arms = degradation.arms(read_runs(tmp_path))
    warnings = facts.warnings(arms, missing=degradation.missing(arms))
    for sentence in (
        "One seed only, so no spread: plain, depth 14; plain, depth 56.",
        "plain, depth 14 has more than one run of seed 0: these are not independent, and the spread is understated.",
        "Diverged, 1 of 1 run of plain, depth 56: three at step 100.",
        "Not finished, and in no mean: four of residual (A), depth 14.",
        "Finished without a final training error: five of residual (A), depth 14.",
        "No run of residual (A), depth 56.",
        "Number formats differ among the runs: float32 (4 runs); bfloat16 (1 run).",
        "Code with uncommitted changes: two. The commit alone does not reproduce it.",
        "The commit is not known for every run.",
    ):
        assert sentence in warnings
    assert any(sentence.startswith("Commits differ among the runs: 0123456789ab (3 runs)") for sentence in warnings)
    for name, data, words in (
        ("random", {"source": "synthetic"}, "Synthetic images: random pixels"),
        ("aside", {"evaluated_on": "validation"}, "was measured on a validation set"),
    ):
        write_run(tmp_path / name, (0.4, 0.5), record={"data": data, "warnings": ["config.x is odd"]})
        said = facts.warnings(degradation.arms(read_runs(tmp_path / name)))
        assert sum(words in sentence for sentence in said) == 1
        assert "config.x is odd (1 of 1 run)." in said
    clean = degradation.arms(write_grid(tmp_path / "clean", HOLDS, (-0.01, 0.01)))
    assert facts.warnings(clean, missing=degradation.missing(clean)) == []


@pytest.mark.parametrize(("seconds", "text"), [(47.6, "48 s"), (60, "1 min 0 s"), (9000, "2 h 30 min")])
def test_duration(seconds, text):
    assert facts.duration(seconds) == text


# --- curves


def test_a_curve_is_the_mean_over_seeds_at_shared_steps(tmp_path):
    for seed, errors in enumerate(([0.8, 0.6, 0.4], [0.6, 0.5])):
        path = write_run(tmp_path, (0.4, 0.5), seed=seed)
        write_lines(path, [{"step": 10 * n, "split": "test", "error": error} for n, error in enumerate(errors)])
    figure = curves.training_curves({"A": degradation.arms(read_runs(tmp_path))}).figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "test", "depth 14"]
    (line,) = figure.axes[0].lines  # no training line was logged
    assert list(line.get_xdata()) == [0, 10]
    assert list(line.get_ydata()) == pytest.approx([70, 55])


def test_long_curves_are_averaged_in_blocks(tmp_path):
    path = write_run(tmp_path, (0.4, 0.5))
    steps = range(1, 2 * curves.CURVE_POINTS + 2)
    write_lines(path, [{"step": n, "split": "train", "error": (n % 2) / 2} for n in steps])
    (line,) = curves.training_curves({"A": degradation.arms(read_runs(tmp_path))}).figure.axes[0].lines
    assert list(line.get_xdata()) == [*range(3, steps[-1], 3), steps[-1]]  # the last block is shorter
    assert list(line.get_ydata()[:2]) == pytest.approx([100 / 3, 50 / 3])  # of 50, 0, 50 and of 0, 50, 0 percent


# --- the page


class Reader(HTMLParser):
    """Collects tags, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draws runs with several seeds, a diverged and a running one, and one with a hostile name."""
    root = tmp_path_factory.mktemp("report")
    write_grid(root / "runs", HOLDS, (-0.01, 0.01))
    deepest = {"model.depth": 110}
    write_run(root / "runs", (0, 0), status="diverged", change=PLAIN | deepest)
    write_run(root / "runs", (0, 0), status="running", change=deepest)
    hostile = '"><script>alert(1)</script><img src=http://x.example/ onerror="x">&$_^'
    record = {"dtype": "</style><b>", "device": {}}
    write_run(root / "runs", (0.2, 0.4), seed=1, name=hostile, change=deepest, record=record)
    return degradation.draw(read_runs(root / "runs"), root / "made" / "out"), hostile, root


def test_files(drawn):
    paths, _, root = drawn
    figures = ["degradation.png", "degradation.pdf", "curves.png", "curves.pdf"]
    names = [*figures, "table.md", "table.tex", "table.csv", "index.html"]
    assert [path.name for path in paths] == names
    # Nothing else is left, temporary files for example.
    assert sorted(path.name for path in (root / "made" / "out").iterdir()) == sorted(names)
    for path in paths[:4]:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF-")
        if path.suffix == ".pdf":
            assert b"/FontFile2" in content  # TrueType; Type 3 fonts have no file
            assert b"/Type3" not in content


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
        "count at the error of guessing, 90 %: 1 of 1 run of plain, depth 110",
        "Rule: with two seeds or more",
        "cifar10 (embedded), 2,560 training and 640 test images, SHA-256 abababababab…",
        "width 8 here, 16 there",
        "steps 320 here, 64,000 there",
        "2,560 training images here, 50,000 there",
        "Plain-110 stays above 60 % error",
        "15 min 0 s in 15 runs",
        "diverged at step 100",
    ):
        assert part in text, part
    assert str(root) not in paths[-1].read_text()


def test_overfitting_is_told_from_degradation(tmp_path):
    overfits = {("A", 14): (0.4, 0.45), ("A", 56): (0.3, 0.50)}
    runs = write_grid(tmp_path, overfits | {("none", 14): (0.4, 0.45), ("none", 56): (0.5, 0.60)})
    caption = degradation.drawing(degradation.arms(runs)).caption
    assert "test error of plain" not in caption
    assert caption.endswith(
        "From depth 14 to 56 the test error of residual (A) rises, but its training error falls: the deeper network "
        "overfits the 2,560 training images, which is not degradation."
    )


# --- no jax


def test_reports_need_no_jax_and_are_the_same_bytes_again(drawn, tmp_path):
    paths, _, root = drawn
    # In another process, with another hash seed: metadata, font subsets and order must not depend on either.
    code = (
        "import sys; from pathlib import Path; from normres import files; "
        "from normres.runs.results import read_runs; "
        "names = [path.stem for path in Path('experiments').glob('[a-z]*.py')]; "
        "modules = {name: files.load(name, 'experiments') for name in names}; "
        "modules['degradation'].COMPARISON.draw(read_runs(Path(sys.argv[1])), Path(sys.argv[2])); "
        "from normres.configs import base; base.get_config(); print(len(modules), *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, root / "runs", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": "", "HOME": str(tmp_path)},
    )
    for path in paths:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    count, *modules = done.stdout.split()
    assert int(count) == 7
    assert not {"jax", "flax", "normres.training", "normres.models", "matplotlib.pyplot"} & set(modules)
