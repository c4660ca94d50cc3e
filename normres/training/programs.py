"""The compiled steps of a run on its devices, of this process or of several, with its data on them.

`parallel="jit"`: one program over all devices, batch sharded, so batch norm sees the global batch.
`parallel="pmap"`: the same step on each device's share, gradients averaged (by jax.shard_map, pmap's successor), and
batch statistics per device or, with `sync_batch_norm`, merged.  One device is the same code with a mesh of one.

The data set lives on the devices as uint8; of one that is streamed (data/stream.py), the batch of the step does.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import repeat
from typing import Any

import flax.linen as nn
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
from normres.training import limits
from normres.training import probe as probes
from normres.training.networks import UserNetwork, build_network
from normres.training.step import TrainState, build_state, eval_step, train_step
from normres.training.tasks import as_floats, task_of
from normres.training.traced import shape_of, traced, with_traced

PICTURES = 6  # test images of a mosaic
KEPT = 4  # shapes of a process; each holds about 100 MB of compiled programs, and a sweep may have many

# Steps of one program on one CPU device.  XLA takes a program's temporary memory, hundreds of megabytes, anew for each,
# and the system clears it, which costs a step up to 8 %.  More steps would gain little, and signals wait for programs.
# In a loop, XLA's gradient of a plain convolution is thirty times slower, so plain JAX does one step.
STEPS_ON_CPU = 8


@dataclass
class _Steps:
    """The functions of a run that are compiled, which runs of one shape share."""

    initialize: Callable[..., TrainState]
    train: Any
    evaluate: Any
    probe: Any  # compiled when it is first asked for
    compiled: jax.stages.Compiled | None = None  # `train`, once Programs.compile was called


@lru_cache(maxsize=KEPT)
def compiled_steps(
    config: FrozenConfigDict,
    network: nn.Module,
    mesh: Mesh,
    shapes: tuple[tuple[int, ...], ...],
    specs: tuple[tuple[str, P], ...],
    most: int = 1,
) -> _Steps:
    """Returns what is compiled for a config without its TRACED fields and seeds, and images of `shapes` (N, H, W, C).

    `specs` says of each part of train_step's `data` how it lies on the devices.  `most` is the number of steps that the
    training program can do, see several.
    Equal arguments give the same object, so that the arms of a sweep which differ in seed, learning rate, momentum or
    weight decay compile once.
    """
    replicated, plain = NamedSharding(mesh, P()), config.as_configdict()
    per_device = plain.train.parallel == "pmap"

    def step(state: TrainState, data: Any, indices: jax.Array, values: Any) -> Any:
        axis_name = "data" if per_device else None
        return train_step(with_traced(plain, values), network, axis_name, state, data, indices)

    def probe(state: TrainState, data: Any, values: Any) -> Any:
        return probes.probe(with_traced(plain, values), network, state, data)

    if per_device:
        # The checks of replication do not see through custom gradients; the tests compare with one device.
        in_specs = (P(), dict(specs), P("data"), P())
        step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
    platform = mesh.devices.flat[0].platform
    # In place of donated leaves a GPU's compiler copies them one by one: 44 of the 395 kernels of a ResNet-20.
    donated = () if platform in ("gpu", "cuda", "rocm") else (0,)
    # Compiled without optimization, which takes the CPU's compiler seconds for a program that runs once.
    quickly = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    # Plain and not unrolled, which compiles faster and draws the same.
    plainest = network if isinstance(network, UserNetwork) else network.clone(ops=PLAIN)
    if getattr(getattr(network, "config", None), "unrolled", False):
        plainest = plainest.clone(config=replace(network.config, unrolled=False))
    return _Steps(
        initialize=jax.jit(partial(build_state, plain, plainest, shapes[0][1:]), compiler_options=quickly),
        train=jax.jit(several(step, most), donate_argnums=donated, out_shardings=replicated),
        evaluate=jax.jit(partial(eval_step, plain, network), out_shardings=replicated),
        probe=jax.jit(probe, compiler_options=quickly, out_shardings=replicated),
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
    on_one_cpu = len(devices) == 1 and devices[0].platform == "cpu" and ops is not PLAIN
    return int(config.train.steps_per_program) or (STEPS_ON_CPU if on_one_cpu else 1)


def _train_examples(config: ConfigDict, size: int, step: int) -> np.ndarray:
    """Returns which of `size` examples make the batch of a step, (B,), or (B, 2) with partners."""
    indices = batches.train_indices(stream_seed(config, "order"), step, config.train.batch_size, size)
    return batches.with_partners(indices) if augment.mixes(config) else indices


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that every process has whole on the devices of a sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    # device_put would first compare the arrays of all processes.
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__), tree
    )


class Programs:
    """The compiled steps of one run on its devices, which may be those of several processes, and its data on them."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        dtype: str,
        devices: list[Any] | None = None,
        ops: Ops = PLAIN,
        statistics: preprocess.Statistics | None = None,
    ):
        """Compiles nothing yet.

        Args:
          config: the whole config.
          dataset: what is trained and evaluated on.
          dtype: of activations.
          devices: default: all.
          ops: the network's operations.
          statistics: what preprocessing reads; None measures the training images.
        """
        devices = devices or jax.devices()
        for field in ("batch_size", "eval_batch_size"):
            if config.train[field] % len(devices):
                raise UserError(
                    f"config.train.{field}={config.train[field]} is not a multiple of the {len(devices)} devices"
                )
        self.config = config
        self.network = build_network(config, len(dataset.class_names), dtype, devices[0].platform, ops)
        limits.refuse_data(config, getattr(self.network, "config", None), dataset, len(devices))
        self.sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(mesh, P())
        self.sharded = NamedSharding(mesh, P("data"))
        self.preprocess = statistics or preprocess.measure(dataset.train_images, config.data.preprocess)
        self._dataset, self.task = dataset, task_of(config)
        # What of `data` is the same for all images.
        styles = {} if dataset.styles is None else {"styles": dataset.styles}
        self.constants: dict[str, Any] = self.preprocess.arrays() | styles | self.task.arrays()
        # How the parts of `data` lie on the devices.
        parts = {"batch": P("data")} if dataset.why_streamed else {"images": P(), "labels": P()}
        specs = parts | dict.fromkeys(self.constants, P())
        # No method of self: the stream would then hold what holds it, and outlive it with its threads.
        self.examples = partial(_train_examples, config, self.sizes["train"])
        self.stream = None
        if dataset.why_streamed:
            self.stream = Stream(dataset, self.sharded, self.examples, config.train.steps)
        shapes = (dataset.train_images.shape, dataset.test_images.shape)
        self.steps_per_program = steps_per_program(config, devices, bool(dataset.why_streamed), ops)
        shared = (shape_of(config), self.network, mesh, shapes, tuple(specs.items()))
        self._steps = compiled_steps(*shared, most=self.steps_per_program)
        self.compile_seconds = 0.0

    @property
    def model(self) -> Any:
        """The network's config, of this project's families."""
        return self.network.config

    def arrays(self, split: str) -> dict[str, Any]:
        """Returns what of train_step's `data` is the same for all batches of a split, on the host."""
        if self.stream:
            return dict(self.constants)
        images, labels = self._dataset.split(split)
        return {"images": batches.FlatImages.of(images), "labels": labels} | self.constants

    @cached_property
    def data(self) -> dict[str, dict[str, Any]]:
        """The data of each split on the devices."""
        return {split: placed(self.arrays(split), self.replicated) for split in ("train", "test")}

    @cached_property
    def values(self) -> Any:
        """The config's TRACED values on the devices."""
        return placed(traced(self.config), self.replicated)

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, a function of the seed and the network alone, on every device.

        Raises UserError if the run cannot fit into a device's memory.
        """
        arrays = [self.arrays(split) for split in ("train", "test")]
        image, model = self._dataset.train_images.shape[1:], getattr(self.network, "config", None)
        limits.refuse_large_state(self.config, self.state_shapes(), arrays, image, model)
        key = jax.random.key(stream_seed(self.config, "initialization"))
        return placed(self._steps.initialize(key), self.replicated)

    def state_shapes(self) -> TrainState:
        """Returns the shapes of the state."""
        shapes: TrainState = jax.eval_shape(self._steps.initialize, jax.random.key(0))
        return shapes

    def everywhere(self, tree: Any) -> Any:
        """Returns the shapes of a tree of arrays that lie whole on every device."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated), tree)

    def lower(self, program: str) -> jax.stages.Lowered:
        """Lowers "train" or "evaluate" from shapes alone, also for devices that are not there."""
        split, size = ("train", "batch_size") if program == "train" else ("test", "eval_batch_size")
        count, mixed = self.config.train[size], (2,) if program == "train" and augment.mixes(self.config) else ()

        def laid(shape: tuple[int, ...], dtype: Any, *spec: str | None) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.sharded.mesh, P(*spec)))

        state = self.everywhere(self.state_shapes())
        data = self.everywhere(self.arrays(split))
        if self.stream:
            image_shape = self._dataset.split(split)[0].shape[1:]
            images = laid((count, *mixed, *image_shape), np.uint8, "data")
            data["batch"] = {"images": images, "labels": laid((count, *mixed), np.int32, "data")}
        if program == "evaluate":
            indices, weights = laid((count,), np.int32, "data"), laid((count,), np.float32, "data")
            return self._steps.evaluate.lower(state.params, state.batch_stats, data, indices, weights)
        indices = laid((self.steps_per_program, count, *mixed), np.int32, None, "data")
        return self._steps.train.lower(state, data, indices, np.int32(1), self.everywhere(traced(self.config)))

    def compile(self) -> jax.stages.Compiled:
        """Compiles the training step, unless a run of this shape has, notes the seconds, and returns the program.

        Raises UserError if the program takes more than a device's memory.
        """
        started = time.perf_counter()
        if self._steps.compiled is None:
            program = self.lower("train").compile()
            limits.refuse_large_program(self.config, program)
            self._steps.compiled = program
        self.compile_seconds = time.perf_counter() - started
        return self._steps.compiled

    def _batches(self, step: int, count: int) -> tuple[dict[str, Any], jax.Array, Any]:
        """Returns what the steps of several read: data, indices and count."""
        batch = {"batch": self.stream.train(step)} if self.stream else {}
        indices = [self.examples(step + number) for number in range(count)]
        indices += indices[:1] * (self.steps_per_program - count)
        sharding = NamedSharding(self.sharded.mesh, P(None, "data"))
        return self.data["train"] | batch, placed(np.stack(indices), sharding), np.int32(count)

    def _read(self, split: str, wanted: list[np.ndarray], change: Change | None) -> Iterator[dict[str, Any]]:
        """Yields the data that eval_step reads for each of the batches `wanted` of a split."""
        data = self.data[split]
        if self.stream:
            yield from ({**data, "batch": batch} for batch in self.stream.evaluation(split, wanted, change))
            return
        if change:
            images, _ = self._dataset.split(split)
            changed = batches.FlatImages.of(change(np.asarray(images), np.arange(len(images))))
            data = data | {"images": placed(changed, self.replicated)}
        yield from repeat(data, len(wanted))

    def train(self, state: TrainState, step: int, count: int = 1) -> tuple[TrainState, dict[str, jax.Array]]:
        """Dispatches `count` training steps from `step` on, at most steps_per_program; `state` is donated.

        Returns the state after, and each metric, float32 (steps_per_program,), a number for each step done.
        """
        train = self._steps.compiled or self._steps.train
        return train(state, *self._batches(step, count), self.values)

    def probe(self, state: TrainState) -> dict[str, list[float]]:
        """Returns what probe.probe measures, by depth, on a few training images, the same in all runs."""
        count = probes.examples(self.network, self.config.train.batch_size)
        chosen = batches.epoch_order(0, 0, self.sizes["train"])[:count]
        images, labels = self._dataset.split("train")
        data = {"images": images[chosen], "labels": labels[chosen]} | self.constants
        on_host = jax.device_get(self._steps.probe(state, placed(data, self.replicated), self.values))
        return {name: on_host[name].tolist() for name in probes.QUANTITIES}

    def pictures(self, state: TrainState) -> np.ndarray | None:
        """Returns a mosaic, uint8 (H, W, 3): a row for each style, with its picture and what the network makes of test
        images, below a row of these; None if the network makes no images.
        """
        styles = self._dataset.styles
        if styles is None or self.task.has_classes:
            return None
        count = min(self.sizes["test"], PICTURES)
        images = self._dataset.test_images[np.linspace(0, self.sizes["test"] - 1, count).astype(int)]
        rows = [np.concatenate([np.full_like(images[0], 255), *images], axis=1)]
        network = jax.jit(self.network.apply)
        for number, style in enumerate(styles):
            labels = np.full(count, number)
            inputs = self.task.inputs(as_floats(jnp.asarray(images)), labels, {"styles": jnp.asarray(styles)})
            outputs = network({"params": state.params, "batch_stats": state.batch_stats}, *inputs)
            made = np.asarray(jnp.round(255 * outputs).astype(jnp.uint8))
            rows.append(np.concatenate([style, *made], axis=1))
        return np.concatenate(rows)

    def evaluate(
        self,
        state: TrainState,
        split: str,
        should_stop: Callable[[], bool] = lambda: False,
        change: Change | None = None,
    ) -> dict[str, float] | None:
        """Returns the METRICS of examples, means over every example of "train" or "test"; None if told to stop.

        `change(images, examples)`, uint8 to uint8, is done to the images (of the numbers `examples`) before.
        """
        wanted = list(batches.eval_batches(self.sizes[split], self.config.train.eval_batch_size))
        sums: list[dict[str, jax.Array]] = []
        for data, (indices, weights) in zip(self._read(split, [i for i, _ in wanted], change), wanted, strict=True):
            if should_stop():
                return None
            parts = placed((indices, weights), self.sharded)
            sums.append(self._steps.evaluate(state.params, state.batch_stats, data, *parts))
        on_host: list[dict[str, np.ndarray]] = jax.device_get(sums)
        total = {name: float(np.sum([batch[name] for batch in on_host], dtype=np.float64)) for name in on_host[0]}
        count = total.pop("count")
        assert count == self.sizes[split]
        return {name: value / count for name, value in total.items()}
