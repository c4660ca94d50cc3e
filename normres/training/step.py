"""Training as pure functions: the state, the step on one batch, and evaluation.

A batch is a function of (seed, step) and an image's augmentation of (seed, step, image), so neither depends on the
number of devices, and resuming needs no iterator state.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from normres.data import augment, batches, preprocess
from normres.data.seeds import step_key
from normres.training import optim
from normres.training.metrics import Outcome, Update, measured
from normres.training.tasks import Losses, Task, ops_of, task_of

ERROR_MEMORY = 0.98  # share of the old value in TrainState.error; a small error ends the hold


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


def build_state(config: ConfigDict, network: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Returns the state before the first step: images of `image_shape` (H, W, C), parameters drawn from `key`."""
    variables = network.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    params = variables.get("params", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optim.optimizer(config).init(params),
        error=jnp.ones(()),
        held=jnp.array(optim.holds(config)),
    )


def per_example(task: Task, losses: Losses, outputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Returns float32 values (N,) by name: METRICS where the outputs are logits, else the task's losses."""
    if not task.has_classes:
        return {name: values.astype(jnp.float32) for name, values in losses.items()}
    return measured("examples", Outcome(losses["loss"], outputs, labels))


def train_step(
    config: ConfigDict,
    network: nn.Module,
    axis_name: str | None,
    state: TrainState,
    data: dict[str, Any],
    indices: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, pure.

    Args:
      config: the whole config; some of its numbers may be tracers, see traced.py.
      network: with train=False; the step sets True.
      axis_name: the device axis if this is one device's share of the batch, else None.
      state: the state before.
      data: see augment.training_batch.
      indices: which examples make the batch, int32 (B,), or (B, 2) with partners to mix them with.

    Returns:
      The state after, and float32 () by name: METRICS (of examples: their means over the batch), and the learning
      rate.
    """
    task = task_of(config)
    images, targets = augment.training_batch(config, state.step, data, indices)
    dropout = step_key(config, "dropout", state.step)
    if axis_name is not None:
        dropout = jax.random.fold_in(dropout, jax.lax.axis_index(axis_name))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Losses, jax.Array, Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        inputs = task.inputs(images, targets.right, data)
        changing = ["batch_stats"] if config.model.module else ["batch_stats", "auxiliary"]
        outputs, changed = network.clone(train=True).apply(
            variables, *inputs, mutable=changing, rngs={"dropout": dropout}
        )

        def losses_of(outputs: Any) -> Losses:
            return targets.mixed(lambda labels: task.losses(config, ops_of(network), data, images, outputs, labels))

        losses = losses_of(outputs)
        total = jnp.mean(losses["loss"])
        heads = changed.get("auxiliary", {}).values()
        weights = optim.auxiliary_weights(config, state.step, len(heads)) if heads else []
        for (head,), weight in zip(heads, weights, strict=True):  # Flax's sow stores tuples
            total += weight * jnp.mean(losses_of(head)["loss"])
        return total, (losses, outputs, changed.get("batch_stats", {}))

    gradients, (losses, outputs, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    values = per_example(task, losses, outputs, targets.right)
    # One mean of the stack: a GPU would start a kernel for each metric.
    metrics = dict(zip(values, jnp.mean(jnp.stack(list(values.values())), axis=1), strict=True))
    if axis_name is not None:
        # Averaging the running statistics keeps the state equal on all devices when each has seen its own batch.
        gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), axis_name)

    after, rate = updated(config, state, gradients, batch_stats, metrics.get("error"))
    return after, metrics | measured("update", Update(state.params, gradients)) | {"learning_rate": rate}


def updated(
    config: ConfigDict, state: TrainState, gradients: Any, batch_stats: Any, error: jax.Array | None
) -> tuple[TrainState, jax.Array]:
    """Returns the state after an optimizer step, and its learning rate; `error` is of the batch, if it has classes."""
    rate = optim.learning_rate(config, state.step, state.held)
    changes, opt_state = optim.optimizer(config).update(gradients, state.opt_state, state.params, rate=rate)
    running_error = state.error if error is None else ERROR_MEMORY * state.error + (1 - ERROR_MEMORY) * error
    after = TrainState(
        step=state.step + 1,
        params=jax.tree.map(jnp.subtract, state.params, changes),
        batch_stats=batch_stats,
        opt_state=opt_state,
        error=running_error,
        held=state.held & (running_error >= config.optim.hold_until_error),
    )
    return after, rate


def eval_step(
    config: ConfigDict,
    network: nn.Module,
    params: Any,
    batch_stats: Any,
    data: dict[str, Any],
    indices: jax.Array,
    weights: jax.Array,
) -> dict[str, jax.Array]:
    """Returns sums of weights * METRICS over the examples `indices` (B,), and "count", the sum of `weights` (B,)."""
    task = task_of(config)
    pixels, labels = batches.look_up(data, indices)
    images = preprocess.preprocess(config.data.preprocess, pixels, data)
    inputs = task.inputs(images, labels, data)
    outputs: Any = network.apply({"params": params, "batch_stats": batch_stats}, *inputs)
    values = per_example(task, task.losses(config, ops_of(network), data, images, outputs, labels), outputs, labels)
    return {name: jnp.sum(value * weights) for name, value in values.items()} | {"count": jnp.sum(weights)}
