"""normres as a contender: the very programs of a training run, of as many steps as a run lets them have."""

from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np

from normres.bench.step.cells import Cell
from normres.data import Dataset
from normres.interop import networks as torch_networks
from normres.runs import machine
from normres.training.programs import Programs
from normres.training.step import TrainState


def losses(metrics: Any) -> np.ndarray:
    """Returns the loss of each step of a program."""
    return np.asarray(metrics)[:, 0]


class Normres:
    """See serve.Timed."""

    version = jax.__version__

    def build(self, spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> None:
        """Makes the programs of a run whose data set is the batch."""
        cell = Cell(**{field.name: spec[field.name] for field in fields(Cell)})
        names = tuple(map(str, range(spec["classes"])))
        data = Dataset("cifar10", "random", images, labels, images, labels, names)
        config, devices = cell.config(), jax.devices()[:1]
        ops, _ = machine.operations(config.train.ops, devices)
        self.programs = Programs(config, data, cell.dtype, devices, ops=ops)
        variables = torch_networks.network_from_torch(weights, self.programs.model)
        state = self.programs.initial_state()
        machine.return_freed_memory()
        params, batch_stats = jax.device_put(
            (variables["params"], variables.get("batch_stats", {})), self.programs.replicated, may_alias=False
        )
        self.state: TrainState = replace(state, params=params, batch_stats=batch_stats)
        self.steps = 0
        self.steps_per_program = self.programs.steps_per_program

    def compile(self) -> None:
        """Traces and compiles the step."""
        self.programs.compile(self.state)
        machine.return_freed_memory()

    def step(self, count: int = 1) -> tuple[Any, int]:
        """Dispatches steps and returns the program's metrics, and which of them are the last step's."""
        self.state, metrics = self.programs.train(self.state, self.steps, count)
        self.steps += count
        return metrics, count - 1

    def wait(self, result: tuple[Any, int]) -> float:
        """Returns the loss when all is computed."""
        metrics, last = jax.block_until_ready(result)
        jax.block_until_ready(self.state)
        return float(losses(metrics)[last])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns parameters and statistics in PyTorch's names."""
        variables = jax.device_get({"params": self.state.params, "batch_stats": self.state.batch_stats})
        return torch_networks.network_to_torch(variables, self.programs.model)

    def device_bytes(self) -> int | None:
        """Returns the accelerator's peak."""
        return device_bytes()


def device_bytes() -> int | None:
    """Returns the most memory that JAX held on its first device, None on a CPU."""
    if jax.default_backend() == "cpu":
        return None
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
