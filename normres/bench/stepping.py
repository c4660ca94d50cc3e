"""A network in training, as `normres train` trains it, for those who time its steps."""

from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench.step.cells import Cell
from normres.data import Dataset
from normres.interop.networks import network_from_torch, network_to_torch
from normres.runs import machine
from normres.training.programs import Programs


class Stepping:
    """The programs of a run on one device, whose data set is one batch; a contender of serve.Timed.

    Attributes:
      programs: of the run.
      operations: what computes them, in words.
      state: after the last step.
      most: steps that one program does.
    """

    def __init__(self, config: ConfigDict, images: np.ndarray, labels: np.ndarray, dtype: str):
        devices = jax.devices()[:1]
        ops, self.operations = machine.operations(config.train.ops, devices)
        data = Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))
        self.programs = Programs(config, data, dtype, devices, ops=ops)
        self.state = jax.block_until_ready(self.programs.initial_state())
        self.most = self.programs.steps_per_program
        self.done = 0
        machine.return_freed_memory()

    def compile(self) -> Any:
        """Traces and compiles the training program, unless that was done, and returns it."""
        compiled = self.programs.compile(self.state)
        machine.return_freed_memory()
        return compiled

    def train(self, count: int) -> float:
        """Does `count` steps, and returns the last one's loss when all is computed."""
        if not self.done:
            self.compile()
        until = self.done + count
        while self.done < until:
            steps = min(self.most, until - self.done)
            self.state, metrics = self.programs.train(self.state, self.done, steps)
            self.done += steps
        jax.block_until_ready(self.state)
        return float(metrics["loss"][steps - 1])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns parameters and running statistics in PyTorch's names and layout."""
        variables = jax.device_get({"params": self.state.params, "batch_stats": self.state.batch_stats})
        return network_to_torch(variables, self.programs.model)


def build(spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> Stepping:
    """Makes the programs of a run with a cell's config, whose network has these weights; see serve.Timed."""
    cell = Cell(**{field.name: spec[field.name] for field in fields(Cell)})
    run = Stepping(cell.config(), images, labels, cell.dtype)
    variables = {"batch_stats": {}} | network_from_torch(weights, run.programs.model)
    run.state = replace(run.state, **jax.device_put(variables, run.programs.replicated, may_alias=False))
    return run
