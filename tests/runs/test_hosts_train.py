"""`normres train` as two processes: a run of one goes on with two, is stopped by one signal, and ends with one."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from test_hosts import free_address
from test_survival import stop_at

from normres import cli
from normres.runs import checkpoint
from normres.runs.results import read_metrics, read_record

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


def arguments(workdir):
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    return ["train", "--config=base:demo", f"--workdir={workdir}", *fields]


def alone(workdir, question=math.inf):
    """Trains in this process, with as many devices as the others have together; is stopped at a question, if any."""
    devices = jax.devices()[:2]
    with stop_at(question), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices)
        return cli.main(arguments(workdir))


def test_one_is_told_to_stop_and_all_go_on(tmp_path):
    straight, several = tmp_path / "straight", tmp_path / "several"
    assert alone(straight) == 0
    assert alone(several, question=8) == 75
    address, count = free_address(), len(read_metrics(several))
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "normres", *arguments(several), f"--coordinator={address}", "--processes=2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen([*command, f"--process={i}"], env=environment, **pipes) for i in range(2)]
    try:
        until = time.monotonic() + 120
        while len(read_metrics(several)) <= count and time.monotonic() < until:
            time.sleep(0.02)
        started[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=150)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [75, 75], outputs
    assert "resumed at step 7" in outputs[0]
    assert "stopped by SIGTERM" in outputs[1]
    assert "stopped by another process" in outputs[0]
    saved, passed_over = checkpoint.newest(several / "checkpoints")
    assert not passed_over
    assert 7 < saved.step < 40
    # Each process has written a part.
    assert all([*saved.path.glob(f"state/ocdbt.process_{number}/d/*")] for number in (0, 1))
    assert alone(several) == 0
    curve, expected = read_metrics(several), read_metrics(straight)
    assert [(line["step"], line["split"]) for line in curve] == [(line["step"], line["split"]) for line in expected]
    for ours, theirs in zip(curve, expected, strict=True):
        del ours["split"], theirs["split"]
        assert ours == pytest.approx(theirs, rel=1e-4)
    attempts = read_record(several)["attempts"]
    assert [attempt["end"] for attempt in attempts] == ["interrupted", "interrupted", "finished"]
    assert [attempt["device"]["count"] for attempt in attempts] == [2, 2, 2]
