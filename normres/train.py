"""Training as pure functions: the state, the step on one batch, and evaluation.

A batch is a function of (seed, step) and an image's augmentation of (seed, step, image), so results do not depend on
the number of devices and resuming needs no iterator state.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from normres import norms, optim
from normres.data import augment, preprocess
from normres.resnet import ResNet, ResNetConfig
from normres.streams import step_key, stream_seed

# Unrolled, a step takes a tenth less time on two CPU cores, and up to a third of a second a block longer to compile,
# which about 350 steps of width 16 make up for, or 60 where the C++ code leaves less to compile.
UNROLLED_STEPS = 400  # a run has at least
UNROLLED_BLOCKS = 60  # a network has at most: beyond, the compiler's memory exceeds the step's

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


def network(config: ConfigDict, classes: int, dtype: str, platform: str | None, native: bool = False) -> ResNetConfig:
    """Returns the config of the network that a run trains on devices of `platform` ("cpu", "gpu", ...; None: on none).

    "auto" is what was measured to be faster, on the CPU, and what needs no measuring elsewhere; `native` says whether
    C++ code is used (see native.used).
    """
    synchronized = config.train.parallel == "pmap" and config.train.sync_batch_norm
    fields = {**config.model}
    unroll = fields.pop("unroll")
    fields["native"] = native
    if fields["remat"] == "auto":
        # Where norms are left to the C++ convolutions, no more is kept than "elementwise" keeps.
        left = native and norms.deferrable(norms.find_spec(fields["norm"]))
        fields["remat"] = "elementwise" if platform == "cpu" and not left else "nothing"
    found = ResNetConfig(classes=classes, dtype=jnp.dtype(dtype), axis_name="data" if synchronized else None, **fields)
    long = config.train.steps >= UNROLLED_STEPS and sum(found.blocks) <= UNROLLED_BLOCKS
    return replace(found, unrolled=unroll == "always" or (unroll == "auto" and platform == "cpu" and long))


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


def build_state(config: ConfigDict, model: ResNetConfig, image_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Returns the state before the first step: images of `image_shape` (H, W, C), parameters drawn from `key`."""
    # Not unrolled, which takes longer to compile and draws the same.
    scanned = ResNet(replace(model, unrolled=False))
    variables = scanned.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
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
    data: dict[str, Any],
    indices: jax.Array,
    values: dict[str, jax.Array],
) -> tuple[TrainState, jax.Array]:
    """One optimizer step, pure.

    Args:
      config: the whole config, of which the TRACED fields are not read.
      model: the network's config.
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


def eval_step(
    model: ResNetConfig,
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
    logits: Any = ResNet(model).apply({"params": params, "batch_stats": batch_stats}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wrong = jnp.argmax(logits, -1) != labels
    return jnp.stack([jnp.sum(losses * weights), jnp.sum(wrong * weights), jnp.sum(weights)])
