"""normres as a contender: the very programs of a training run, of as many steps as a run lets them have."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from normres.bench.step.cells import Cell
from normres.data import Dataset
from normres.interop.networks import network_from_torch, network_to_torch
from normres.runs import config as configs
from normres.runs import machine
from normres.training.programs import Programs


def build(
    spec: dict[str, Any],
    weights: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    fields: Mapping[str, Any] | None = None,
) -> SimpleNamespace:
    """Makes the programs of a run with a cell's config and `fields`, whose network has the weights; see serve.Timed."""
    cell = Cell(**{field.name: spec[field.name] for field in dataclasses.fields(Cell)})
    config, devices = configs.apply(cell.config(), fields or {}), jax.devices()[:1]
    data = Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))
    run = Programs(config, data, cell.dtype, devices, ops=machine.operations(config.train.ops, devices)[0])
    variables = {"batch_stats": {}} | network_from_torch(weights, run.model)
    state = dataclasses.replace(run.initial_state(), **jax.device_put(variables, run.replicated, may_alias=False))
    machine.return_freed_memory()
    done = 0

    def train(count: int) -> float:
        nonlocal state, done
        if not done:
            run.compile()
            machine.return_freed_memory()
        until = done + count
        while done < until:
            steps = min(run.steps_per_program, until - done)
            state, metrics = run.train(state, done, steps)
            done += steps
        jax.block_until_ready(state)
        return float(metrics["loss"][steps - 1])

    def state_dict() -> dict[str, np.ndarray]:
        whole = run.together(state)
        return network_to_torch(jax.device_get({"params": whole.params, "batch_stats": whole.batch_stats}), run.model)

    return SimpleNamespace(train=train, state_dict=state_dict, most=run.steps_per_program)
