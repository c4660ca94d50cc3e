"""`normres bench data`: how much of a training step its input takes, and whether streamed data keep up with the step."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench import output
from normres.data import Dataset, augment, lazy, load, prepared
from normres.runs import config as configs
from normres.runs import machine
from normres.training.programs import Programs

EXAMPLES = 4096  # training images of a set that the steps see; the reading is of all
TARGET = 0.02  # of a step that its input may take

NOTE = """\
ms            of a batch, the shortest of {repeats} samples of {steps} in a row: other work on the machine only adds
processor ms  the same of this process on all cores, which other work changes less
share         of the training step with the data on the device
{device}; {threads} threads read ahead"""


class Times(NamedTuple):
    """Seconds of a batch: by the clock, and of the processor."""

    wall: float
    cpu: float


def embedded(directory: Path) -> Path:
    """Writes the embedded images as a prepared directory, for who names none."""
    prepared.write_tfds(load("cifar10", "embedded"), directory, lambda indices, total: indices)
    return directory


def parts(dataset: Dataset, count: int = EXAMPLES) -> tuple[Dataset, Dataset]:
    """Returns `count` training images from all over a streamed set and one test image, streamed and in memory."""
    chosen = np.random.default_rng(0).permutation(len(dataset.train_labels))[:count]
    streamed = replace(
        dataset,
        train_images=dataset.train_images.take(chosen, axis=0),
        train_labels=dataset.train_labels[chosen],
        test_images=dataset.test_images.take(np.arange(1), axis=0),
        test_labels=dataset.test_labels[:1],
    )
    return streamed, replace(streamed, train_images=streamed.train_images[:], test_images=streamed.test_images[:])


class Stepping:
    """Goes on training from sample to sample."""

    def __init__(self, config: ConfigDict, dataset: Dataset, dtype: str):
        self.programs = Programs(config, dataset, dtype, ops=machine.operations(config.train.ops, jax.devices())[0])
        self.state = self.programs.initial_state()
        self.programs.compile(self.state)
        self.step = 0

    def __call__(self, steps: int) -> None:
        """Does `steps` more and waits for them."""
        until = self.step + steps
        while self.step < until:
            count = min(self.programs.steps_per_program, until - self.step)
            self.state, _ = self.programs.train(self.state, self.step, count)
            self.step += count
        jax.block_until_ready(self.state)


def works(config: ConfigDict, dataset: Dataset, dtype: str) -> dict[str, Callable[[int], Any]]:
    """Returns what is timed by its name: f(steps) does it for so many batches in a row."""
    streamed, in_memory = parts(dataset)
    training = Stepping(config, in_memory, dtype)
    programs = training.programs
    making = jax.jit(partial(augment.training_batch, config))

    def place(step: int) -> jax.Array:
        return jax.device_put(programs.examples(step), programs.sharded)

    arguments = (jax.numpy.int32(0), programs.data["train"], place(0))

    def read(steps: int) -> None:
        images, batch_size = dataset.train_images, config.train.batch_size
        assert isinstance(images, lazy.LazyImages)
        order = np.random.default_rng(1).integers(0, len(images), (steps, batch_size))
        for _ in lazy.read_ahead(images, order.__getitem__, 0, steps):
            pass

    without_augmentation = configs.apply(config, {"data.augmentation": "none"})
    return {
        "read and decode": read,
        "choose and place the indices": lambda steps: jax.block_until_ready([*map(place, range(steps))]),
        "preprocess and augment, alone": lambda steps: [
            jax.block_until_ready(making(*arguments)[0]) for _ in range(steps)
        ],
        "training step": training,
        "training step without augmentation": Stepping(without_augmentation, in_memory, dtype),
        "training step, streamed": Stepping(config, streamed, dtype),
    }


def measure(timed: dict[str, Callable[[int], Any]], steps: int, repeats: int) -> dict[str, Times]:
    """Returns the seconds of a batch by name; all are sampled in turns, the shortest sample counts."""
    samples: dict[str, list[Times]] = {name: [] for name in timed}
    for work in timed.values():
        work(1)
    for _ in range(repeats):
        for name, work in timed.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work(steps)
            samples[name].append(Times((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps))
    return {name: Times(*map(min, zip(*taken, strict=True))) for name, taken in samples.items()}


def run(config: ConfigDict, path: str, dtype: str, steps: int, repeats: int, json: Path | None) -> dict[str, Times]:
    """Prints what a batch's input costs beside the step, and returns the seconds by what is done."""
    with tempfile.TemporaryDirectory() as made:
        directory = path or str(embedded(Path(made)))
        name, size = config.data.name, config.data.image_size
        dataset = load(name, "tfds", directory, image_size=size, stream="always")
        seconds = measure(works(config, dataset, dtype), steps, repeats)
    batch, step = config.train.batch_size, seconds["training step"].wall
    rows = [
        (what, f"{wall * 1e3:,.2f}", f"{cpu * 1e3:,.2f}", f"{batch / wall:,.0f}", f"{wall / step:.1%}")
        for what, (wall, cpu) in seconds.items()
    ]
    shape = list(dataset.train_images.shape)
    print(f"{name}: {shape[0]:,} images of {'×'.join(map(str, shape[1:]))}; ", end="")
    print(f"ResNet-{config.model.depth}, batch {batch}, {dtype}")
    print(output.table(("", "ms", "processor ms", "images/s", "share"), rows))
    share = (seconds["choose and place the indices"].wall + seconds["preprocess and augment, alone"].wall) / step
    print(f"input share of the step, data on the device: {share:.1%} (target: {TARGET:.0%})")
    print(NOTE.format(repeats=repeats, steps=steps, threads=lazy.THREADS, device=output.device_name()))
    settings = {"batch": batch, "depth": config.model.depth, "dtype": dtype, "images": shape}
    times = {what: of._asdict() for what, of in seconds.items()}
    output.write(json, {"seconds": times, "input_share": share, "settings": settings})
    return seconds
