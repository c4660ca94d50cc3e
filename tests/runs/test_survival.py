"""Whatever interrupts a run or damages its files, it ends as if nothing had happened, bit for bit."""

import contextlib
import io
import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from normres import signals
from normres.configs import base
from normres.errors import InterruptedRun, UserError
from normres.runs import checkpoint, claims, durable, finished, journal, local, results
from normres.runs import config as configs

FIELDS = {
    # As it compiles fast; test_cli.py and test_loop.py stop and resume a ResNet.
    "model.module": f"{Path(__file__).with_name('small_network.py')}:Net",
    "seed": 1,  # of which the best weights are not the last
    "train.steps": 6,
    "train.batch_size": 16,
    "train.eval_batch_size": 320,
    "train.log_every": 2,
    "train.eval_every": 3,
    "train.checkpoint_every": 2,
    "train.steps_per_program": 1,
    "train.keep": ("last", "best"),
    "data.fraction": 0.02,
    "data.preprocess": "channel_mean",  # a mean image would be most of each checkpoint
    "optim.warmup_steps": 2,
    "train.dtype": "float32",
}
NAME = "run"
ALL = bool(os.environ.get("NORMRES_TEST_ALL"))  # every moment, not some of them
pytestmark = pytest.mark.usefixtures("quickly")


def config(**changes):
    return configs.apply(base.get_config("demo"), FIELDS | {name.replace("__", "."): v for name, v in changes.items()})


def train(folder, **changes):
    """Trains, and returns what it said."""
    console = Console(file=io.StringIO(), width=500)
    local.run(config(**changes), folder / NAME, console, "run")
    return console.file.getvalue()


@pytest.fixture(scope="module")
def whole(quickly, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def stopped(quickly, tmp_path_factory):
    """A run that was stopped after five of its six steps, with checkpoints at 4 and 5."""
    folder = tmp_path_factory.mktemp("stopped")
    with stop_at(8), pytest.raises(InterruptedRun, match=r"stopped by .* at step 5 of 6"):
        train(folder)
    return folder


@contextlib.contextmanager
def stop_at(question):
    """Answers the run's n-th question whether to stop with yes."""
    asked = itertools.count(1)
    flag = SimpleNamespace(is_set=lambda: next(asked) >= question)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "polled", lambda: contextlib.nullcontext(flag))
        yield


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def story(folder):
    """Everything that a run leaves, but for its attempts, their seconds and their host."""
    run = results.read_run(folder / NAME)
    record = {name: value for name, value in run.record.items() if name not in ("attempts", "seconds")}
    arrays = {
        f"{path.name}/{name}": array.tobytes()
        for path in (folder / NAME / "checkpoints").iterdir()
        for name, array in checkpoint.read(path).arrays().items()
    }
    return record, run.config, run.metrics, arrays


def assert_same(folder, whole):
    assert story(folder) == story(whole)
    names = {path.name for path in (folder / NAME).iterdir()}
    assert names == {"config.json", "record.json", "metrics.jsonl", "checkpoints", "README.md"}


def test_what_a_run_leaves(whole):
    record, _, metrics, arrays = story(whole)
    assert record["status"] == "finished"
    lines = [f"{line['split']} {line['step']}" for line in metrics]
    assert lines == ["train 2", "train 3", "test 3", "train 4", "train 6", "test 6"]
    errors = {line["step"]: line["error"] for line in metrics if line["split"] == "test"}
    assert (record["best_test_error"], record["best_test_step"]) == min((errors[step], step) for step in errors)
    assert record["best_test_step"] == 3, "else the tests of best weights would show nothing"
    assert {name.partition("/")[0] for name in arrays} == {f"step_{step:09d}" for step in (3, 6)}
    (attempt,) = results.read_run(whole / NAME).record["attempts"]
    assert (attempt["from_step"], attempt["step"], attempt["end"]) == (0, 6, "finished")
    assert attempt["started"] <= attempt["ended"]
    assert {"commit", "diff", "versions", "host", "device", "compile_seconds"} <= attempt.keys()


@pytest.mark.parametrize("question", range(1, 13) if ALL else (1, 3, 5, 6, 8, 9, 11, 12))
def test_stopped_wherever_it_asks(question, tmp_path, whole):
    with stop_at(question), contextlib.suppress(InterruptedRun):
        train(tmp_path)
    train(tmp_path)
    assert_same(tmp_path, whole)


class Killed(BaseException):
    """Nothing of the run's code catches it."""


def killing(patch, moment):
    """Kills the process before the given one of all its changes on the disk, or just after it; returns the counter."""
    passed = itertools.count(1)

    def counted(owner, name):
        original = getattr(owner, name)

        def changed(*arguments, **named):
            if next(passed) == moment:
                raise Killed
            result = original(*arguments, **named)
            if next(passed) == moment:
                raise Killed
            return result

        patch.setattr(owner, name, changed)

    for owner, name in [
        (durable, "write"),
        (Path, "replace"),
        (checkpoint.ocp, "save"),
        (checkpoint, "keep_only"),
        (checkpoint.shutil, "rmtree"),
        (journal.Journal, "line"),
    ]:
        counted(owner, name)
    return passed


def test_killed_between_any_two_changes_on_the_disk(tmp_path, whole):
    with pytest.MonkeyPatch.context() as patch:
        passed = killing(patch, -1)
        train(tmp_path / "count")
    moments = next(passed)
    assert moments > 60
    for moment in range(1, moments, 1 if ALL else 7):
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            killing(patch, moment)
            train(folder)
            pytest.fail(f"moment {moment} did not come")
        train(folder)
        assert_same(folder, whole)
        shutil.rmtree(folder)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path):
    for file in path.rglob(checkpoint.MANIFEST) if path.is_dir() else [path]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x81
    path.write_bytes(content)


def lie(path):
    """Another digit, so that it can still be read."""
    text = path.read_text()
    place = text.rindex("1")
    path.write_text(text[:place] + "2" + text[place + 1 :])


@pytest.mark.parametrize(
    ("of", "files", "damage", "said"),
    [
        ("stopped", "record.json", remove, "resumed at step 5"),
        ("stopped", "record.json", lie, "record.json is damaged"),
        ("stopped", "config.json", remove, "config.json was lost or damaged"),
        ("stopped", "config.json", lie, "resumed at step 5"),  # of what only says how
        ("stopped", "metrics.jsonl", remove, "metrics.jsonl was lost or damaged"),
        ("stopped", "metrics.jsonl", lie, "metrics.jsonl was lost or damaged"),
        ("stopped", "metrics.jsonl", flip, "metrics.jsonl was lost or damaged"),
        ("stopped", "*.json*", cut, "record.json is damaged"),  # everything but the checkpoints
        ("stopped", "checkpoints", remove, "the run starts anew"),
        ("stopped", "checkpoints/*5", cut, "damaged manifest; passed over"),
        ("whole", "record.json", remove, "resumed at step 6"),
        ("whole", "record.json", lie, "record.json is damaged"),
        ("whole", "record.json", flip, "record.json is damaged"),
        ("whole", "config.json", remove, "config.json was lost or damaged"),
        ("whole", "config.json", lie, "config.json is damaged"),
        ("whole", "config.json", cut, "config.json was lost or damaged"),
        ("whole", "metrics.jsonl", remove, "metrics.jsonl is missing"),
        ("whole", "metrics.jsonl", lie, "metrics.jsonl is damaged"),
        ("whole", "checkpoints", cut, "damaged manifest; passed over"),
        ("whole", "checkpoints/*3", remove, "step_000000003 is lost or damaged; the run goes back"),  # the best weights
    ],
)
def test_a_lost_or_damaged_file_is_named_and_made_good(of, files, damage, said, tmp_path, whole, stopped):
    folder = copy_of({"stopped": stopped, "whole": whole}[of], tmp_path)
    for path in [*(folder / NAME).glob(files)]:
        damage(path)
    text = train(folder)
    assert_same(folder, whole)
    assert said in text, text


@pytest.mark.parametrize(("which", "lost", "after"), [("best", 3, (6, "train")), ("last", 6, (6, "test"))])
def test_weights_that_are_lost_while_it_trains_are_noticed(which, lost, after, tmp_path, monkeypatch, whole):
    line = journal.Journal.line

    def lose(self, step, split, values):
        if (step, split) == after:
            remove(self.path / "checkpoints" / f"step_{lost:09d}")
        line(self, step, split, values)

    monkeypatch.setattr(journal.Journal, "line", lose)
    with pytest.raises(OSError, match=f"{which} weights were lost"):
        train(tmp_path)
    monkeypatch.setattr(journal.Journal, "line", line)
    train(tmp_path)
    assert_same(tmp_path, whole)


def test_a_visit_with_another_config_of_what_is_kept_writes_and_removes_nothing(tmp_path, whole, monkeypatch):
    folder = copy_of(whole, tmp_path)
    before = story(folder)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claims.os, "open", refuse)
    train(folder, train__keep=("last",), train__keep_every=4)
    assert story(folder) == before


def test_what_cannot_be_read_at_the_moment_is_not_removed(tmp_path, stopped, monkeypatch):
    checkpoints = copy_of(stopped, tmp_path) / NAME / "checkpoints"

    def fails(path, sha256=durable.sha256):
        if "step_000000005" in str(path):
            raise OSError(5, "Input/output error")
        return sha256(path)

    monkeypatch.setattr(durable, "sha256", fails)
    checkpoint.keep_only(checkpoints, checkpoint.choose(checkpoints, lambda step: False))
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step_{step:09d}" for step in (3, 4, 5)]


def test_weights_that_nobody_wants_kept_may_be_removed(tmp_path, whole):
    folder = copy_of(whole, tmp_path)
    remove(folder / NAME / "checkpoints")
    before = (folder / NAME / "record.json").read_bytes()
    train(folder, train__keep="none")
    assert (folder / NAME / "record.json").read_bytes() == before


def test_other_data_or_other_code_is_said(tmp_path, stopped):
    folder = copy_of(stopped, tmp_path)
    record = results.read_record(folder / NAME)
    attempt = record["attempts"][-1]
    attempt |= {"commit": "0" * 40, "module": "0" * 16, "versions": attempt["versions"] | {"jax": "0.1"}}
    results.write_record(folder / NAME, record)
    text = train(folder)
    assert "goes on with other code: commit" in text
    assert "after 0.1" in text
    assert "module" in text  # the user's file is another
    first, second = results.read_run(folder / NAME).record["attempts"]
    assert (first["commit"], first["end"], first["step"]) == ("0" * 40, "interrupted", 5)
    assert (second["from_step"], second["step"], second["end"]) == (5, 6, "finished")


def test_resuming_with_other_data_is_refused(tmp_path, stopped):
    folder = copy_of(stopped, tmp_path)
    (folder / NAME / "record.json").unlink()  # the checkpoint has the checksum too
    other = local.load_data(config(data__split_seed=1))
    with pytest.raises(UserError, match="began with other data"):
        local.run(config(), folder / NAME, Console(quiet=True), "run", lambda: other)


def test_the_last_weights_are_not_taken_from_another_step(tmp_path, whole):
    path = copy_of(whole, tmp_path) / NAME
    remove(path / "checkpoints" / "step_000000006")
    with pytest.raises(UserError, match=r"the last weights are not here: .* the newest weights are those of step 3"):
        finished.open_run(path)
    assert finished.open_run(path, "best").step == 3


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(tmp_path, whole, monkeypatch):
    """Its claim is another's when it wakes, in the middle of its training."""
    line = journal.Journal.line

    def taken_over(self, step, split, values):
        if step == 4:
            (self.path / claims.NAME).unlink()
            monkeypatch.setattr(journal.Journal, "line", line)
            train(tmp_path)
        line(self, step, split, values)

    monkeypatch.setattr(journal.Journal, "line", taken_over)
    with pytest.raises(claims.LostClaim, match="its claim was removed while this process stood still"):
        train(tmp_path)
    assert_same(tmp_path, whole)


def test_an_older_record_is_read_and_its_run_goes_on(tmp_path, stopped, whole):
    folder = copy_of(stopped, tmp_path)
    path = folder / NAME / "record.json"
    record = results.read_record(folder / NAME)
    (attempt,) = record.pop("attempts")
    del record["best_test_step"]
    old = {name: attempt[name] for name in ("commit", "versions", "host", "device", "started")}
    durable.write_json(path, {**record, **old, "uncommitted_changes": True, "restarts": 0})
    run = results.read_run(folder / NAME)
    assert run.attempt["versions"] == attempt["versions"]
    assert run.attempt["diff"] == "unknown"
    train(folder)
    assert_same(folder, whole)
    assert [a["end"] for a in results.read_run(folder / NAME).record["attempts"]] == ["interrupted", "finished"]
