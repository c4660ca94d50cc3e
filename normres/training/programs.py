"""The compiled steps of a run on its devices, of this process or of several, with its data on them.

`parallel="jit"`: one program over all devices, batch sharded, so batch norm sees the global batch.
`parallel="pmap"`: the same step on each device's share, gradients averaged (by jax.shard_map, pmap's successor), and
batch statistics per device or, with `sync_batch_norm`, merged.  One device is the same code with a mesh of one.

The whole data set lies on the devices as uint8; of a streamed one (data/stream.py), only the step's batch.
"""

import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from normres.data import Dataset, augment, batches, preprocess
from normres.data.seeds import stream_seed
from normres.data.stream import Change, Stream
from normres.errors import UserError
from normres.layers import PLAIN, Ops
from normres.training import limits, tpu
from normres.training import probe as probes
from normres.training.compiled import compiled_steps, steps_per_program
from normres.training.networks import build_network, check_outputs
from normres.training.platforms import platform_of
from normres.training.step import TrainState
from normres.training.tasks import as_floats, ops_of, task_of
from normres.training.traced import shape_of, traced

PICTURES = 6  # test images of a mosaic


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
        """Compiles nothing yet; `dtype` is of activations; without `statistics` the training images are measured."""
        devices = devices or jax.devices()
        for field in ("batch_size", "eval_batch_size"):
            if config.train[field] % len(devices):
                raise UserError(
                    f"config.train.{field}={config.train[field]} is not a multiple of the {len(devices)} devices"
                )
        self.config = config
        self.network = build_network(config, len(dataset.class_names), dtype, platform_of(devices[0]), ops)
        limits.refuse_data(config, self.model, dataset, len(devices))
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
        # Not a bound method: the stream would hold `self`, and its threads would outlive the run.
        self.examples = partial(_train_examples, config, self.sizes["train"])
        self.stream = None
        if dataset.why_streamed:
            self.stream = Stream(dataset, self.sharded, self.examples, config.train.steps)
        shapes = (dataset.train_images.shape, dataset.test_images.shape)
        self.steps_per_program = steps_per_program(config, devices, bool(dataset.why_streamed), ops_of(self.network))
        shared = (shape_of(config), self.network, mesh, shapes, tuple(specs.items()))
        self._steps = compiled_steps(*shared, most=self.steps_per_program)
        self.compile_seconds = 0.0

    @property
    def model(self) -> Any:
        """The network's config; None of a module of the user's."""
        return getattr(self.network, "config", None)

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

        Raises UserError if the data have no whole batch, the run cannot fit into a device's memory, or a module of the
        user's returns no logits.
        """
        limits.refuse_large_batch(self.config, self.sizes["train"])
        arrays = [self.arrays(split) for split in ("train", "test")]
        image = self._dataset.train_images.shape[1:]
        shapes = self.state_shapes()
        limits.refuse_large_state(self.config, shapes, arrays, image, self.model)
        weights = {"params": shapes.params, "batch_stats": shapes.batch_stats}
        check_outputs(self.config, self.network, weights, image, len(self._dataset.class_names))
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

        state = self.everywhere(jax.eval_shape(self._apart, self.state_shapes()))
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

        Returns the state after, see `together`, and each metric, float32 (steps_per_program,), a number for each step
        done.
        """
        train = self._steps.compiled or self._steps.train
        own = self._apart(state)
        if own is not state:
            tpu.free(state, kept=own)  # the rest is donated
        return train(own, *self._batches(step, count), self.values)

    def _apart(self, state: TrainState) -> TrainState:
        """Returns a state as the training program takes it."""
        by_block = self._steps.by_block
        return tpu.apart(state, by_block.stages) if by_block and by_block.stages & set(state.params) else state

    def together(self, state: TrainState) -> TrainState:
        """Returns the state that `train` has returned in the form of `initial_state`, which is that of checkpoints."""
        return tpu.together(state) if self._steps.by_block else state

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
