"""Runs as a table: what pandas reads back is what the run directories say."""

import json
import sys

import pytest
from synthetic import ATTEMPT, CONFIG, made, write_run

from normres import cli
from normres.errors import UserError
from normres.report import paper
from normres.report.arms import distinguishing_fields
from normres.report.collect import collect
from normres.runs.fields import digest
from normres.runs.results import keep, read_runs, seal_of

ATTEMPTS = [
    ATTEMPT | {"started": f"2026-11-2{day}T10:00:00+00:00", "commit": commit, "host": {"name": "alpha"}, "end": end}
    for day, commit, end in ((1, "aaa", "interrupted"), (2, "bbb", "finished"))
]


@pytest.fixture
def runs(tmp_path):
    """A finished run of two attempts, one that diverged, and one that has just begun, in a folder of its own."""
    write_run(
        tmp_path / "w",
        [0.25, 0.5],
        name="one",
        change={"optim.boundaries": [100, 200], "model.zero_last_scale": True},
        record={
            "attempts": ATTEMPTS,
            "best_test_step": 80,
            "warnings": ["a, warning", "another"],
            "corrupted": {"contrast": [0.5, 0.75]},
        },
    )
    write_run(
        tmp_path / "w", [0, 0], name="two", status="diverged", change={"model.depth": 8}, record={"parameters": None}
    )
    write_run(tmp_path / "w/deeper", [0, 0], name="three", status="running", change={"seed": 7}, metrics=[])
    return read_runs(tmp_path / "w")


def collected(runs, folder, name, **options):
    """Returns what pandas reads of the file of this name."""
    pandas = pytest.importorskip("pandas")
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    read = pandas.read_parquet if name.endswith("parquet") else pandas.read_csv
    return read(collect(runs, folder / name, folder / "w", **options)).set_index("run_id")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_row_is_a_run(runs, tmp_path, ending):
    table = collected(runs, tmp_path, f"out/runs.{ending}")
    assert sorted(table.index) == ["one", "three", "two"]
    one, two = table.loc["one"], table.loc["two"]
    assert (one["status"], two["status"], two["diverged_at_step"]) == ("finished", "diverged", 100)
    assert table.loc["three", "path"] == "deeper/run0"
    assert (one["config.model.depth"], two["config.model.depth"], table.loc["three", "config.seed"]) == (14, 8, 7)
    assert (one["final.test_error"], one["best_test_error"], one["seconds"]) == (0.5, 0.5, 60.0)
    assert table["final.test_error"].isna()["two"]
    assert (one["attempts"], one["started"], one["commit"]) == (2, ATTEMPTS[0]["started"], "bbb")
    assert (one["host.name"], one["device.kind"], one["versions.jax"]) == ("alpha", "cpu", "0.12.0")
    assert table.loc["three", "status"] == "interrupted"  # nobody trains it
    for name, value in {
        "config.optim.boundaries": [100, 200],
        "warnings": ["a, warning", "another"],
        "corrupted.contrast": [0.5, 0.75],
    }.items():
        assert (json.loads(one[name]) if ending == "csv" else list(one[name])) == value
    assert not list((tmp_path / "out").glob(".*"))


def test_types_do_not_depend_on_the_values(runs, tmp_path):
    table = collected(runs, tmp_path, "runs.parquet")
    types = {name: str(table[name].dtype).lower() for name in table}
    assert types["config.model.depth"] == types["parameters"] == types["diverged_at_step"] == "int64"
    assert types["step"] == types["best_test_step"] == types["attempts"] == types["device.count"] == "int64"
    assert types["config.model.zero_last_scale"] == "boolean"
    assert table.loc["one", "config.model.zero_last_scale"]
    assert table["config.model.zero_last_scale"].isna()["two"]
    assert types["config.optim.learning_rate"] == types["final.test_error"] == types["best_test_error"] == "float64"
    # Without a finished run, the final numbers are missing and still numbers; 1 is no integer where 0.1 may stand.
    two = next(run for run in runs if run.record["run_id"] == "two")
    two.config["optim"]["learning_rate"] = 1
    types = dict(collected([two], tmp_path, "one.parquet").dtypes.astype(str))
    assert types["config.optim.learning_rate"] == types["final.test_error"] == "float64"


def test_a_field_added_later_has_its_earlier_value(runs, tmp_path):
    one = next(run for run in runs if run.record["run_id"] == "one")
    one.config["optim"]["optimizer"] = "adamw"  # the others are older than the field
    table = collected(runs, tmp_path, "runs.csv")
    assert dict(table["config.optim.optimizer"]) == {"one": "adamw", "two": "sgd", "three": "sgd"}


def test_values_of_several_types_become_texts(runs, tmp_path):
    for run, value in zip(runs, ("a", 1, [2]), strict=True):
        run.config["model"]["mine"] = value
    table = collected(runs, tmp_path, "runs.parquet")
    assert set(table["config.model.mine"]) == {"a", "1", "[2]"}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_curves_have_a_row_per_line_and_the_fields_that_differ(runs, tmp_path, ending):
    table = collected(runs, tmp_path, f"curves.{ending}", curves=True)
    assert len(table) == sum(len(run.metrics) for run in runs) == 32 + 4 + 11
    assert {name for name in table if name.startswith("config.")} == {
        "config.seed",
        "config.model.depth",
        "config.model.zero_last_scale",
        "config.optim.boundaries",
    }
    one = table.loc["one"]
    at = one[(one["split"] == "train") & (one["step"] == 100)]
    assert at["error"].item() == pytest.approx(0.8)
    assert table.loc["two"]["loss"].isna().sum() == 1  # the step at which it diverged
    assert str(table["step"].dtype).lower() == "int64"


def test_mistakes_are_one_line(runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"runs.parq: the ending '.parq' is not written; did you mean '.parquet'"):
        collect(runs, tmp_path / "runs.parq", tmp_path)
    with pytest.raises(UserError, match="no metric lines yet"):
        collect([run for run in runs if not run.metrics], tmp_path / "runs.csv", tmp_path, curves=True)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'normres\[collect\]'") as error:
        collect(runs, tmp_path / "runs.csv", tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.csv"))


def test_kept_runs_from_two_places_stay_two_arms(tmp_path):
    for place, seed in (("old", 0), ("new", 1)):
        sha = f"{place}45678{'9' * 8}"
        change = {"model.module": f"/home/{place}/net.py:Net", "init_from": f"/home/{place}/seed=0"}
        record = {"init_from": {"path": change["init_from"], "sha256": sha}, "config_digest": "of these paths"}
        run = made((0.25, 0.5), seed=seed, name=place, change=change, record=record, attempt={"module": sha})
        keep([run], tmp_path)
    first, second = read_runs(tmp_path)
    names = ["init_from", "model.module"]
    assert [first.field(name) for name in names] == ["seed=0-new45678", "net.py:Net-new45678"]
    assert distinguishing_fields([first, second], each=True) == names


def test_what_was_edited_is_left_out_and_named(tmp_path, capsys):
    path = write_run(tmp_path / "w", (0.25, 0.5), record={"config_digest": digest(CONFIG)})
    (whole,) = read_runs(tmp_path)
    keep([whole], tmp_path / "kept")
    texts = {name: (path / name).read_text() for name in ("config.json", "record.json")}
    unsealed = json.dumps(whole.record | {"final": {"test_error": 0.1}})  # and no seal at all
    edited = json.dumps(whole.config | {"recipe": "paper"})
    for name, text, said in (("record.json", unsealed, "is damaged"), ("config.json", edited, "the config is not the")):
        (path / name).write_text(text)
        assert read_runs(path) == []
        assert f"{path / name}" in (err := capsys.readouterr().err)
        assert said in err
        (path / name).write_text(texts[name])
    for name, text in (("config.json", "null"), ("metrics.jsonl", '{"step": 10}\n'), ("metrics.jsonl", "5\n")):
        before = (path / name).read_text()
        (path / name).write_text(text)
        assert read_runs(path) == []
        assert f"{path / name}" in capsys.readouterr().err
        (path / name).write_text(before)
    (file,) = (tmp_path / "kept").iterdir()
    document = {"config": json.loads(edited), "record": whole.record, "metrics": []}
    file.write_text(json.dumps(document | {"seal": seal_of(document)}))
    assert len(read_runs(tmp_path)) == 1
    assert f"{file}: the config is not the one" in capsys.readouterr().err


def test_kept_runs_are_drawn_and_compared_like_the_runs_themselves(tmp_path, capsys, monkeypatch):
    """Without the host's name and paths of this machine, and damaged ones are left out by name."""
    for seed in range(2):
        write_run(
            tmp_path / "w",
            (0.25, 0.5),
            seed=seed,
            name=f"run-{seed}",
            change=dict.fromkeys(("data.path", "init_from"), "/home/me/cifar"),
            attempt={"host": {"name": "alpha"}},
            record={
                "init_from": {"path": "/home/me/first"},
                "warnings": ["config.model.module='/home/me/net.py:Net' does not read it"],
            },
            metrics=[{"step": step, "split": "train", "loss": 1 / 3, "error": 0.5} for step in range(1, 1001)],
        )
    write_run(tmp_path / "w", (0.25, 0.5), seed=2, name="going-on", status="running")
    kept = tmp_path / "kept"
    assert cli.main(["collect", str(tmp_path / "w"), f"--to={kept}"]) == 0
    assert "2 of 3 runs kept" in capsys.readouterr().out
    text = (kept / "run-0.run.json").read_text()
    assert "alpha" not in text
    assert "/home/me" not in text
    assert "config.model.module='net.py:Net' does not read it" in text
    first, second = read_runs(kept)
    assert (first.record["final"]["test_error"], second.record["seed"]) == (0.5, 1)
    assert [line["step"] for line in first.metrics] == list(range(10, 1001, 10))
    assert first.metrics[0]["loss"] == 0.333333
    monkeypatch.setattr(paper, "save", lambda chart, folder: [])
    assert cli.main(["report", str(kept), f"--output={tmp_path / 'drawn'}"]) == 0
    assert "run-1.run.json" in (tmp_path / "drawn/index.html").read_text()
    (tmp_path / "empty").mkdir()
    assert cli.main(["collect", str(tmp_path / "empty"), f"--to={kept}"]) == 2
    assert "no runs here" in capsys.readouterr().err
    write_run(tmp_path / "begun" / "one", (0.25, 0.5), status="running")
    assert cli.main(["collect", str(tmp_path / "begun"), f"--to={tmp_path / 'none'}"]) == 2
    assert "none of 1 runs is done" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert cli.main(["collect", str(tmp_path / "w"), f"--to={tmp_path / 'w/kept'}"]) == 2
    assert "would be read twice" in capsys.readouterr().err
    write_run(tmp_path / "w" / "again", (0.2, 0.4), name="run-0")
    assert cli.main(["collect", str(tmp_path / "w"), f"--to={tmp_path / 'other'}"]) == 2
    assert "two of the runs are called run-0" in capsys.readouterr().err
    (kept / "run-1.run.json").write_text(text.replace("0.25", "0.15"))
    assert [run.record["seed"] for run in read_runs(kept)] == [0]
    assert "run-1.run.json is damaged" in capsys.readouterr().err
