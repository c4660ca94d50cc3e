"""One run over several processes: real ones over loopback compute what one process with all their devices does.

`normres train` as two processes: a run of one goes on with two, is stopped by one signal, and ends with one.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import DATASET, after_steps, config, leaves
from test_survival import stop_at

from normres import cli
from normres.errors import UserError
from normres.runs import checkpoint, hosts
from normres.runs.results import read_metrics, read_record
from normres.training.programs import Programs


def trained(devices=None):
    """Returns the losses of three steps, what an evaluation says, and sums of the weights."""
    fields = {
        "train__batch_size": 8,
        "train__eval_batch_size": 8,
        "train__steps_per_program": 1 if devices else 2,  # of which several processes do one
        "train__parallel": "pmap",  # `alone` has jit
    }
    programs = Programs(config(**fields), DATASET, "float32", devices)
    programs.compile()
    state, losses = after_steps(programs)
    sums = [np.abs(leaf).sum() for leaf in leaves((state.params, state.batch_stats))]
    seen = {"losses": losses[:, 0].tolist(), "test": programs.evaluate(state, "test"), "sums": sums}
    return seen | {"steps_per_program": programs.steps_per_program}


@pytest.mark.parametrize(
    ("tasks", "gpus", "method"),
    [("1(x2)", "0,1,2,3", "deactivate"), ("4(x2)", "0", "deactivate"), ("4(x2)", "0,1,2,3", None)],
)
def test_a_task_of_slurm_has_all_gpus_that_are_its_own(tasks, gpus, method, monkeypatch):
    asked = {}
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(hosts, "barrier", lambda: None)
    monkeypatch.setattr(hosts, "_several", False)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    hosts.join("localhost:1", 2, 0)
    assert asked["cluster_detection_method"] == method


def free_address():
    with socket.create_server(("", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def start(*whats):
    """Runs one_process.py for each, and returns (statuses, outputs, error lines)."""
    address, folder = free_address(), Path(__file__).parent
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command, pipe = [sys.executable, folder / "one_process.py", address, str(len(whats))], subprocess.PIPE
    processes = [
        subprocess.Popen([*command, str(number), what], env=environment, stdout=pipe, stderr=pipe, text=True)
        for number, what in enumerate(whats)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def test_two_processes_compute_what_one_does():
    statuses, outputs, errors = start("train", "train")
    assert statuses == [0, 0], errors
    zero, one = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert (zero.pop("writer"), one.pop("writer")) == (True, False)
    assert zero == one  # every process knows the same numbers
    assert zero["told"] == [False] * 6 + [True] * 4  # process 1 was told in its call 4
    assert zero["from_writer"] == {"ü": 0}
    expected = trained(jax.devices()[:4])
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5), zero["trained"], expected)


def test_a_process_that_fails_alone_ends_the_others():
    statuses, _, errors = start("fail", "wait")
    assert statuses[0] == 2, errors
    assert statuses[1] not in (0, 2)
    assert "another task died" in errors[1]  # so jax says it


@pytest.mark.parametrize(
    ("status", "agreed", "ended"), [(0, False, []), (75, False, [75]), (75, True, []), (2, False, [2]), (2, True, [2])]
)
def test_only_what_all_have_agreed_to_ends_in_order(status, agreed, ended, monkeypatch):
    at_once = []
    monkeypatch.setattr(os, "_exit", at_once.append)
    monkeypatch.setattr(hosts, "_several", True)
    monkeypatch.setattr(hosts, "_agreed", agreed)
    assert hosts.leave(status) == status
    assert at_once == ended


NO = (None, None, None)


@pytest.mark.parametrize(
    ("environment", "arguments", "place"),
    [
        ({}, NO, None),
        # The script of an sbatch and the one task of an array have tasks and numbers too.
        ({"JOB_ID": "7", "NTASKS": "4", "PROCID": "0"}, NO, None),
        ({"STEP_NUM_TASKS": "1", "PROCID": "0", "STEP_NODELIST": "a"}, NO, None),
        ({"JOB_ID": "7", "STEP_ID": "1", "STEP_NUM_TASKS": "4", "PROCID": "3"}, NO, ("node-012:61508", 4, 3)),
        ({"STEP_NUM_TASKS": "4", "PROCID": "3"}, ("[::1]:7000", 2, 1), ("[::1]:7000", 2, 1)),
        ({}, ("n:7000", 1, 0), None),
    ],
)
def test_a_process_knows_its_place(monkeypatch, environment, arguments, place):
    for name in ("JOB_ID", "STEP_ID", "STEP_NUM_TASKS", "NTASKS", "PROCID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in {"STEP_NODELIST": "node-[012-015,7],other", **environment}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert hosts.place(*arguments) == place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n:7000", None, 1), "--processes missing: a run of several processes needs --coordinator, --processes"),
        ((None, 2, None), "--coordinator and --process missing"),
        (("n", 2, 0), "--coordinator=n: write HOST:PORT, such as node1:7000"),
        (("n:70000", 2, 0), "--coordinator=n:70000: write HOST:PORT"),
        (("n:7000", 2, 2), "--process=2 must be from 0 to 1, below --processes=2"),
    ],
)
def test_what_cannot_be_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        hosts.place(*arguments)


# --- normres train

FIELDS = {
    "data.source": "synthetic",
    "data.image_size": 8,
    "data.per_class": 4,
    "model.module": f"{Path(__file__).with_name('small_network.py')}:Net",  # `trained` computes with a ResNet
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
