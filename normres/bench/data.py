"""`normres bench data`: how much of a training step its input takes, and whether streamed data keep up with it."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench import output
from normres.bench.stepping import Stepping
from normres.data import Dataset, augment, lazy, load, prepared
from normres.runs import config as configs

EXAMPLES = 4096  # training images of a set that the steps see; the reading is of all
TARGET = 0.02  # of a step that its input may take

NOTE = """\
ms            of a batch, the shortest of {repeats} samples of {steps} in a row: other work on the machine only adds
processor ms  the same of this process on all cores, which other work changes less
share         of the training step with the data on the device
{device}; {threads} threads read ahead"""


def parts(dataset: Dataset, count: int = EXAMPLES) -> tuple[Dataset, Dataset]:
    """Returns `count` training images from all over a streamed set and one test image, streamed and in memory."""
    train = np.random.default_rng(0).permutation(len(dataset.train_labels))[:count]
    streamed = replace(
        dataset,
        train_images=dataset.train_images.take(train, axis=0),
        train_labels=dataset.train_labels[train],
        test_images=dataset.test_images.take(np.arange(1), axis=0),
        test_labels=dataset.test_labels[:1],
    )
    return streamed, replace(streamed, train_images=streamed.train_images[:], test_images=streamed.test_images[:])


def works(config: ConfigDict, dataset: Dataset, dtype: str) -> dict[str, Callable[[int], Any]]:
    """Returns what is timed by its name: f(steps) does it for so many batches in a row."""
    streamed, in_memory = parts(dataset)
    training = Stepping(config, in_memory, dtype)
    making = jax.jit(partial(augment.training_batch, config))

    def place(step: int) -> jax.Array:
        return jax.device_put(training.programs.examples(step), training.programs.sharded)

    batch = (jax.numpy.int32(0), training.programs.data["train"], place(0))

    def read(steps: int) -> None:
        images = dataset.train_images
        assert isinstance(images, lazy.LazyImages)
        order = np.random.default_rng(1).integers(0, len(images), (steps, config.train.batch_size))
        for _ in lazy.read_ahead(images, order.__getitem__, 0, steps):
            pass

    def make(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(making(*batch)[0])

    without_augmentation = configs.apply(config, {"data.augmentation": "none"})
    return {
        "read and decode": read,
        "choose and place the indices": lambda steps: jax.block_until_ready([*map(place, range(steps))]),
        "preprocess and augment, alone": make,
        "training step": training.train,
        "training step without augmentation": Stepping(without_augmentation, in_memory, dtype).train,
        "training step, streamed": Stepping(config, streamed, dtype).train,
    }


def measure(timed: dict[str, Callable[[int], Any]], steps: int, repeats: int) -> dict[str, dict[str, float]]:
    """Returns the seconds of a batch, {"wall", "cpu"} by name: of the shortest sample."""

    def sample(work: Callable[[int], Any]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work(steps)
        return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps

    for work in timed.values():
        work(1)
    samples = output.in_turns({name: partial(sample, work) for name, work in timed.items()}, repeats)
    return {
        name: dict(zip(("wall", "cpu"), map(min, zip(*pairs, strict=True)), strict=True))
        for name, pairs in samples.items()
    }


def run(config: ConfigDict, path: str, dtype: str, steps: int, repeats: int, json: Path | None) -> None:
    """Prints what a batch's input costs beside the step; without `path` of the embedded images."""
    name, size = config.data.name, config.data.image_size
    with tempfile.TemporaryDirectory() as made:
        if not path:
            prepared.write_tfds(load("cifar10", "embedded"), Path(made))
        dataset = load(name, "tfds", path or made, image_size=size, stream="always")
        seconds = measure(works(config, dataset, dtype), steps, repeats)
    batch, step = config.train.batch_size, seconds["training step"]["wall"]
    rows = []
    for what, times in seconds.items():
        wall, cpu = times["wall"], times["cpu"]
        rows.append((what, f"{1e3 * wall:,.2f}", f"{1e3 * cpu:,.2f}", f"{batch / wall:,.0f}", f"{wall / step:.1%}"))
    count, *shape = dataset.train_images.shape
    print(
        f"{name}: {count:,} images of {'×'.join(map(str, shape))}; ResNet-{config.model.depth}, batch {batch}, {dtype}"
    )
    print(output.table(("", "ms", "processor ms", "images/s", "share"), rows))
    inputs = ("choose and place the indices", "preprocess and augment, alone")
    share = sum(seconds[part]["wall"] for part in inputs) / step
    print(f"input share of the step, data on the device: {share:.1%} (target: {TARGET:.0%})")
    print(NOTE.format(repeats=repeats, steps=steps, threads=lazy.THREADS, device=output.device_name()))
    settings = {"batch": batch, "depth": config.model.depth, "dtype": dtype, "images": [count, *shape]}
    output.write(json, {"seconds": seconds, "input_share": share, "settings": settings})
