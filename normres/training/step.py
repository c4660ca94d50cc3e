"""Training as pure functions: the state, the step on one batch, and evaluation.

A batch is a function of (seed, step) and an image's augmentation of (seed, step, image), so results do not depend on
the number of devices and resuming needs no iterator state.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from normres.data import augment, preprocess
from normres.data.seeds import step_key, stream_seed
from normres.models import ResNet
from normres.training import optim

ERROR_MEMORY = 0.98  # of the running training error that ends the hold at a small learning rate

# Fields that a step takes as arguments, so that runs which differ in them alone share one compiled program.
TRACED = (
    "seeds.augmentation",
    "seeds.dropout",
    "optim.learning_rate",
    "optim.momentum",
    "optim.weight_decay",
    "optim.hold_learning_rate",
    "optim.hold_until_error",
)


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


def traced(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns the values of the config's TRACED fields, scalars: seeds uint32, the others float32."""
    values: dict[str, np.ndarray] = {}
    for name in TRACED:
        section, _, field = name.partition(".")
        if section == "seeds":
            values[name] = np.array(stream_seed(config, field) % 2**32, np.uint32)
        else:
            values[name] = np.array(config[section][field], np.float32)
    return values


def with_traced(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Returns a copy of the config with these values, which may be tracers, of the TRACED fields."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked(), copy.ignore_type():
        for name, value in values.items():
            section, _, field = name.partition(".")
            copy[section][field] = value
    return copy


def build_state(config: ConfigDict, network: ResNet, image_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Returns the state before the first step: images of `image_shape` (H, W, C), parameters drawn from `key`."""
    variables = network.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
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
    network: ResNet,
    axis_name: str | None,
    state: TrainState,
    data: dict[str, Any],
    indices: jax.Array,
    values: dict[str, jax.Array],
) -> tuple[TrainState, jax.Array]:
    """One optimizer step, pure.

    Args:
      config: the whole config, of which the TRACED fields are not read.
      network: in evaluation mode.
      axis_name: the device axis if this is one device's share of the batch, else None.
      state: the state before.
      data: see augment.training_batch.
      indices: which examples make the batch, int32 (B,), or (B, 2) with partners to mix them with.
      values: those of the TRACED fields, see `traced`.

    Returns:
      The state after, and float32 (3,): mean loss, mean error (see augment.Targets) and learning rate of the step.
    """
    config = with_traced(config, values)
    images, targets = augment.training_batch(config, state.step, data, indices)
    dropout = step_key(config, "dropout", state.step)
    if axis_name is not None:
        dropout = jax.random.fold_in(dropout, jax.lax.axis_index(axis_name))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = network.clone(train=True).apply(
            variables, images, mutable=["batch_stats", "auxiliary"], rngs={"dropout": dropout}
        )
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
    network: ResNet,
    kind: str,
    params: Any,
    batch_stats: Any,
    data: dict[str, Any],
    indices: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Returns float32 (3,): sums of loss, error and weight over the examples `indices` (B,) with `weights` (B,)."""
    found, labels = augment.look_up(data, indices)
    images = preprocess.preprocess(kind, found, data)
    logits: Any = network.apply({"params": params, "batch_stats": batch_stats}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wrong = jnp.argmax(logits, -1) != labels
    return jnp.stack([jnp.sum(losses * weights), jnp.sum(wrong * weights), jnp.sum(weights)])
