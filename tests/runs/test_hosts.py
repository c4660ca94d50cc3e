"""One run over several processes: real ones over loopback compute what one process with all their devices does."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from normres.configs import base
from normres.data import Dataset
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import hosts
from normres.runs.peers import Peers
from normres.training.programs import Programs


def dataset():
    random = np.random.default_rng(0)

    def split(size):
        return random.integers(0, 256, (size, 8, 8, 3), np.uint8), random.integers(0, 10, size).astype(np.int32)

    return Dataset("cifar10", "embedded", *split(40), *split(21), tuple("abcdefghij"))


def trained(data, parallel, devices=None):
    """Returns the losses of three steps, what evaluations say, and sums of the weights."""
    fields = {
        "model.depth": 8,
        "model.width": 4,
        "model.remat": "nothing",
        "train.batch_size": 8,
        "train.eval_batch_size": 8,
        "train.steps_per_program": 1 if devices else 2,  # of which several processes do one
        "train.parallel": parallel,
        "train.ops": "plain",
        "data.augmentation": "crop_flip",
    }
    programs = Programs(configs.apply(base.get_config("demo"), fields), data, "float32", devices)
    programs.compile()
    state, losses = programs.initial_state(), []
    for step in range(3):
        state, metrics = programs.train(state, step)
        losses.append(float(metrics["loss"][0]))
    changed = programs.evaluate(state, "test", change=lambda images, examples: 255 - images)
    sums = [float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves((state.params, state.batch_stats))]
    seen = {"losses": losses, "test": programs.evaluate(state, "test"), "changed": changed, "sums": sums}
    return seen | {"steps_per_program": programs.steps_per_program}


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
    for parallel in ("jit", "pmap"):
        expected = trained(dataset(), parallel, jax.devices()[:4])
        jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5), zero[parallel], expected)


@pytest.mark.parametrize(
    ("whats", "statuses"),
    [(("wait", "wait", "fail"), [2, 2, 2]), (("fail", "wait"), [2, 2]), (("wait", "die"), [75, -9])],
)
def test_a_process_that_ends_alone_ends_the_others_at_once(whats, statuses):
    computed, _, errors = start(*whats)
    assert computed == statuses, errors
    for what, error in zip(whats, errors, strict=True):
        assert what != "wait" or f"of {len(whats)} has ended; the same command" in error
    assert "Check failure" not in "".join(errors)  # what jax says of it


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


def test_who_waits_in_vain_is_told_in_one_line():
    address = free_address()
    with pytest.raises(UserError, match=rf"{address}: no coordinator within 1 s: Connection refused"):
        Peers(address, 3, 1, 1)
    with pytest.raises(UserError, match=rf"process 1, 2 of 3 did not come to {address} within 1 s"):
        Peers(address, 3, 0, 1)
    with (
        socket.create_server(("", int(address.rpartition(":")[2]))),
        pytest.raises(UserError, match="cannot be opened"),
    ):
        Peers(address, 3, 0, 1)


def test_a_process_that_does_not_belong_is_sent_away():
    address, others = free_address(), []

    def expect():
        with pytest.raises(UserError, match="process 1 of 2 did not come"):
            Peers(address, 2, 0, 3)

    waiting = threading.Thread(target=expect)
    waiting.start()
    for count, number in ((3, 1), (2, 2)):
        with pytest.raises(UserError, match=rf"--process={number} of {count}: process 0 expects 2 processes") as raised:
            Peers(address, count, number, 3)
        others.append(raised)
    waiting.join()
    assert len(others) == 2
