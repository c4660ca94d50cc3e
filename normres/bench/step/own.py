"""normres as a contender: the very programs of a training run, of as many steps as a run lets them have."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from normres.bench.step.cells import Cell
from normres.bench.stepping import Stepping
from normres.data import Dataset
from normres.interop.networks import network_from_torch, network_to_torch
from normres.runs import machine


def build(spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    """Makes the programs of a run whose data set is the batch; see serve.Timed."""
    cell = Cell(**{field.name: spec[field.name] for field in fields(Cell)})
    data = Dataset("cifar10", "random", images, labels, images, labels, tuple(map(str, range(spec["classes"]))))
    run = Stepping(cell.config(), data, cell.dtype, jax.devices()[:1])
    machine.return_freed_memory()
    variables = {"batch_stats": {}} | network_from_torch(weights, run.programs.model)
    run.state = replace(run.state, **jax.device_put(variables, run.programs.replicated, may_alias=False))

    def train(count: int) -> float:
        if not run.done:
            run.compile()
        return run.train(count)

    def state_dict() -> dict[str, np.ndarray]:
        variables = jax.device_get({"params": run.state.params, "batch_stats": run.state.batch_stats})
        return network_to_torch(variables, run.programs.model)

    return SimpleNamespace(train=train, state_dict=state_dict, most=run.most)
