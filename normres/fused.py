"""Normalization in one call with fused gradients: moments, then normalize, with the backward pass written out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normres.activation import rectified_gradient
from normres.devices import alike, varying
from normres.elementwise import elementwise, summed
from normres.moments import (
    Moments,
    Reduction,
    broadcastable,
    deviation,
    moments_and_rest,
    normalize,
    reduction,
)


def standardize(
    x: jax.Array,
    axes: Sequence[int],
    *,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    epsilon: float = 1e-5,
    groups: int = 1,
    sub_batches: int = 1,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    center: bool = True,
    one_pass: bool = False,
    rectify: bool = False,
    side: jax.Array | None = None,
) -> tuple[jax.Array, Moments]:
    """`moments`, then `normalize` with them, with fused gradients: returns (y of x's shape and dtype, moments).

    `side`, of x's shape and dtype, is added to y.  With `rectify`, y is then max(y, 0), and the backward pass keeps it
    too: the next layer does anyway.

    The backward pass keeps x and two statistics (for float32 also the mean's rounding), not the float32 copies that
    differentiating the formula keeps, and reads x and the output's gradient once for all sums.  Reverse mode of any
    order works; forward mode does not (jax.custom_vjp): call `moments` and `normalize` for that.

    Args and errors: see `moments` and `normalize`.
    """
    over = reduction(
        x,
        axes,
        groups=groups,
        sub_batches=sub_batches,
        channel_axis=channel_axis,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        one_pass=one_pass,
    )
    affine = [broadcastable(name, array, x) for name, array in (("scale", scale), ("bias", bias))]
    if side is not None and (side.shape, side.dtype) != (x.shape, x.dtype):
        raise ValueError(f"side, {side.dtype}{side.shape}, is not like the input, {x.dtype}{x.shape}")
    static = (over, center, epsilon, rectify, side is not None)
    return _standardize(static, *alike(x, *affine, broadcastable("where", where, x), side))


_Static = tuple[Reduction, bool, float, bool, bool]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _standardize(
    static: _Static,
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    where: jax.Array | None,
    side: jax.Array | None,
) -> tuple[jax.Array, Moments]:
    return _standardize_forward(static, x, scale, bias, where, side)[0]


def _standardize_forward(static: _Static, x: Any, scale: Any, bias: Any, where: Any, side: Any) -> tuple[Any, Any]:
    over, center, epsilon, rectify, _ = static
    found, rest = moments_and_rest(over, center, x, where)
    y = elementwise(partial(_normalized, epsilon, rectify), x, found.mean, rest, found.var, scale, bias, side)
    return (y, found), (x, scale, bias, where, found, rest, y if rectify else None)


def _normalized(
    epsilon: float, rectify: bool, x: Any, mean: Any, rest: Any, var: Any, scale: Any, bias: Any, side: Any
) -> jax.Array:
    affine = {"scale": scale, "bias": bias, "epsilon": epsilon}
    if rest is None:
        y = normalize(x.astype(mean.dtype), mean, var, **affine)
    else:
        y = normalize(x - mean, rest, var, **affine)
    if side is not None:
        y = y + side.astype(y.dtype)
    return (jnp.maximum(y, 0) if rectify else y).astype(x.dtype)


def _standardize_backward(static: _Static, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    """With d = x - mean and r = 1 / sqrt(var + epsilon), so y = d r scale + bias:

    d_mean = -sum(dy scale r), d_var = -sum(dy scale d) r^3 / 2, and, as the deviations sum to zero,
    dx = dy scale r + (d_mean + 2 d d_var) / count, the second part at the elements that count.
    """
    over, center, epsilon, _, has_side = static
    x, scale, bias, where, found, rest, rectified = residuals
    dy, d_found = cotangents
    d_side = None
    if has_side:
        # The side's gradient is written anyway, so what follows reads that and not both of what it is made of.
        d_side = dy = dy if rectified is None else rectified_gradient(rectified, dy)
        rectified = None
    dtype = found.mean.dtype
    factor = lax.rsqrt(found.var + epsilon)
    # One pass over x and dy sums along the axes on which neither the statistics nor scale and bias vary; all that
    # is needed follows from these small sums.
    affine = [array for array in (scale, bias) if array is not None]
    split = over.parts()
    common = tuple(axis for axis in over.axes if axis not in split and all(array.shape[axis] == 1 for array in affine))
    sum_dy = summed(partial(_passed, dtype), common, dy, rectified)
    sum_dy_deviation = summed(_times_deviation, common, x, dy, rectified, found.mean, rest, where)
    weight = factor if scale is None else factor * scale.astype(dtype)
    count = jnp.maximum(found.count, 1)
    # Where shard_map checks what varies, the cotangents of merged statistics come summed over the devices.
    merged = over.axis_name in varying(x) - varying(d_found.mean)
    of_found = replace(over, axis_name=None) if merged else over
    d_mean = of_found.total(d_found.mean) - over.total(weight * sum_dy) if center else 0.0
    d_var = of_found.total(d_found.var) - 0.5 * lax.square(factor) * over.total(weight * sum_dy_deviation)
    per_count, per_deviation = d_mean / count, 2 * d_var / count
    dx = elementwise(_input_gradient, x, dy, rectified, found.mean, rest, where, weight, per_count, per_deviation)
    d_scale = None if scale is None else _sum_to(sum_dy_deviation * factor, scale)
    d_bias = None if bias is None else _sum_to(sum_dy, bias)
    return dx, d_scale, d_bias, None, d_side


# Generic batching: under vmap, merged statistics and their cotangents are one array that all members share.
_standardize.defvjp(_standardize_forward, _standardize_backward, generic_batching=True)


def _finite_deviation(x: Any, mean: Any, rest: Any, where: Any) -> jax.Array:
    """Under the mask an infinity must not meet a gradient of zero: their product would spoil the sums."""
    found = deviation(x, mean, rest)
    return found if where is None else jnp.where(where | jnp.isfinite(found), found, 0)


def _passed(dtype: jnp.dtype, dy: Any, rectified: Any) -> jax.Array:
    """What the rectifier, whose output is `rectified`, lets through of its output's gradient, in `dtype`."""
    wide: jax.Array = dy.astype(dtype)
    return wide if rectified is None else jnp.where(rectified.astype(dtype) > 0, wide, 0)


def _times_deviation(x: Any, dy: Any, rectified: Any, mean: Any, rest: Any, where: Any) -> jax.Array:
    return _passed(mean.dtype, dy, rectified) * _finite_deviation(x, mean, rest, where)


def _input_gradient(
    x: Any, dy: Any, rectified: Any, mean: Any, rest: Any, where: Any, weight: Any, per_count: Any, per_deviation: Any
) -> jax.Array:
    """The deviation is taken anew rather than kept from the sums."""
    of_statistics = per_count + _finite_deviation(x, mean, rest, where) * per_deviation
    if where is not None:
        of_statistics = jnp.where(where, of_statistics, 0)
    return (_passed(mean.dtype, dy, rectified) * weight + of_statistics).astype(x.dtype)


def _sum_to(values: jax.Array, like: jax.Array) -> jax.Array:
    """Sums `values` to the shape of `like`, which broadcasts to it, in its dtype."""
    axes = tuple(axis for axis, size in enumerate(like.shape) if size == 1)
    return jnp.sum(values, axes, keepdims=True).astype(like.dtype)
