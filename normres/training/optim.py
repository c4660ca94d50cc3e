"""Optimizers and learning rates, from a config; pure functions of the step.

The rate is an argument of an optimizer's update, as it may depend on the training state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Schedule = Callable[[ConfigDict, int], optax.Schedule]


def _step_schedule(optim: ConfigDict, _steps: int) -> optax.Schedule:
    """Multiplied by decay_factor at each boundary."""
    factors = {int(boundary): optim.decay_factor for boundary in optim.boundaries}
    return optax.piecewise_constant_schedule(optim.learning_rate, factors)


def _cosine_schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
    """From the peak to zero along half a cosine (Loshchilov, Hutter 2016, arXiv 1608.03983), after the warm-up."""
    return optax.cosine_decay_schedule(optim.learning_rate, max(steps - optim.warmup_steps, 1))


SCHEDULES: dict[str, Schedule] = {
    "step": _step_schedule,
    "cosine": _cosine_schedule,
    "constant": lambda optim, steps: optax.constant_schedule(optim.learning_rate),
}


def learning_rate(config: ConfigDict, step: jax.Array, held: jax.Array | bool = False) -> jax.Array:
    """Returns the learning rate of a step.

    Args:
      config: the whole config; reads `optim` and `train.steps`.
      step: number of steps done before this one, int32 scalar.
      held: whether the network still waits at `optim.hold_learning_rate`, see `holds`.
    """
    optim = config.optim
    warmup = optim.warmup_steps
    schedule = SCHEDULES[optim.schedule](optim, config.train.steps)
    # A cosine begins when the warm-up ends; boundaries are counted from step 0.
    rate = schedule(jnp.maximum(step - warmup, 0) if optim.schedule == "cosine" else step)
    if warmup:
        rate = jnp.where(step < warmup, optim.learning_rate * (step + 1) / warmup, rate)
    return jnp.where(held, jnp.minimum(optim.hold_learning_rate, rate), rate).astype(jnp.float32)


def ends_alike(config: ConfigDict, steps: int) -> bool:
    """Returns whether a run of only `steps` steps would have the same learning rates."""
    shorter = config.copy_and_resolve_references()
    shorter.train.steps = steps
    own, other = (jax.vmap(partial(learning_rate, each))(jnp.arange(steps)) for each in (config, shorter))
    return bool(jnp.array_equal(own, other))


def holds(config: ConfigDict) -> bool:
    """Returns whether training starts at hold_learning_rate until the training error falls below hold_until_error.

    He et al. 2015, section 4.2: at 0.1 ResNet-110 began to converge only after several epochs.
    """
    return not config.model.module and 0 < config.optim.hold_from_depth <= config.model.depth


def scaled_by_rate() -> Any:
    """Returns the transformation that multiplies by the learning rate: update(..., rate=...)."""

    def update(updates: Any, state: Any, params: Any = None, **others: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda value: others["rate"] * value, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def decayed(optim: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation that adds weight_decay * w, for all parameters or for kernels only."""
    kernels = partial(jax.tree_util.tree_map_with_path, lambda path, _: path[-1].key == "kernel")
    return optax.add_decayed_weights(optim.weight_decay, None if optim.decay_norms else kernels)


def sgd(optim: ConfigDict) -> list[Any]:
    """v <- momentum v + g + decay w, w <- w - rate v: PyTorch's convention."""
    return [decayed(optim), optax.trace(optim.momentum, nesterov=optim.nesterov), scaled_by_rate()]


def sgd_classical(optim: ConfigDict) -> list[Any]:
    """v <- momentum v + rate (g + decay w), w <- w - v: a new rate does not change what was summed before.

    Sutskever, Martens, Dahl, Hinton 2013 (ICML), equations 1 and 2, with -v for their v; Caffe's convention.
    """
    return [decayed(optim), scaled_by_rate(), optax.trace(optim.momentum, nesterov=optim.nesterov)]


def adamw(optim: ConfigDict) -> list[Any]:
    """w <- w - rate (Adam(g) + decay w), as PyTorch; Loshchilov, Hutter 2017, arXiv 1711.05101, with alpha = 1."""
    return [optax.scale_by_adam(optim.momentum, optim.beta2, optim.epsilon), decayed(optim), scaled_by_rate()]


# The transformations from the gradients to what is subtracted from the parameters.  To add an optimizer, add a row.
OPTIMIZERS: dict[str, Callable[[ConfigDict], list[Any]]] = {"sgd": sgd, "sgd_classical": sgd_classical, "adamw": adamw}


def optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer; `update(gradients, state, params, rate=...)` returns what is subtracted."""
    optim = config.optim
    clip = [optax.stateless(partial(adaptive_clip, factor=optim.clip_factor))] if optim.clip_factor else []
    return optax.with_extra_args_support(optax.chain(*clip, *OPTIMIZERS[optim.optimizer](optim)))


CLIP_FLOOR = 1e-3  # the paper's epsilon, the least length in the bound: a parameter at zero can still move


def adaptive_clip(gradients: Any, params: Any, factor: float) -> Any:
    """Shortens each unit's gradient to at most `factor` times the length of the unit's parameters.

    A unit is an output channel of a kernel, or a whole scale, bias or scalar.  A layer named `classifier` is left
    alone.
    A scanned stage's parameters have a leading axis of depth, along which nothing is summed.
    Brock, De, Smith, Simonyan 2021, arXiv 2102.06171, section 4.1.
    """

    def clipped(path: Any, gradient: jax.Array, parameter: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        if "classifier" in names[:2]:  # the second name in a user's network
            return gradient
        scanned = 1 if any(name.endswith("_rest") for name in names) else 0
        kept = 1 if gradient.ndim - scanned > 1 and names[-1] == "kernel" else 0
        axes = tuple(range(scanned, gradient.ndim - kept))
        of_parameter, of_gradient = (
            jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (parameter, gradient)
        )
        allowed = factor * jnp.maximum(of_parameter, CLIP_FLOOR)
        return gradient * jnp.minimum(1.0, allowed / jnp.maximum(of_gradient, 1e-12))

    return jax.tree_util.tree_map_with_path(clipped, gradients, params)


def auxiliary_weights(config: ConfigDict, step: jax.Array, heads: int) -> list[jax.Array]:
    """Returns the weights of the auxiliary classifiers' losses at a step; "linear" lets them fall to zero at the end.

    Lee, Xie, Gallagher, Zhang, Tu 2014, arXiv 1409.5185, section 2: companion objectives that vanish in training.
    """
    weights = config.optim.auxiliary_weights
    left = 1 - step / config.train.steps if config.optim.auxiliary_decay == "linear" else 1.0
    return [jnp.asarray(weight * left, jnp.float32) for weight in (weights * heads if len(weights) == 1 else weights)]
