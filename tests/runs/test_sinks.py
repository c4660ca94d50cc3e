"""Sinks: what TensorBoard reads is what was written, and no sink can stop or slow a run, whatever it does."""

import struct
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from normres.configs import base
from normres.errors import UserError
from normres.runs import sinks
from normres.runs.sinks import Sink, open_sinks

CONFIG = base.get_config("demo")


def line(step, **values):
    return {"step": step, "split": "train", **values}


@pytest.fixture
def said():
    return []


@pytest.fixture
def sink(monkeypatch):
    """Returns a function that puts a context of a writer into the table, as the sink `name`."""
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 0.5)
    return lambda name, context: monkeypatch.setitem(sinks.SINKS, name, Sink("json", contextmanager(context)))


def events(folder):
    """Yields the events of a folder's files, by the framing of TFRecords: length, 4 bytes, content, 4 bytes."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
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


def test_tensorboard_has_every_number(tmp_path, said):
    pytest.importorskip("tensorboardX")
    with open_sinks(["tensorboard"], tmp_path, CONFIG, said.append) as write:
        write(line(10, loss=0.5, error=None))
        write({"step": 10, "split": "corrupted", "contrast": [0.25, 0.75]})
    expected = {("train/loss", 10): 0.5, ("corrupted/contrast/1", 10): 0.25, ("corrupted/contrast/2", 10): 0.75}
    assert points(tmp_path / "tensorboard") == expected
    assert not said


def test_a_resumed_run_purges_what_lies_after_its_step(tmp_path, said):
    pytest.importorskip("tensorboardX")
    for first, steps in ((0, (50, 100, 150)), (100, (150, 200))):
        with open_sinks(["tensorboard"], tmp_path, CONFIG, said.append, first) as write:
            for step in steps:
                write(line(step, loss=float(step + first)))
    restarts = [event.step for event in events(tmp_path / "tensorboard") if event.HasField("session_log")]
    # TensorBoard drops what it has read of this step and later ones; the line of step 100 stays.
    assert restarts == [101]
    assert points(tmp_path / "tensorboard")["train/loss", 150] == 250


def test_wandb_writes_an_offline_run(tmp_path, said, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setattr(sinks, "CLOSING_SECONDS", 30.0)  # it starts a process of its own
    with open_sinks(["wandb"], tmp_path, CONFIG, said.append) as write:
        write(line(10, loss=0.5))
    assert not said
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"train/loss" in file.read_bytes()


@pytest.mark.parametrize("fault", [RuntimeError("a\nreason"), KeyboardInterrupt("a reason")])
@pytest.mark.parametrize("when", ["open", "write", "close"])
def test_a_sink_that_raises_is_switched_off_and_the_others_go_on(sink, said, tmp_path, fault, when):
    got, failed = [], threading.Event()

    def fail(point):
        if point == when:
            failed.set()
            raise fault

    def bad(place):
        fail("open")
        yield lambda line: fail("write")
        fail("close")

    def good(place):
        yield got.append

    sink("bad", bad)
    sink("good", good)
    with open_sinks(["bad", "good"], tmp_path, CONFIG, said.append) as write:
        for step in range(3):
            write(line(step))
            time.sleep(0.05)
        assert failed.is_set() == bool(said) == (when != "close")
    assert [at["step"] for at in got] == [0, 1, 2]
    assert said == [
        f"train.sinks: bad failed and is off ({type(fault).__name__}: a reason); metrics.jsonl has every line"
    ]


def test_a_sink_that_hangs_costs_a_run_no_time_and_a_slow_one_gets_all_that_fits(sink, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "QUEUED", 50)
    end, got = threading.Event(), []

    def hanging(place):
        end.wait()
        yield lambda line: None

    def slow(place):
        yield lambda line: (time.sleep(0.002), got.append(line["step"]))

    sink("hanging", hanging)
    sink("slow", slow)
    started = time.perf_counter()
    with open_sinks(["hanging", "slow"], tmp_path, CONFIG, said.append) as write:
        for step in range(100):
            write(line(step))
            time.sleep(0.003)
        assert time.perf_counter() - started < 1.5
    assert time.perf_counter() - started < 2.5
    end.set()
    assert got == [*range(100)]  # though the other one used up the time for closing
    assert said == [
        "train.sinks: hanging does not keep up and loses lines from step 50 on; metrics.jsonl has every line",
        "train.sinks: hanging did not finish within 0.5 s and may lack its last lines; metrics.jsonl has every line",
    ]


def test_who_listens_may_fail_too(tmp_path):
    """Of a sink that fails, as a file is where its folder would be."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").write_text("in the way")
    said = []

    def say(text):
        said.append(text)
        raise OSError("no terminal")

    with open_sinks(["tensorboard"], tmp_path, CONFIG, say) as write:
        write(line(1))
    (told,) = said
    assert told.startswith("train.sinks: tensorboard failed and is off (FileExistsError: ")


def test_mistakes_are_said_before_the_run_starts(tmp_path, said, monkeypatch):
    with (
        pytest.raises(UserError, match="'tensorbord' does not exist; did you mean 'tensorboard'"),
        open_sinks(["tensorbord"], tmp_path, CONFIG, said.append),
    ):
        pass
    monkeypatch.setitem(sinks.SINKS, "absent", sinks.SINKS["wandb"]._replace(module="normres_absent"))
    with pytest.raises(UserError, match=r"needs normres_absent: pip install 'normres\[absent\]'"):
        sinks.check(["absent"])
    # What wandb leaves in the folder where it ran looks like a package to Python.
    (tmp_path / "normres_absent").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(UserError, match="needs normres_absent"):
        sinks.check(["absent"])
