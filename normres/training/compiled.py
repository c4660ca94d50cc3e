"""The compiled functions of a run, which others can share: initialization, training step, evaluation, probe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict

from normres.layers import PLAIN, Ops
from normres.training import probe as probes
from normres.training import tpu
from normres.training.networks import UserNetwork
from normres.training.platforms import platform_of
from normres.training.step import TrainState, build_state, eval_step, train_step
from normres.training.traced import with_traced

KEPT = 4  # shapes of a process; each holds about 100 MB of compiled programs, and a sweep may have many


@dataclass
class Steps:
    """The functions of a run that are compiled, which runs of one shape share."""

    initialize: Callable[..., TrainState]
    train: Any
    evaluate: Any
    probe: Any  # compiled when it is first asked for
    by_block: tpu.BlockByBlock | None  # the network of `train`, if that takes a state apart
    compiled: jax.stages.Compiled | None = None  # `train`, once Programs.compile was called


@lru_cache(maxsize=KEPT)
def compiled_steps(
    config: FrozenConfigDict,
    network: nn.Module,
    mesh: Mesh,
    shapes: tuple[tuple[int, ...], ...],
    specs: tuple[tuple[str, P], ...],
    most: int = 1,
) -> Steps:
    """Returns what is compiled for a config without its TRACED fields and seeds, and images of `shapes` (N, H, W, C).

    `specs` says of each part of train_step's `data` how it lies on the devices.  `most` is the number of steps that the
    training program can do, see several.
    Equal arguments give the same object, so that the arms of a sweep which differ in seed, learning rate, momentum or
    weight decay compile once.
    """
    replicated, plain = NamedSharding(mesh, P()), config.as_configdict()
    platform = platform_of(mesh.devices.flat[0])
    by_block = tpu.block_by_block(network) if platform.blocks_apart else None
    trained: Any = by_block or network
    per_device = plain.train.parallel == "pmap"

    def step(state: TrainState, data: Any, indices: jax.Array, values: Any) -> Any:
        axis_name = "data" if per_device else None
        return train_step(with_traced(plain, values), trained, axis_name, state, data, indices)

    def probe(state: TrainState, data: Any, values: Any) -> Any:
        return probes.probe(with_traced(plain, values), network, tpu.together(state), data)

    if per_device:
        # The checks of replication do not see through custom gradients; the tests compare with one device.
        in_specs = (P(), dict(specs), P("data"), P())
        step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
    donated = (0,) if platform.donates else ()
    once = dict(platform.once) if platform.once else None
    # Plain and not unrolled, which compiles faster and draws the same.
    plainest = network if isinstance(network, UserNetwork) else network.clone(ops=PLAIN)
    if getattr(getattr(network, "config", None), "unrolled", False):
        plainest = plainest.clone(config=replace(network.config, unrolled=False))
    return Steps(
        initialize=jax.jit(partial(build_state, plain, plainest, shapes[0][1:]), compiler_options=once),
        train=jax.jit(several(step, most), donate_argnums=donated, out_shardings=replicated),
        evaluate=jax.jit(partial(eval_step, plain, trained), out_shardings=replicated),
        probe=jax.jit(probe, compiler_options=once, out_shardings=replicated),
        by_block=by_block,
    )


def several(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Returns a function that does up to `most` training steps, so that one program does them.

    Args:
      step: (state, data, indices, values) -> (state, metrics), see train_step.
      most: steps of a program.

    Returns:
      (state, data, indices, count, values) -> (state, metrics): `indices` are `most` steps' stacked, of which the first
      `count`, int32 (), are done; each metric is float32 (most,), with zeros for the others.
    """

    def steps(state: Any, data: Any, indices: jax.Array, count: jax.Array, values: Any) -> tuple[Any, Any]:
        if most == 1:
            state, metrics = step(state, data, indices[0], values)
            return state, jax.tree.map(lambda value: value[None], metrics)

        def one(number: jax.Array, done: tuple[Any, Any]) -> tuple[Any, Any]:
            state, metrics = step(done[0], data, indices[number], values)
            return state, jax.tree.map(lambda rows, value: rows.at[number].set(value), done[1], metrics)

        _, shapes = jax.eval_shape(step, state, data, indices[0], values)
        rows = jax.tree.map(lambda shape: jnp.zeros((most, *shape.shape), shape.dtype), shapes)
        return jax.lax.fori_loop(0, count, one, (state, rows))

    return steps


def steps_per_program(config: ConfigDict, devices: list[Any], streamed: bool, ops: Ops) -> int:
    """Returns how many training steps one program does at most.

    A streamed batch comes with its step.  Several processes must do equally many, which a clock could not promise.
    """
    if streamed or len({device.process_index for device in devices}) > 1:
        return 1
    several = len(devices) == 1 and ops is not PLAIN
    return int(config.train.steps_per_program) or (platform_of(devices[0]).steps if several else 1)
