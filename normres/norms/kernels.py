"""Normalization of kernels instead of activations: pure functions over (..., I, O), and the table of them.

The last axis of a kernel is its output channels; statistics are per output channel, over all other axes, in at least
float32.  A matrix (I, O) is a kernel too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normres.norms.moments import Reduction, aligned, deviation_and_moments

# Brock, De, Smith 2021: 1 / std of relu(z), z ~ N(0, 1).
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


def _fan_in_axes(kernel: jax.Array) -> tuple[int, ...]:
    return tuple(range(kernel.ndim - 1))


def standardized(kernel: jax.Array, epsilon: float = 1e-10) -> jax.Array:
    """Weight standardization: mean 0 and variance 1 over each output channel's fan-in.

    Qiao, Wang, Liu, Shen, Yuille 2019, arXiv 1903.10520.
    """
    deviation, (_, var, _) = deviation_and_moments(kernel, Reduction(_fan_in_axes(kernel)))
    return (deviation.whole() * lax.rsqrt(var + epsilon)).astype(kernel.dtype)


def scaled_standardized(kernel: jax.Array, scale: jax.Array | None = None, epsilon: float = 1e-4) -> jax.Array:
    """Scaled weight standardization: RELU_GAIN * scale * (W - mean) / sqrt(max(var * fan-in, epsilon)).

    `scale` is per output channel, (O,).  Unlike a norm it costs nothing per activation, and keeps a signal's variance.
    Brock, De, Smith 2021, arXiv 2101.08692.
    """
    deviation, (_, var, fan_in) = deviation_and_moments(kernel, Reduction(_fan_in_axes(kernel)))
    factor = RELU_GAIN * lax.rsqrt(jnp.maximum(var * fan_in, epsilon))
    if scale is not None:
        factor = factor * aligned(scale, kernel.ndim)
    return (deviation.whole() * factor).astype(kernel.dtype)


def l2_normalized(
    kernel: jax.Array, scale: jax.Array | None = None, axes: Sequence[int] | None = None, epsilon: float = 1e-12
) -> jax.Array:
    """Weight norm: scale * W / |W|, the length by default over each output channel's fan-in.

    Salimans, Kingma 2016, arXiv 1602.07868.
    """
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    reduced = _fan_in_axes(kernel) if axes is None else tuple(axes)
    y = wide * lax.rsqrt(jnp.sum(lax.square(wide), reduced, keepdims=True) + epsilon)
    return (y if scale is None else y * aligned(scale, kernel.ndim)).astype(kernel.dtype)


def spectrally_normalized(
    kernel: jax.Array, u: jax.Array, steps: int = 1, epsilon: float = 1e-12
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Spectral norm: W / sigma, sigma the largest singular value of W as a matrix (fan-in, O).

    Miyato, Kataoka, Koyama, Yoshida 2018, arXiv 1802.05957.

    Args:
      kernel: (..., O).
      u: (1, O), the estimate of the singular vector of the outputs; `steps` power iterations improve it.
      steps: at least 1.
      epsilon: keeps the length of a vector from 0.

    Returns:
      W / sigma, the improved u (1, O), and sigma (scalar); no gradient flows through the iteration.
    """
    matrix = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32)).reshape(-1, kernel.shape[-1])

    def unit(vector: jax.Array) -> jax.Array:
        return vector * lax.rsqrt(jnp.sum(lax.square(vector), keepdims=True) + epsilon)

    v, initial_u = jnp.zeros((1, matrix.shape[0]), matrix.dtype), u
    for _ in range(steps):
        v = unit(u @ matrix.T)
        u = unit(v @ matrix)
    u = jnp.where(jnp.any(u != 0), u, initial_u)  # a u of zeros would stay zero
    u, v = lax.stop_gradient((u, v))
    sigma = (v @ matrix @ u.T)[0, 0]
    # A kernel of zeros has no direction and stays as it is.
    y = matrix / jnp.where(sigma == 0, 1, sigma)
    return y.reshape(kernel.shape).astype(kernel.dtype), u, sigma


def lengths(kernel: jax.Array) -> jax.Array:
    """Returns the length of each output channel's kernel, (O,): the scale with which weight norm changes nothing."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(lax.square(wide), _fan_in_axes(kernel)))


@dataclass(frozen=True)
class WeightNormalization:
    """What a stored kernel goes through before it is applied.

    Attributes:
      apply: (kernel, scale, state) -> (kernel, state).
      initial_scale: from the stored kernel, if there is a learned scale per output channel.
      initial_state: from a key and the stored kernel, if something is carried from step to step.
      formula: in words, for the documentation.
      paper: where it is from.
    """

    apply: Callable[[jax.Array, Any, Any], tuple[jax.Array, Any]]
    initial_scale: Callable[[jax.Array], jax.Array] | None = None
    initial_state: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    formula: str = ""
    paper: str = "–"


def _ones(kernel: jax.Array) -> jax.Array:
    return jnp.ones(kernel.shape[-1], jnp.float32)


# To add one, add a row.
TABLE: dict[str, WeightNormalization] = {
    "plain": WeightNormalization(lambda kernel, scale, state: (kernel, None), formula="W"),
    "standardized": WeightNormalization(
        lambda kernel, scale, state: (standardized(kernel), None),
        formula="(W - mean) / sqrt(var), per output channel",
        paper="Qiao, Wang, Liu, Shen, Yuille 2019, arXiv 1903.10520",
    ),
    "scaled_standardized": WeightNormalization(
        lambda kernel, scale, state: (scaled_standardized(kernel, scale), None),
        initial_scale=_ones,
        formula="1.71 scale (W - mean) / sqrt(var fan-in), per output channel",
        paper="Brock, De, Smith 2021, arXiv 2101.08692",
    ),
    "l2": WeightNormalization(
        lambda kernel, scale, state: (l2_normalized(kernel, scale), None),
        initial_scale=lengths,
        formula="scale W / length(W), per output channel",
        paper="Salimans, Kingma 2016, arXiv 1602.07868",
    ),
    "spectral": WeightNormalization(
        lambda kernel, scale, u: spectrally_normalized(kernel, u)[:2],
        initial_state=lambda key, kernel: jax.random.normal(key, (1, kernel.shape[-1])),
        formula="W / its largest singular value, by one power iteration a step",
        paper="Miyato, Kataoka, Koyama, Yoshida 2018, arXiv 1802.05957",
    ),
}
