"""normres as a contender: the very programs of a training run, of as many steps as a run lets them have."""

import dataclasses
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench.step.cells import Cell
from normres.data import Dataset
from normres.interop.networks import network_from_torch, network_to_torch
from normres.runs import config as configs
from normres.runs import machine
from normres.training.programs import Programs


def programs(config: ConfigDict, images: np.ndarray, labels: np.ndarray, dtype: str) -> tuple[Programs, str]:
    """Returns the programs of a run on one device, whose data set is one batch, and their operations in words."""
    devices = jax.devices()[:1]
    ops, operations = machine.operations(config.train.ops, devices)
    data = Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))
    return Programs(config, data, dtype, devices, ops=ops), operations


def seconds_of_steps(run: Programs, count: int) -> list[float]:
    """Returns the seconds of each of some training steps but the first, which may compile."""
    state, times = run.initial_state(), []
    for number in range(count):
        began = time.perf_counter()
        state = jax.block_until_ready(run.train(state, number)[0])
        times.append(time.perf_counter() - began)
    return times[1:]


def build(
    spec: dict[str, Any],
    weights: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    fields: Mapping[str, Any] | None = None,
) -> SimpleNamespace:
    """Makes the programs of a run with a cell's config and `fields`, whose network has the weights; see serve.Timed."""
    cell = Cell(**{field.name: spec[field.name] for field in dataclasses.fields(Cell)})
    run, _ = programs(configs.apply(cell.config(), fields or {}), images, labels, cell.dtype)
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
        return network_to_torch(jax.device_get({"params": state.params, "batch_stats": state.batch_stats}), run.model)

    return SimpleNamespace(train=train, state_dict=state_dict, most=run.steps_per_program)
