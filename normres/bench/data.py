"""How much of a training step its input takes, and whether the disk keeps up with the step where data are streamed."""

import json
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

from normres import config as configs
from normres import results
from normres.bench import text
from normres.data import Dataset, augment, lazy, load, prepared
from normres.programs import Programs

EXAMPLES = 4096  # training images of a set that the steps see; the reading is of all
TARGET = 0.02  # of a step that its input may take

NOTE = """\
time      of a batch, the shortest of {repeats} samples of {steps} in a row: other work on the machine only adds
share     of the training step with the data on the device
{cores} cores, {threads} threads read ahead, {device}"""


def embedded(directory: Path) -> Path:
    """Writes the embedded images as a prepared directory, for who gives none."""
    prepared.write_tfds(load("cifar10", "embedded"), directory, lambda indices, total: indices)
    return directory


def parts(dataset: Dataset, count: int = EXAMPLES) -> tuple[Dataset, Dataset]:
    """Returns `count` training images from all over a streamed set and few test images, streamed and in memory."""
    random = np.random.default_rng(0)
    chosen = random.permutation(len(dataset.train_labels))[:count]
    few = np.arange(min(len(dataset.test_labels), 1))
    streamed = replace(
        dataset,
        train_images=dataset.train_images.take(chosen, axis=0),
        train_labels=dataset.train_labels[chosen],
        test_images=dataset.test_images.take(few, axis=0),
        test_labels=dataset.test_labels[few],
    )
    in_memory = replace(streamed, train_images=streamed.train_images[:], test_images=streamed.test_images[:])
    return streamed, in_memory


def reading(images: lazy.Images, batch_size: int, steps: int) -> float:
    """Returns the seconds a batch of random images takes to read and decode, `steps` of them in a row."""
    assert isinstance(images, lazy.LazyImages)
    order = np.random.default_rng(1).integers(0, len(images), (steps, batch_size))
    started = time.perf_counter()
    for _ in lazy.read_ahead(images, order.__getitem__, 0, steps):
        pass
    return (time.perf_counter() - started) / steps


class Stepping:
    """Goes on training from sample to sample."""

    def __init__(self, config: ConfigDict, dataset: Dataset, dtype: str):
        self.programs = Programs(config, dataset, dtype)
        self.state = self.programs.initial_state()
        self.programs.compile(self.state)
        self.step = 0
        self(1)

    def __call__(self, steps: int) -> float:
        """Returns the seconds of a step, of `steps` in a row."""
        started, metrics = time.perf_counter(), None
        for _ in range(steps):
            self.state, metrics = self.programs.train(self.state, self.step)
            self.step += 1
        jax.block_until_ready(metrics)
        return (time.perf_counter() - started) / steps


def repeated(function: Callable[[int], Any], steps: int) -> float:
    """Returns the seconds of function(number), of `steps` in a row, each waited for."""
    started = time.perf_counter()
    for number in range(steps):
        jax.block_until_ready(function(number))
    return (time.perf_counter() - started) / steps


def measure(config: ConfigDict, dataset: Dataset, dtype: str, steps: int, repeats: int) -> dict[str, float]:
    """Returns the seconds of a batch by what is done; all are sampled in turns, the shortest sample counts."""
    streamed, in_memory = parts(dataset)
    plain = configs.apply(config, {"data.augmentation": "none"})
    augmented = Stepping(config, in_memory, dtype)
    programs = augmented.programs
    making = jax.jit(partial(augment.training_batch, config))
    indices, number = programs._indices(0), jax.numpy.int32(0)
    jax.block_until_ready(making(number, programs.data["train"], indices))
    samples: dict[str, Callable[[], float]] = {
        "read and decode": lambda: reading(dataset.train_images, config.train.batch_size, steps),
        "choose and place the indices": lambda: repeated(programs._indices, steps),
        "preprocess and augment, alone": lambda: repeated(
            lambda _: making(number, programs.data["train"], indices)[0], steps
        ),
        "training step": partial(augmented, steps),
        "training step without augmentation": partial(Stepping(plain, in_memory, dtype), steps),
        "training step, streamed": partial(Stepping(config, streamed, dtype), steps),
    }
    reading(dataset.train_images, config.train.batch_size, 1)  # the first opens the files
    found: dict[str, float] = dict.fromkeys(samples, float("inf"))
    for _ in range(repeats):
        for name, sample in samples.items():
            found[name] = min(found[name], sample())
    return found


def run(
    config: ConfigDict, path: str, dtype: str, steps: int, repeats: int, json_file: Path | None
) -> dict[str, float]:
    """Prints what a batch's input costs beside the step, and returns the seconds by what is done."""
    with tempfile.TemporaryDirectory() as made:
        directory = path or str(embedded(Path(made)))
        chosen = config.data
        dataset = load(chosen.name, "tfds", directory, image_size=chosen.image_size, stream="always")
        found = measure(config, dataset, dtype, steps, repeats)
    batch, step = config.train.batch_size, found["training step"]
    rows = [
        (name, f"{seconds * 1e3:,.2f}", f"{batch / seconds:,.0f}", f"{seconds / step:.1%}")
        for name, seconds in found.items()
    ]
    size = "×".join(map(str, dataset.train_images.shape[1:]))
    network = f"ResNet-{config.model.depth}, batch {batch}, {dtype}"
    print(f"{chosen.name}: {len(dataset.train_labels):,} images of {size}; {network}")
    print(text.table(("", "ms", "images/s", "share"), rows))
    share = (found["choose and place the indices"] + found["preprocess and augment, alone"]) / step
    print(f"input share of the step, data on the device: {share:.1%} (target: {TARGET:.0%})")
    slower = found["training step, streamed"] / step - 1
    print(f"a streamed step takes {abs(slower):.1%} {'more' if slower > 0 else 'less'} than one in memory")
    provenance = results.provenance()
    device = f"{provenance['host']['cpu']} ({jax.devices()[0].device_kind})"
    cores = provenance["host"]["cpu_count"]
    print(NOTE.format(repeats=repeats, steps=steps, cores=cores, threads=lazy.THREADS, device=device))
    if json_file:
        settings = {
            "batch": batch,
            "depth": config.model.depth,
            "dtype": dtype,
            "images": list(dataset.train_images.shape),
        }
        content = {"seconds": found, "input_share": share, "settings": settings, "provenance": provenance}
        json_file.write_text(json.dumps(content, indent=1))
    return found
