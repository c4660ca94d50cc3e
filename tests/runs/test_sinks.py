"""Sinks: what TensorBoard reads is what was written, and no sink can stop or slow a run, whatever it does."""

import json
import struct
import sys
import time
from pathlib import Path

import pytest

from normres import cli
from normres.configs import base
from normres.errors import UserError
from normres.runs import sinks
from normres.runs.results import read_metrics
from normres.runs.sinks import open_sinks

CONFIG = base.get_config("demo")


@pytest.fixture
def lines(tmp_path):
    """A run's file of metric lines, as a function that appends one."""
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps({"step": 50, "split": "train", "loss": 9.0}) + "\n")  # of an earlier attempt

    def append(step, split="train", **values):
        with file.open("a") as opened:
            opened.write(json.dumps({"step": step, "split": split, **values}) + "\n")

    return append


@pytest.fixture
def said():
    return []


def events(folder):
    """Yields the events of a folder's files, by the framing of TFRecords: length, 4 bytes, content, 4 bytes."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            length = struct.unpack("<Q", content[:8])[0]
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def points(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_tensorboard_has_every_number_and_a_resumed_run_purges_what_lies_after_its_step(
    tmp_path, lines, said, monkeypatch
):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 30.0)
    with open_sinks(["tensorboard"], tmp_path, CONFIG, said.append):
        lines(100, loss=0.5, error=None)
        lines(150, "corrupted", contrast=[0.25, 0.75])
    expected = {("train/loss", 100): 0.5, ("corrupted/contrast/1", 150): 0.25, ("corrupted/contrast/2", 150): 0.75}
    assert points(tmp_path / "tensorboard") == expected
    with open_sinks(["tensorboard"], tmp_path, CONFIG, said.append, 100):
        lines(150, loss=0.25)
    restarts = [event.step for event in events(tmp_path / "tensorboard") if event.HasField("session_log")]
    # TensorBoard drops what it has read of this step and later ones; the line of step 100 stays.
    assert restarts == [101]
    assert points(tmp_path / "tensorboard")["train/loss", 150] == 0.25
    assert not said


def test_a_run_tells_its_sinks(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 30.0)
    small = {"train.steps": 4, "train.eval_every": 2, "optim.warmup_steps": 1, "train.sinks": "tensorboard"}
    small |= {"model.module": f"{Path(__file__).with_name('small_network.py')}:Net", "train.ops": "plain"}
    fields = [f"--config.{name}={value}" for name, value in small.items()]
    assert cli.main(["train", "--config=base:demo", f"--workdir={tmp_path / 'run'}", *fields]) == 0
    written = {step: value for (tag, step), value in points(tmp_path / "run/tensorboard").items() if tag == "test/loss"}
    losses = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "run") if line["split"] == "test"}
    assert written == pytest.approx(losses)
    assert [*written] == [2, 4]


def test_wandb_writes_an_offline_run(tmp_path, lines, said, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 30.0)
    with open_sinks(["wandb"], tmp_path, CONFIG, said.append):
        lines(10, loss=0.5)
    assert not said
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"train/loss" in file.read_bytes()


PROGRAM = f"""\
import json, os, pathlib, sys, time
sys.path.insert(0, {str(sinks.PROGRAM.parent)!r})
from sink_process import follow
name, run = sys.argv[1], json.loads(sys.argv[2])
if name.startswith("hanging"):
    time.sleep(60)
if name == "fails at once":
    raise RuntimeError("a reason")
path = pathlib.Path(run["path"])
with (path / name).open("w") as file:
    lines = (path / "metrics.jsonl").open("rb")
    lines.seek(run["offset"])
    for step, numbers in follow(lines):
        if name == "fails at a line":
            raise KeyboardInterrupt("a reason")
        print(step, len(numbers), file=file, flush=True)
if name == "is killed at the end":
    os.kill(os.getpid(), 9)
if name == "fails at the end":
    raise OSError("a reason")
"""


def test_if_sinks_fail_or_hang_the_others_have_every_line(tmp_path, lines, said, monkeypatch):
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 3.0)
    monkeypatch.setattr(sinks, "PROGRAM", tmp_path / "program.py")
    (tmp_path / "program.py").write_text(PROGRAM)
    names = ["good", "fails at once", "fails at a line", "fails at the end", "is killed at the end", "hanging"]
    names += ["hanging too"]
    with open_sinks(names, tmp_path, CONFIG, said.append):
        lines(0, loss=1.0)
        good, deadline = tmp_path / "good", time.monotonic() + 30
        while not (good.exists() and good.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert good.read_text() == "0 1\n"  # while the run goes on
        for step in range(1, 500):
            lines(step, values=[0.0] * 50)
        closing = time.monotonic()
    assert time.monotonic() - closing < 5.5  # not 3 s for each
    assert good.read_text().splitlines()[1:] == [f"{step} 50" for step in range(1, 500)]
    assert sorted(said) == [
        "train.sinks: fails at a line failed (KeyboardInterrupt: a reason); metrics.jsonl has every line",
        "train.sinks: fails at once failed (RuntimeError: a reason); metrics.jsonl has every line",
        "train.sinks: fails at the end failed (OSError: a reason); metrics.jsonl has every line",
        "train.sinks: hanging did not finish within 3 s and may lack its last lines; metrics.jsonl has every line",
        "train.sinks: hanging too did not finish within 3 s and may lack its last lines; metrics.jsonl has every line",
        "train.sinks: is killed at the end failed (the process ended); metrics.jsonl has every line",
    ]


def test_a_package_that_is_missing_is_said_before_the_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sinks.SINKS, "absent", "normres_absent")
    with pytest.raises(UserError, match=r"needs normres_absent: pip install 'normres\[absent\]'"):
        sinks.check(["absent"])
    # What wandb leaves in the folder where it ran looks like a package to Python.
    (tmp_path / "normres_absent").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(UserError, match="needs normres_absent"):
        sinks.check(["absent"])
