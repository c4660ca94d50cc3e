"""A network in training, as `normres train` trains it, for those who time its steps."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.data import Dataset
from normres.runs import machine
from normres.training.programs import Programs


def random_data(batch_size: int) -> Dataset:
    """Returns one batch of random images as a whole data set, so that every step sees the same examples."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, 32, 32, 3)).astype(np.uint8)
    labels = random.integers(0, 10, batch_size).astype(np.int32)
    return Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))


class Stepping:
    """The compiled programs of a run, its state, and the steps that it has done.

    Attributes:
      programs: of the run.
      operations: what computes them, in words.
      state: after the last step.
      most: steps that one program does.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset, dtype: str, devices: list[Any] | None = None):
        devices = devices or jax.devices()
        ops, self.operations = machine.operations(config.train.ops, devices)
        self.programs = Programs(config, dataset, dtype, devices, ops=ops)
        self.state = jax.block_until_ready(self.programs.initial_state())
        self.most = self.programs.steps_per_program
        self.done = 0

    def compile(self) -> Any:
        """Traces and compiles the training program, and returns it."""
        compiled = self.programs.compile()
        machine.return_freed_memory()
        return compiled

    def train(self, count: int) -> float:
        """Does `count` steps, and returns the last one's loss when all is computed."""
        until = self.done + count
        while self.done < until:
            steps = min(self.most, until - self.done)
            self.state, metrics = self.programs.train(self.state, self.done, steps)
            self.done += steps
        jax.block_until_ready(self.state)
        return float(metrics["loss"][steps - 1])
