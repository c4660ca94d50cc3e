"""Training: a pure step on one global batch, and `fit`, which yields what happens and touches no file.

`parallel="jit"`: one program over all devices, batch sharded, so batch norm sees the global batch.
`parallel="pmap"`: the same step on each device's share, gradients averaged (by jax.shard_map, pmap's successor), and
batch statistics per device or, with `sync_batch_norm`, merged.  One device is the same code with a mesh of one.

The data set lives on the devices as uint8.  A batch is a function of (seed, step) and an image's augmentation of
(seed, step, image), so results do not depend on the number of devices and resuming needs no iterator state.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from normres import optim
from normres.data import Dataset, augment, batches, corruptions, preprocess
from normres.errors import UserError
from normres.resnet import ResNet, ResNetConfig
from normres.streams import step_key, stream_seed

ERROR_MEMORY = 0.98  # of the running training error that ends the hold at a small learning rate


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and changes; equal on every device.

    Attributes:
      step: optimizer steps done, int32.
      params, batch_stats: the network's variables, float32.
      opt_state: the optimizer's.
      error: running mean of the training error, float32; it starts at 1.
      held: whether the learning rate is still held small, see optim.holds.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    error: jax.Array
    held: jax.Array


@dataclass(frozen=True)
class Event:
    """What `fit` yields.

    kind is "train" (means since the last such event), "test" (whole test set), "checkpoint" (values are empty and
    the state may be saved), "diverged" (at `step` the loss was not finite), "corrupted" (test errors by corruption,
    a list over severities) or "finished" (final values).
    """

    kind: str
    step: int
    values: dict[str, Any]


def network(config: ConfigDict, classes: int, dtype: str) -> ResNetConfig:
    """Returns the network's config."""
    synchronized = config.train.parallel == "pmap" and config.train.sync_batch_norm
    return ResNetConfig(
        classes=classes, dtype=jnp.dtype(dtype), axis_name="data" if synchronized else None, **config.model
    )


def build_state(config: ConfigDict, model: ResNetConfig, image_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Returns the state before the first step: images of `image_shape` (H, W, C), parameters drawn from `key`."""
    variables = ResNet(model).lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optim.optimizer(config).init(params),
        error=jnp.ones(()),
        held=jnp.array(optim.holds(config)),
    )


def train_step(
    config: ConfigDict,
    model: ResNetConfig,
    axis_name: str | None,
    state: TrainState,
    data: dict[str, jax.Array],
    indices: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One optimizer step, pure.

    Args:
      config: the whole config.
      model: the network's config.
      axis_name: the device axis if this is one device's share of the batch, else None.
      state: the state before.
      data: see augment.training_batch.
      indices: which examples make the batch, int32 (B,), or (B, 2) with partners to mix them with.

    Returns:
      The state after, and float32 (3,): mean loss, mean error (see augment.Targets) and learning rate of the step.
    """
    images, targets = augment.training_batch(config, state.step, data, indices)
    dropout = step_key(config, "dropout", state.step)
    if axis_name is not None:
        dropout = jax.random.fold_in(dropout, jax.lax.axis_index(axis_name))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        network = ResNet(model, train=True)
        applied: Any = network.apply(variables, images, mutable=["batch_stats", "auxiliary"], rngs={"dropout": dropout})
        logits, changed = applied
        total = loss = targets.loss(logits)
        heads = changed.get("auxiliary", {}).values()
        for (head,), weight in zip(heads, optim.auxiliary_weights(config, state.step), strict=True):
            total += weight * targets.loss(head)
        return total, (loss, logits, changed.get("batch_stats", {}))

    gradients, (loss, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    error = targets.error(logits)
    if axis_name is not None:
        # Averaging the running statistics keeps the state equal on all devices when each has seen its own batch.
        gradients, batch_stats, loss, error = jax.lax.pmean((gradients, batch_stats, loss, error), axis_name)

    running_error = ERROR_MEMORY * state.error + (1 - ERROR_MEMORY) * error
    rate = optim.learning_rate(config, state.step, state.held)
    directions, opt_state = optim.optimizer(config).update(gradients, state.opt_state, state.params)
    after = TrainState(
        step=state.step + 1,
        params=jax.tree.map(lambda parameter, change: parameter - rate * change, state.params, directions),
        batch_stats=batch_stats,
        opt_state=opt_state,
        error=running_error,
        held=state.held & (running_error >= config.optim.hold_until_error),
    )
    return after, jnp.stack([loss, error, rate])


def eval_step(
    model: ResNetConfig,
    kind: str,
    params: Any,
    batch_stats: Any,
    data: dict[str, jax.Array],
    indices: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Returns float32 (3,): sums of loss, error and weight over the examples `indices` (B,) with `weights` (B,)."""
    images = preprocess.preprocess(kind, data["images"][indices], data)
    labels = data["labels"][indices]
    logits: Any = ResNet(model).apply({"params": params, "batch_stats": batch_stats}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wrong = jnp.argmax(logits, -1) != labels
    return jnp.stack([jnp.sum(losses * weights), jnp.sum(wrong * weights), jnp.sum(weights)])


class Programs:
    """The compiled steps of one run on this process's devices, and its data on them."""

    def __init__(self, config: ConfigDict, dataset: Dataset, dtype: str, devices: list[Any] | None = None):
        devices = devices or jax.devices()
        for field in ("batch_size", "eval_batch_size"):
            if config.train[field] % len(devices):
                raise UserError(
                    f"config.train.{field}={config.train[field]} is not a multiple of the {len(devices)} devices"
                )
        self.config = config
        self.model = network(config, len(dataset.class_names), dtype)
        self.sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(mesh, P())
        self.sharded = NamedSharding(mesh, P("data"))
        self.preprocess = preprocess.measure(dataset.train_images, config.data.preprocess)
        self.data = {
            split: jax.device_put({"images": images, "labels": labels, **self.preprocess.arrays()}, self.replicated)
            for split, images, labels in (
                ("train", dataset.train_images, dataset.train_labels),
                ("test", dataset.test_images, dataset.test_labels),
            )
        }
        self.image_shape = dataset.train_images.shape[1:]
        per_device = config.train.parallel == "pmap"
        step: Callable[..., Any] = partial(train_step, config, self.model, "data" if per_device else None)
        if per_device:
            # The checks of replication do not see through custom gradients; the tests compare with one device.
            step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P(), check_vma=False)
        self._train: Any
        self._train = self._jitted = jax.jit(step, donate_argnums=0, out_shardings=self.replicated)
        self._eval = jax.jit(partial(eval_step, self.model, config.data.preprocess), out_shardings=self.replicated)
        self.compile_seconds = 0.0

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, a function of the seed and the network alone, on every device."""
        # Compiled without optimization, which takes the CPU's compiler seconds for a program that runs once.
        quickly = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        build = jax.jit(partial(build_state, self.config, self.model, self.image_shape), compiler_options=quickly)
        return jax.device_put(build(jax.random.key(stream_seed(self.config, "initialization"))), self.replicated)

    def compile(self, state: TrainState) -> jax.stages.Compiled:
        """Compiles the training step, notes how long it took, and returns the program."""
        started = time.perf_counter()
        self._train = self._jitted.lower(state, self.data["train"], self._indices(0)).compile()
        self.compile_seconds = time.perf_counter() - started
        return self._train

    def _indices(self, step: int) -> jax.Array:
        config = self.config
        found = batches.train_indices(stream_seed(config, "order"), step, config.train.batch_size, self.sizes["train"])
        return jax.device_put(batches.with_partners(found) if augment.mixes(config) else found, self.sharded)

    def train(self, state: TrainState, step: int) -> tuple[TrainState, jax.Array]:
        """Dispatches training step `step`; `state` is donated."""
        return self._train(state, self.data["train"], self._indices(step))

    def evaluate(
        self, state: TrainState, split: str, should_stop: Callable[[], bool] = lambda: False, images: Any = None
    ) -> dict[str, float] | None:
        """Returns loss and error over every example of "train" or "test", or its `images`; None if told to stop."""
        data = self.data[split]
        if images is not None:
            data = data | {"images": jax.device_put(images, self.replicated)}
        sums = []
        for indices, weights in batches.eval_batches(self.sizes[split], self.config.train.eval_batch_size):
            if should_stop():
                return None
            placed = jax.device_put((indices, weights), self.sharded)
            sums.append(self._eval(state.params, state.batch_stats, data, *placed))
        loss, error, count = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        assert count == self.sizes[split]
        return {"loss": float(loss / count), "error": float(error / count)}


def fit(
    programs: Programs, state: TrainState, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Event, TrainState]]:
    """Trains from `state` to the config's last step and yields events with the state they belong to.

    When `should_stop()` turns true, it yields a last "checkpoint" and returns.  A yielded state is valid until the
    next event is asked for.  Metrics are fetched one step late, so that the device has work while Python reads them.
    """
    train = programs.config.train
    step = int(state.step)
    pending: list[jax.Array] = []
    while step < train.steps and not should_stop():
        state, metrics = programs.train(state, step)
        step += 1
        pending.append(metrics)
        at_eval, at_checkpoint = step % train.eval_every == 0, step % train.checkpoint_every == 0
        if at_eval or at_checkpoint or step == train.steps:
            due = len(pending)
        elif len(pending) > train.log_every:
            due = train.log_every
        else:
            continue
        event = _interval(pending[:due], step - len(pending) + due)
        pending = pending[due:]
        yield event, state
        if event.kind == "diverged":
            return
        if step == train.steps:
            break
        if at_eval and (found := programs.evaluate(state, "test", should_stop)):
            yield Event("test", step, dict(found)), state
        if at_checkpoint:
            yield Event("checkpoint", step, {}), state
    if pending:
        yield _interval(pending, step), state
    on_train = programs.evaluate(state, "train", should_stop) if step == train.steps else None
    on_test = programs.evaluate(state, "test", should_stop) if on_train else None
    evaluate, images = partial(programs.evaluate, state, "test", should_stop), programs.data["test"]["images"]
    corrupted = corruptions.errors(programs.config.data, images, evaluate) if on_test else None
    if on_train is None or on_test is None or corrupted is None:
        yield Event("checkpoint", step, {}), state
        return
    yield Event("test", step, dict(on_test)), state
    if corrupted:
        yield Event("corrupted", step, dict(corrupted)), state
    final = {"train_loss": on_train["loss"], "train_error": on_train["error"]}
    final |= {"test_loss": on_test["loss"], "test_error": on_test["error"]}
    yield Event("finished", step, final), state


def _interval(metrics: list[jax.Array], last_step: int) -> Event:
    """Means over the steps that end with `last_step`, or where among them the loss was first not finite."""
    values = np.asarray(jax.device_get(metrics), np.float64)
    bad = np.flatnonzero(~np.isfinite(values[:, 0]))
    if bad.size:
        return Event("diverged", last_step - len(values) + 1 + int(bad[0]), {})
    loss, error, _ = values.mean(axis=0)
    return Event("train", last_step, {"loss": loss, "error": error, "learning_rate": values[-1, 2]})
