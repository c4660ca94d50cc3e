"""Moments over any axes: what every normalization starts from, exact under masks, on several devices and far from zero.

Statistics are in at least float32 whatever the input's dtype.  The variance is never E[x^2] - E[x]^2, which loses it
under a large mean: it takes two passes (the mean first, then the mean square of what is left), or one pass over
values that were shifted near zero by the mean of a few of them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from normres.reductions import Reduction, reduction, reduction_axes

__all__ = [
    "Moments",
    "Reduction",
    "aligned",
    "broadcastable",
    "deviation",
    "merged",
    "moments",
    "moments_and_rest",
    "normalize",
    "reduced_moments",
    "reduction",
    "reduction_axes",
]

STATISTICS = "statistics"  # what jax.checkpoint's policies call them


class Moments(NamedTuple):
    """Mean, biased variance and number of elements of a reduction, each broadcastable to the input."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count, which nobody needs here


def moments(
    x: jax.Array,
    axes: Sequence[int],
    *,
    groups: int = 1,
    sub_batches: int = 1,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    center: bool = True,
    one_pass: bool = False,
) -> Moments:
    """Mean and biased variance over `axes`, in at least float32.

    Args:
      x: array of any rank and floating dtype.
      axes: axes to average over.
      groups: split the channels into this many groups of neighbours, if `axes` contains `channel_axis`.
      sub_batches: split axis 0 into this many parts of neighbours, if `axes` contains it.
      channel_axis: where the channels stand.
      where: boolean, broadcastable to x; elements where it is False do not count.
      axis_name: a pmap, vmap or shard_map axis whose members count as one array, however many elements of each do.
      axis_index_groups: merge within these groups of the members only.
      center: if False, mean is zero and var is the mean square.
      one_pass: read x once, shifted by the mean of a first slice, instead of twice; with a mask, twice all the same.

    Returns:
      Moments of size 1 along `axes` (of full size along split axes: equal within a part).
      A reduction over no element gives mean 0 and variance 0.

    Raises:
      ValueError: see `reduction`; or a `where` that does not broadcast to x.
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
    return reduced_moments(over, center, x, broadcastable("where", where, x))


def reduced_moments(over: Reduction, center: bool, x: jax.Array, where: jax.Array | None) -> Moments:
    """`moments` of a checked Reduction and mask."""
    return moments_and_rest(over, center, x, where)[0]


def moments_and_rest(
    over: Reduction, center: bool, x: jax.Array, where: jax.Array | None
) -> tuple[Moments, jax.Array | None]:
    """`moments` of a checked Reduction and mask, and what rounding took from the mean: it is mean + rest exactly.

    A mean of 1e6 rounds to a float32 that is 0.03 off, so deviations of about 1 would be.  The rest is None where it
    is not known: for inputs below float32, whose own rounding is coarser, and for masked or merged statistics.
    """
    found: tuple[Moments, jax.Array | None] = checkpoint_name(_moments_and_rest(over, center, x, where), STATISTICS)
    return found


def _moments_and_rest(
    over: Reduction, center: bool, x: jax.Array, where: jax.Array | None
) -> tuple[Moments, jax.Array | None]:
    exact = jnp.finfo(x.dtype).bits >= 32 and center and where is None and over.axis_name is None
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if where is None:
        counted = None
        size = 1
        for axis in over.axes:
            size *= x.shape[axis]
        own_count = jnp.full((1,) * x.ndim, size // over.groups // over.sub_batches, dtype)
    else:
        counted = jnp.broadcast_to(where, x.shape)
        own_count = over.own_total(counted.astype(dtype))
        # Not a product with zero: an element that does not count may be infinite.
        x = jnp.where(counted, x, 0)
    count = over.over_devices(own_count)
    safe_count = jnp.maximum(count, 1)
    if over.one_pass and center and counted is None:
        return _by_one_pass(over, x, own_count, count)
    if exact:
        shift = lax.stop_gradient(over.first(x))
        own = over.total_of(deviation, x, shift, None) / safe_count
        own = checkpoint_name(own, STATISTICS)
        mean = shift + own
        rest = own - (mean - shift)
        return Moments(mean, over.total_of(_squared_deviation, x, mean, rest) / safe_count, count), rest
    mean = over.total_of(partial(_wide, dtype), x) / safe_count if center else jnp.zeros_like(safe_count)
    # Here too, for the variance is differentiated through it.
    mean = checkpoint_name(mean, STATISTICS)
    if counted is None:
        squares = over.total_of(_squared_deviation, x, mean, None)
    else:
        squares = over.total(jnp.where(counted, _squared_deviation(x, mean, None), 0))
    return Moments(mean, squares / safe_count, count), None


def _by_one_pass(
    over: Reduction, x: jax.Array, own_count: jax.Array, count: jax.Array
) -> tuple[Moments, jax.Array | None]:
    """Sums x - shift and its square together, and merges devices by (count, mean, M2), Chan et al. 1979."""
    shift = lax.stop_gradient(over.sample_mean(x))
    own = over.own_total_of(deviation, x, shift, None) / own_count
    squares = jnp.maximum(over.own_total_of(_squared_deviation, x, shift, None) - own_count * lax.square(own), 0)
    own_mean = shift + own
    if over.axis_name is None:
        return Moments(own_mean, squares / own_count, count), own - (own_mean - shift)
    mean = over.over_devices(own_count * own_mean) / count
    merged = over.over_devices(squares + own_count * lax.square(own_mean - mean))
    return Moments(mean, merged / count, count), None


def _wide(dtype: jnp.dtype, x: jax.Array) -> jax.Array:
    return x.astype(dtype)


def deviation(x: jax.Array, mean: jax.Array, rest: jax.Array | None) -> jax.Array:
    """Returns x - (mean + rest) in the mean's dtype; see `moments_and_rest`."""
    found = x.astype(mean.dtype) - mean
    return found if rest is None else found - rest


def _squared_deviation(x: jax.Array, mean: jax.Array, rest: jax.Array | None) -> jax.Array:
    return lax.square(deviation(x, mean, rest))


def merged(over: Reduction, center: bool, mean: jax.Array, squares: jax.Array, size: int) -> Moments:
    """`moments` of an array of which those of parts with `size` elements each are known, merged after Chan et al. 1979.

    Args:
      over: of an array of `mean`'s shape, as of the whole one.
      center: see `moments`.
      mean, squares: means of the parts and sums of squared deviations from them, of one shape.
      size: number of elements of a part.
    """
    parts = 1
    for axis in over.axes:
        parts *= mean.shape[axis]
    own = jnp.full((1,) * mean.ndim, parts // over.groups // over.sub_batches, mean.dtype)
    number = over.over_devices(own)
    whole = over.total(mean) / number if center else jnp.zeros_like(number)
    return Moments(whole, over.total(squares / size + lax.square(mean - whole)) / number, number * size)


def normalize(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Returns (x - mean) / sqrt(var + epsilon) * scale + bias, computed in at least float32, in x's dtype.

    mean, var, scale and bias may have any shape that broadcasts to x: a scale per channel is the usual affine
    map, per example and channel a conditional one (AdaIN), per position a spatial one (SPADE).
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    factor = lax.rsqrt(aligned(var, x.ndim).astype(dtype) + epsilon)
    if scale is not None:
        factor = factor * aligned(scale, x.ndim).astype(dtype)
    y = (x.astype(dtype) - aligned(mean, x.ndim)) * factor
    if bias is not None:
        y = y + aligned(bias, x.ndim).astype(dtype)
    return y.astype(x.dtype)


def broadcastable(name: str, array: jax.Array | None, x: jax.Array) -> jax.Array | None:
    """Returns `array` with x's number of axes.

    Raises:
      ValueError: it does not broadcast to x; the message calls it `name`.
    """
    if array is None:
        return None
    try:
        fits = np.broadcast_shapes(array.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} of shape {array.shape} does not broadcast to the input's {x.shape}")
    return aligned(array, x.ndim)


def aligned(array: jax.Array, ndim: int) -> jax.Array:
    """Gives an array that broadcasts to `ndim` axes its leading axes of size 1."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)
