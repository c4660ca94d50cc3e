"""`normres train` as two processes: stopped by one signal to one of them, it goes on with any number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_hosts import free_address

from normres.runs import checkpoint

FIELDS = {
    "data.source": "synthetic",
    "data.image_size": 8,
    "data.per_class": 4,
    "model.module": f"{Path(__file__).with_name('small_network.py')}:Net",  # test_hosts.py computes with a ResNet
    "train.batch_size": 8,
    "train.eval_batch_size": 64,
    "train.steps": 40,
    "train.log_every": 5,
    "train.eval_every": 20,
    "train.checkpoint_every": 1000,
    "train.steps_per_program": 1,
    "train.dtype": "float32",
    "train.keep": "last,best",
    "optim.warmup_steps": 2,
}


def begin(workdir, processes=1):
    address = free_address()
    command = [sys.executable, "-m", "normres", "train", "--config=base:demo", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={2 // processes}")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    places = [[f"--coordinator={address}", f"--processes={processes}", f"--process={i}"] for i in range(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen([*command, *place], env=environment, **pipes) for place in places]


def ends(started):
    try:
        outputs = [process.communicate(timeout=150)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], outputs


def lines(workdir):
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_one_is_told_to_stop_and_all_go_on(tmp_path):
    alone, several = tmp_path / "alone", tmp_path / "several"
    assert ends(begin(alone))[0] == [0]
    started = begin(several, 2)
    until = time.monotonic() + 120
    while not lines(several) and time.monotonic() < until:
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    statuses, outputs = ends(started)
    assert statuses == [75, 75], outputs
    assert "stopped by SIGTERM" in outputs[1]
    assert "stopped by another process" in outputs[0]
    saved, passed_over = checkpoint.newest(several / "checkpoints")
    assert not passed_over
    assert 0 < saved.step < 40
    # Each process has written a part.
    assert all([*saved.path.glob(f"state/ocdbt.process_{number}/d/*")] for number in (0, 1))
    for processes in (1, 2):
        started = begin(several, processes)
        if processes == 1:
            count = len(lines(several))
            while len(lines(several)) <= count and started[0].poll() is None:
                time.sleep(0.05)
            started[0].send_signal(signal.SIGTERM)
        statuses, outputs = ends(started)
        assert statuses == ([75] if processes == 1 else [0, 0]), outputs
        assert "resumed at step" in outputs[0]
    curve, expected = lines(several), lines(alone)
    assert [(line["step"], line["split"]) for line in curve] == [(line["step"], line["split"]) for line in expected]
    for ours, theirs in zip(curve, expected, strict=True):
        del ours["split"], theirs["split"]
        assert ours == pytest.approx(theirs, rel=1e-4)
    record = json.loads((several / "record.json").read_text())
    assert [attempt["end"] for attempt in record["attempts"]] == ["interrupted", "interrupted", "finished"]
    assert [attempt["device"]["count"] for attempt in record["attempts"]] == [2, 2, 2]
