"""The compiled steps of a run on this process's devices, with its data on them.

`parallel="jit"`: one program over all devices, batch sharded, so batch norm sees the global batch.
`parallel="pmap"`: the same step on each device's share, gradients averaged (by jax.shard_map, pmap's successor), and
batch statistics per device or, with `sync_batch_norm`, merged.  One device is the same code with a mesh of one.

The data set lives on the devices as uint8; of one that is streamed (data/stream.py), the batch of the step does.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, FrozenConfigDict

from normres.data import Dataset, augment, batches, preprocess
from normres.data.seeds import stream_seed
from normres.data.stream import Change, Stream
from normres.errors import UserError
from normres.layers import PLAIN, Ops
from normres.models import ResNet, ResNetConfig
from normres.training.step import (
    TRACED,
    TrainState,
    build_state,
    eval_step,
    traced,
    train_step,
    with_traced,
)

KEPT = 32  # programs of a process; a sweep has a few shapes and many arms

# Steps of one program on one CPU device.  XLA takes a program's temporary memory, hundreds of megabytes, anew for each,
# and the system clears it, which costs a step up to 8 %.  More steps would gain little, and signals wait for programs.
STEPS_ON_CPU = 8

# Unrolled, a step takes a tenth less time on two CPU cores, and up to a third of a second a block longer to compile,
# which about 350 steps of width 16 make up for.
UNROLLED_STEPS = 400  # a run has at least
UNROLLED_BLOCKS = 60  # a network has at most: beyond, the compiler's memory exceeds the step's


def model_config(
    config: ConfigDict, classes: int, dtype: str, platform: str | None = None, ops: Ops = PLAIN
) -> ResNetConfig:
    """Returns the config of the network that a run trains on devices of `platform` ("cpu", "gpu", ...; None: on none).

    "auto": norms and ReLUs in plain JAX are computed anew in the backward pass, which keeps half as much; other
    operations say themselves what they keep.  Unrolled is what was measured to be faster, on the CPU.
    """
    synchronized = config.train.parallel == "pmap" and config.train.sync_batch_norm
    fields = {**config.model}
    unroll = fields.pop("unroll")
    fields["remat"] = ("elementwise" if ops is PLAIN else "nothing") if fields["remat"] == "auto" else fields["remat"]
    model = ResNetConfig(classes=classes, dtype=jnp.dtype(dtype), axis_name="data" if synchronized else None, **fields)
    long = config.train.steps >= UNROLLED_STEPS and sum(model.blocks) <= UNROLLED_BLOCKS
    return replace(model, unrolled=unroll == "always" or (unroll == "auto" and platform == "cpu" and long))


@dataclass
class _Steps:
    """The functions of a run that are compiled, which runs of one shape share."""

    initialize: Callable[..., TrainState]
    train: Any
    evaluate: Callable[..., jax.Array]
    compiled: jax.stages.Compiled | None = None  # `train`, once Programs.compile was called


@lru_cache(maxsize=KEPT)
def compiled_steps(
    config: FrozenConfigDict,
    network: ResNet,
    mesh: Mesh,
    shapes: tuple[tuple[int, ...], ...],
    specs: tuple[tuple[str, P], ...],
    most: int = 1,
    members: int | None = None,
) -> _Steps:
    """Returns what is compiled for a config without its TRACED fields and seeds, and images of `shapes` (N, H, W, C).

    `specs` says of each part of train_step's `data` how it lies on the devices.  `most` is the number of steps that the
    training program can do, see several.  With `members`, a step is that of as many runs, whose states, indices
    and values are stacked.
    Equal arguments give the same object, so that the arms of a sweep which differ in seed, learning rate, momentum or
    weight decay compile once.
    """
    replicated, plain = NamedSharding(mesh, P()), config.as_configdict()
    per_device = plain.train.parallel == "pmap"
    step: Callable[..., Any] = partial(train_step, plain, network, "data" if per_device else None)
    if members is not None:
        step = jax.vmap(step, in_axes=(0, None, 0, 0))
    if per_device:
        # The checks of replication do not see through custom gradients; the tests compare with one device.
        in_specs = (P(), dict(specs), indices_lie(members), P())
        step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
    # Compiled without optimization, which takes the CPU's compiler seconds for a program that runs once.
    quickly = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
    # Not unrolled, which takes longer to compile and draws the same.
    scanned = ResNet(replace(network.config, unrolled=False))
    return _Steps(
        initialize=jax.jit(partial(build_state, plain, scanned, shapes[0][1:]), compiler_options=quickly),
        train=jax.jit(several(step, most), donate_argnums=0, out_shardings=replicated),
        evaluate=jax.jit(partial(eval_step, network, plain.data.preprocess), out_shardings=replicated),
    )


def several(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Returns a function that does up to `most` training steps, so that one program does them.

    Args:
      step: (state, data, indices, values) -> (state, metrics), see train_step.
      most: steps of a program.

    Returns:
      (state, data, indices, count, values) -> (state, metrics): `indices` are `most` steps' stacked, of which the first
      `count`, int32 (), are done, and metrics are float32 (most, 3), zeros for the others.
    """

    def steps(state: Any, data: Any, indices: jax.Array, count: jax.Array, values: Any) -> tuple[Any, jax.Array]:
        if most == 1:
            state, metrics = step(state, data, indices[0], values)
            return state, metrics[None]

        def one(number: jax.Array, done: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, metrics = step(done[0], data, indices[number], values)
            return state, done[1].at[number].set(metrics)

        return jax.lax.fori_loop(0, count, one, (state, jnp.zeros((most, 3))))

    return steps


def indices_lie(members: int | None) -> P:
    """Returns how the indices of a batch lie on the devices, or those of several members stacked."""
    return P("data") if members is None else P(None, "data")


def steps_per_program(config: ConfigDict, devices: list[Any], streamed: bool) -> int:
    """Returns how many training steps one program does at most; a streamed batch comes with its step."""
    if streamed:
        return 1
    on_one_cpu = len(devices) == 1 and devices[0].platform == "cpu"
    return int(config.train.steps_per_program) or (STEPS_ON_CPU if on_one_cpu else 1)


def shape_of(config: ConfigDict) -> FrozenConfigDict:
    """Returns the config with zeros for what is no part of a program: the TRACED fields and the seeds."""
    copy = with_traced(config, dict.fromkeys(TRACED, 0))
    with copy.unlocked():
        copy.seed = 0
        for stream in copy.seeds:
            copy.seeds[stream] = 0
    return FrozenConfigDict(copy)


def _train_examples(config: ConfigDict, size: int, step: int) -> np.ndarray:
    """Returns which of `size` examples make the batch of a step, (B,), or (B, 2) with partners."""
    found = batches.train_indices(stream_seed(config, "order"), step, config.train.batch_size, size)
    return batches.with_partners(found) if augment.mixes(config) else found


class Programs:
    """The compiled steps of one run on this process's devices, and its data on them."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        dtype: str,
        devices: list[Any] | None = None,
        like: "Programs | None" = None,
        ops: Ops = PLAIN,
    ):
        """Compiles nothing yet; `like`, of the same data, shape and devices, shares its data on the devices.

        `ops` are the network's operations.
        """
        devices = devices or jax.devices()
        for field in ("batch_size", "eval_batch_size"):
            if config.train[field] % len(devices):
                raise UserError(
                    f"config.train.{field}={config.train[field]} is not a multiple of the {len(devices)} devices"
                )
        self.config = config
        self.model = model_config(config, len(dataset.class_names), dtype, devices[0].platform, ops)
        self.sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(mesh, P())
        self.sharded = NamedSharding(mesh, P("data"))
        self.preprocess = preprocess.measure(dataset.train_images, config.data.preprocess)
        whole = {
            "train": {"images": dataset.train_images, "labels": dataset.train_labels},
            "test": {"images": dataset.test_images, "labels": dataset.test_labels},
        }
        # How the parts of `data` lie on the devices.
        specs = dict.fromkeys((*whole["train"], *self.preprocess.arrays()), P())
        # No method of self: the stream would then hold what holds it, and outlive it with its threads.
        self.examples = partial(_train_examples, config, self.sizes["train"])
        self.stream = None
        if dataset.why_streamed:
            self.stream = Stream(dataset, self.sharded, self.examples, config.train.steps)
            whole = {split: {} for split in whole}
            specs = {"batch": P("data")} | dict.fromkeys(self.preprocess.arrays(), P())
        self.data: dict[str, dict[str, Any]] = like.data if like else {}
        if not like:
            for split, arrays in whole.items():
                self.data[split] = jax.device_put(arrays | self.preprocess.arrays(), self.replicated)
        self.values = jax.device_put(traced(config), self.replicated)
        shapes = (dataset.train_images.shape, dataset.test_images.shape)
        self.arguments = (shape_of(config), ResNet(self.model, ops=ops), mesh, shapes, tuple(specs.items()))
        self.steps_per_program = steps_per_program(config, devices, bool(dataset.why_streamed))
        self._steps = compiled_steps(*self.arguments, most=self.steps_per_program)
        self.compile_seconds = 0.0

    def trains_like(self, other: "Programs") -> bool:
        """Returns whether the two runs share a compiled step and can train in one program: see group.Group."""
        return self._steps is other._steps and not self.stream

    def saved(self, state: TrainState) -> TrainState:
        """Returns the state as it is saved."""
        return state

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, a function of the seed and the network alone, on every device."""
        key = jax.random.key(stream_seed(self.config, "initialization"))
        return jax.device_put(self._steps.initialize(key), self.replicated)

    def compile(self, state: TrainState) -> jax.stages.Compiled:
        """Compiles the training step, unless a run of this shape has, notes the seconds, and returns the program."""
        started = time.perf_counter()
        if self._steps.compiled is None:
            lowered = self._steps.train.lower(state, *self._batches(int(state.step), 1), self.values)
            self._steps.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - started
        return self._steps.compiled

    def _batches(self, step: int, count: int) -> tuple[dict[str, Any], jax.Array, Any]:
        """Returns what the steps of several read: data, indices and count."""
        batch = {"batch": self.stream.train(step)} if self.stream else {}
        indices = [self.examples(step + number) for number in range(count)]
        indices += indices[:1] * (self.steps_per_program - count)
        placed = jax.device_put(np.stack(indices), NamedSharding(self.sharded.mesh, P(None, "data")))
        return self.data["train"] | batch, placed, np.int32(count)

    def _read(self, split: str, wanted: list[np.ndarray], change: Change | None) -> Iterator[dict[str, Any]]:
        """Yields the data that eval_step reads for each of the batches `wanted` of a split."""
        data = self.data[split]
        if self.stream:
            yield from ({**data, "batch": batch} for batch in self.stream.evaluation(split, wanted, change))
            return
        if change:
            images = np.asarray(data["images"])
            data = data | {"images": jax.device_put(change(images, np.arange(len(images))), self.replicated)}
        yield from repeat(data, len(wanted))

    def train(self, state: TrainState, step: int, count: int = 1) -> tuple[TrainState, jax.Array]:
        """Dispatches `count` training steps from `step` on, at most steps_per_program; `state` is donated.

        Returns the state after, and float32 (steps_per_program, 3): a row for each step done, see train_step.
        """
        train = self._steps.compiled or self._steps.train
        return train(state, *self._batches(step, count), self.values)

    def evaluate(
        self,
        state: TrainState,
        split: str,
        should_stop: Callable[[], bool] = lambda: False,
        change: Change | None = None,
    ) -> dict[str, float] | None:
        """Returns loss and error over every example of "train" or "test"; None if told to stop.

        `change(images, examples)`, uint8 to uint8, is done to the images (of the numbers `examples`) before.
        """
        wanted = list(batches.eval_batches(self.sizes[split], self.config.train.eval_batch_size))
        sums = []
        for data, (indices, weights) in zip(self._read(split, [i for i, _ in wanted], change), wanted, strict=True):
            if should_stop():
                return None
            placed = jax.device_put((indices, weights), self.sharded)
            sums.append(self._steps.evaluate(state.params, state.batch_stats, data, *placed))
        loss, error, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        assert count == self.sizes[split]
        return {"loss": float(loss / count), "error": float(error / count)}
