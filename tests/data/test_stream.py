"""Streamed data: the same numbers as in memory, every example once on any number of hosts, and resuming."""

import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from data_files import prepared_set
from rich.console import Console

from normres import signals
from normres.configs import base
from normres.data import batches, corruptions, lazy, load, preprocess, splits, stream
from normres.errors import InterruptedRun, UserError
from normres.report import facts
from normres.runs import config as configs
from normres.runs import local, results
from normres.training.programs import Programs

SIZE = 8
COUNT = {"train": 43, "test": 21}  # no multiple of any batch below


def colors(count, seed):
    """Images with their own number in the first pixel, and labels that their brightness shows."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label = int(random.integers(10))
        image = (20 * label + random.integers(0, 50, (SIZE, SIZE, 3))).astype(np.uint8)
        image[0, 0] = number
        made.append((image, label))
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    made = {split: colors(count, seed) for seed, (split, count) in enumerate(COUNT.items())}
    return prepared_set(tmp_path_factory.mktemp("data"), "colors", made, ids=True, shards=3)


@pytest.fixture(scope="module")
def streamed(directory):
    return load("colors", "tfds", str(directory), image_size=SIZE, stream="always")


@pytest.fixture(scope="module")
def whole(directory):
    return load("colors", "tfds", str(directory), image_size=SIZE)


NETWORK = """
import flax.linen as nn


class Net(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images_NHWC, train=False):
        return nn.Dense(self.classes)(images_NHWC.reshape(len(images_NHWC), -1))
"""


def config(directory="d", **changes):
    fields = {
        "data.source": "tfds",
        "data.name": "colors",
        "data.path": str(directory),
        "data.image_size": SIZE,
        "train.ops": "plain",
        "train.steps": 4,
        "train.batch_size": 16,
        "train.eval_batch_size": 16,
        "train.log_every": 1,
        "train.eval_every": 4,
        "train.checkpoint_every": 4,
        "optim.warmup_steps": 2,
    }
    return configs.apply(base.get_config("demo"), fields | {k.replace("__", "."): v for k, v in changes.items()})


# ---- the images


def test_images_on_disk_are_the_images_in_memory(streamed, whole, monkeypatch):
    monkeypatch.setattr(lazy, "AT_ONCE", 8)  # so that sums are of several chunks
    assert isinstance(streamed.train_images, lazy.LazyImages)
    assert streamed.train_images.shape == whole.train_images.shape == (43, SIZE, SIZE, 3)
    np.testing.assert_array_equal(whole.train_images[:, 0, 0, 0], np.arange(43))  # the official order
    for wanted in (slice(5, 9), np.array([40, 3, 3, 17]), np.array([[1, 2], [2, 1]]), 7):
        np.testing.assert_array_equal(streamed.train_images[wanted], whole.train_images[wanted])
    np.testing.assert_array_equal(streamed.train_labels, whole.train_labels)
    assert streamed.summary() == whole.summary() | {"streamed": True}
    parts = list(lazy.chunks(streamed.train_images))
    assert [len(images) for images in parts] == [8, 7, 7, 7, 7, 7]  # 43 in six, none more than eight
    np.testing.assert_array_equal(np.concatenate(parts), whole.train_images)
    for kind in preprocess.KINDS:
        ours, theirs = (preprocess.measure(data.train_images, kind) for data in (streamed, whole))
        jax.tree.map(np.testing.assert_array_equal, ours.arrays(), theirs.arrays())


def test_splits_take_without_decoding(streamed, whole, monkeypatch):
    changes = {"validation": 9, "evaluate_on": "validation", "fraction": 0.5, "label_noise": 0.3}
    fields = {**base.get_config().data, **changes}
    with monkeypatch.context() as patch:
        patch.setattr(lazy.LazyImages, "__getitem__", lambda *_: pytest.fail("an image was decoded"))
        ours = splits.apply(streamed, fields)
    assert ours.why_streamed == "data.stream=always"
    assert ours.summary() == splits.apply(whole, fields).summary() | {"streamed": True}


def test_a_record_that_cannot_be_read_is_one_line(streamed, directory):
    def broken(record):
        raise OSError("cannot identify image file")

    images = replace(streamed.train_images, decode=broken)
    with pytest.raises(UserError) as raised:
        list(lazy.read_ahead(images, lambda number: np.arange(4), 0, 2))
    assert str(raised.value) == f"{directory}/colors/1.2.0: an image cannot be read: cannot identify image file"


def test_what_does_not_fit_is_streamed_and_said(directory, monkeypatch, capsys):
    assert 2**20 < lazy.device_memory() < 2**50
    assert local.load_data(config(directory)).why_streamed == ""
    # A quarter of 4,000 bytes is 1,000.
    monkeypatch.setattr(lazy, "device_memory", lambda: 4000)
    assert (lazy.too_large(1000), lazy.too_large(1001) != "") == ("", True)
    monkeypatch.setattr(lazy, "device_memory", lambda: 80 * 10**9)
    assert lazy.too_large(30 * 10**9) == "the images take 30.0 GB, more than 25% of a device's 80.0 GB"
    monkeypatch.setattr(lazy, "device_memory", lambda: 64 * SIZE * SIZE * 3)
    assert local.load_data(config(directory)).why_streamed
    assert "streaming images from disk: the images take 0.0 GB, more than 25%" in capsys.readouterr().out
    assert local.load_data(config(directory, data__stream="never")).why_streamed == ""


# ---- hosts


def test_each_row_of_a_batch_is_held_by_one_shard():
    # 12 rows on 6 devices, two each; a host with the devices 1, 2 and 4.
    assert stream.rows(12, 6, [1, 4, 2]).tolist() == [2, 3, 4, 5, 8, 9]
    for batch_size, shards in ((8, 8), (16, 2)):
        held = [stream.rows(batch_size, shards, [shard]) for shard in range(shards)]
        assert np.concatenate(held).tolist() == list(range(batch_size))


def wanted(step):
    return batches.train_indices(0, step, 16, COUNT["train"])


def test_two_hosts_read_disjoint_shards_of_each_batch(directory, whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(Path(__file__).with_name("one_host.py")), address, "2"]
    hosts = [
        subprocess.Popen([*command, str(n), str(directory)], stdout=subprocess.PIPE, env=environment, text=True)
        for n in range(2)
    ]
    try:
        first, second = (json.loads(host.communicate(timeout=120)[0].splitlines()[-1]) for host in hosts)
    finally:
        for host in hosts:
            host.kill()
    # Each reads its half of each batch of 16, as train_indices orders it, and nothing else; together they hold it.
    halves = [wanted(step).reshape(2, 8).tolist() for step in range(2)]
    assert first["read"] == sorted(half for half, _ in halves)
    assert second["read"] == sorted(half for _, half in halves)
    assert [first["held"], second["held"]] == [[[half[host]] for half in halves] for host in range(2)]
    sums = [[int(whole.train_labels[wanted(step)].sum()), int(wanted(step).sum())] for step in range(2)]
    assert first["sums"] == second["sums"] == sums


# ---- training


@pytest.mark.parametrize(("devices", "parallel"), [(1, "jit"), (2, "pmap")])
def test_a_streamed_batch_is_the_batch_in_memory(streamed, whole, devices, parallel):
    def noise(images, examples):
        return corruptions.corrupt(images, examples, "gaussian_noise", np.int32(5), np.uint32(0))

    fields = {"data__cutmix": 1.0, "train__steps_per_program": 1, "train__parallel": parallel}
    ours, theirs = (Programs(config(**fields), data, "float32", jax.devices()[:devices]) for data in (streamed, whole))
    for step in (0, 1, 2, 1):  # 48 examples, into the second epoch; and back
        batch, indices = ours.stream.train(step), theirs.examples(step)
        assert len(batch["images"].sharding.device_set) == devices
        looked_up = batches.look_up(theirs.data["train"], indices)
        jax.tree.map(np.testing.assert_array_equal, (batch["images"], batch["labels"]), looked_up)
    examples = [indices for indices, _ in batches.eval_batches(COUNT["test"], 16)]
    for change in (None, noise):
        images = whole.test_images if change is None else noise(whole.test_images, np.arange(COUNT["test"]))
        read = [batch["images"] for batch in ours.stream.evaluation("test", examples, change)]
        jax.tree.map(np.testing.assert_array_equal, read, [np.asarray(images)[indices] for indices in examples])


def test_a_stopped_streamed_run_ends_as_one_in_memory(directory, tmp_path, monkeypatch):
    console, never, device = Console(quiet=True), threading.Event(), jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: device)
    (tmp_path / "net.py").write_text(NETWORK)
    fields = {
        "model__module": f"{tmp_path / 'net.py'}:Net",  # compiles in no time
        "data__cutmix": 1.0,
        "data__cutout": 3,
        "data__validation": 9,
        "data__label_noise": 0.5,
        "data__corruptions": ("contrast",),
        "train__steps_per_program": 1,  # a streamed run has no more in a program
    }

    def run(stream, stop=never):
        monkeypatch.setattr(signals, "polled", lambda: nullcontext(stop))
        return local.run(config(directory, data__stream=stream, **fields), tmp_path / stream, console, stream)

    straight = run("never")
    twice_no = SimpleNamespace(is_set=chain([False, False], repeat(True)).__next__)
    with pytest.raises(InterruptedRun, match=r"stopped by .* at step 2 of 4"):
        run("always", twice_no)
    resumed = run("always")
    assert len(resumed["attempts"]) == 2
    assert resumed["data"] == straight["data"] | {"streamed": True}
    assert resumed["final"] == straight["final"]
    assert resumed["corrupted"] == straight["corrupted"]
    assert len(straight["corrupted"]["contrast"]) == 5  # severities
    ours, theirs = (
        [line for line in results.read_metrics(tmp_path / name) if line["split"] == "test"]
        for name in ("always", "never")
    )
    assert ours == theirs
    # The record says what was done to the data.
    assert straight["data"]["splits"] == {
        "validation": {"examples": 9, "seed": 0, "stratified": False},
        "label_noise": {"rate": 0.5, "replaced": 17, "seed": 0},
    }
    said = dict(facts.what_was_run([results.read_run(tmp_path / "never")]))["Data"]
    assert "34 training and 21 test images" in said
    assert "label noise (rate 0.5, replaced 17, seed 0)" in said


def test_a_run_that_ends_early_leaves_no_thread_behind(streamed):
    def reading():
        return {thread for thread in threading.enumerate() if thread.name.startswith("grain")} - before

    before: set[threading.Thread] = set()
    before = reading()
    gc.disable()  # nothing may wait for it: a batch of large images is much memory
    try:
        built = Programs(config(train__steps=100), streamed, "float32", jax.devices()[:1])
        built.stream.train(0)
        assert reading()
        del built
        deadline = time.monotonic() + 10  # they end at their next batch
        while reading() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not reading()
    finally:
        gc.enable()
