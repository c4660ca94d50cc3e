"""Moments over any axes: what every normalization starts from, exact under masks, on several devices and far from zero.

Statistics are in at least float32 whatever the input's dtype.  The variance is never E[x^2] - E[x]^2, which loses it
under a large mean: it takes two passes (the mean first, then the mean square of what is left), or one pass over
values that were shifted near zero by the mean of a few of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Moments(NamedTuple):
    """Mean, biased variance and number of elements of a reduction, each broadcastable to the input."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count, which nobody needs here


@dataclass(frozen=True)
class Reduction:
    """What one statistic is computed over, and how.

    Attributes:
      axes: array axes, none of them negative.
      groups: channel groups; read where `axes` contains `channel_axis`.
      sub_batches: equal parts of axis 0, in order, with statistics of their own; read where `axes` contains 0.
      channel_axis: not negative.
      axis_name: a pmap, vmap or shard_map axis whose members count as one array.
      axis_index_groups: only these groups of members count as one array.
      one_pass: the variance by one pass over shifted values instead of two.
    """

    axes: tuple[int, ...]
    groups: int = 1
    sub_batches: int = 1
    channel_axis: int = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    one_pass: bool = False

    def parts(self) -> dict[int, int]:
        """Returns the axes that are split, and into how many parts."""
        split = {0: self.sub_batches, self.channel_axis: self.groups}
        return {axis: count for axis, count in split.items() if count > 1}

    def total(self, values: jax.Array) -> jax.Array:
        """Sums over the axes, within the parts and over the devices; the result broadcasts against the input.

        An axis along which `values` is constant must be given at size 1 and is not multiplied by the true size.
        """
        return self.over_devices(self.own_total(values))

    def own_total(self, values: jax.Array) -> jax.Array:
        """`total` of this device's values alone."""
        parts = {axis: count for axis, count in self.parts().items() if values.shape[axis] > 1}
        # Split axes are summed last: a sum over the other axes runs along whole rows of channels.
        sums = jnp.sum(values, tuple(axis for axis in self.axes if axis not in parts), keepdims=True)
        for axis, count in parts.items():
            sums = _spread(jnp.sum(_split(sums, axis, count), axis + 1), axis, values.shape[axis] // count)
        return sums

    def over_devices(self, sums: jax.Array) -> jax.Array:
        """Sums over the devices."""
        if self.axis_name is None:
            return sums
        return lax.psum(sums, self.axis_name, axis_index_groups=self.axis_index_groups)

    def sample_mean(self, x: jax.Array) -> jax.Array:
        """Returns the mean of a first slice of each part, in the shape of `total`; 0 where it is not finite."""
        parts = self.parts()
        whole = [axis for axis in self.axes if axis not in parts]
        if whole:
            x = lax.index_in_dim(x, 0, whole[0])
        size = 1
        for axis in self.axes:
            size *= x.shape[axis] // parts.get(axis, 1)
        mean = self.own_total(x) / size
        return jnp.where(jnp.isfinite(mean), mean, 0)


def _split(values: jax.Array, axis: int, count: int) -> jax.Array:
    return values.reshape((*values.shape[:axis], count, -1, *values.shape[axis + 1 :]))


def _spread(values: jax.Array, axis: int, members: int) -> jax.Array:
    return jnp.repeat(values, members, axis=axis)


def reduction_axes(over: str, ndim: int, channel_axis: int = -1) -> tuple[int, ...]:
    """Turns letters into axis numbers: N is axis 0, C is `channel_axis`, S is every other axis.

    W, H and D name single spatial axes: the last, the one before it, and the one before that.

    Raises:
      ValueError: another letter, an axis named twice or absent, or a channel axis out of range.
    """
    if not -ndim <= channel_axis < ndim or channel_axis % ndim == 0:
        raise ValueError(f"channel_axis={channel_axis} does not fit an array of {ndim} axes, of which 0 is N")
    channel_axis %= ndim
    spatial = tuple(axis for axis in range(1, ndim) if axis != channel_axis)
    meaning = {"N": (0,), "C": (channel_axis,), "S": spatial}
    meaning |= {letter: (axis,) for letter, axis in zip("WHD", reversed(spatial), strict=False)}
    absent = sorted(set(over) - set(meaning))
    if absent:
        raise ValueError(f"over={over!r}: an array of {ndim} axes has no {absent[0]!r}; choices: {', '.join(meaning)}")
    axes = [axis for letter in over for axis in meaning[letter]]
    if len(set(axes)) != len(axes):
        raise ValueError(f"over={over!r} names an axis twice")
    return tuple(sorted(axes))


def reduction(
    x: jax.Array,
    axes: Sequence[int],
    *,
    groups: int = 1,
    sub_batches: int = 1,
    channel_axis: int = -1,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    one_pass: bool = False,
) -> Reduction:
    """Returns the Reduction of x (any rank) over `axes`, which may be negative; see `moments`.

    Raises:
      ValueError: no axes, an axis twice or out of range, groups that do not divide the channels or sub-batches the
        examples, or x that is not of floating-point numbers.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected an array of real floating-point numbers, got one of {x.dtype}")
    if not axes:
        raise ValueError(f"there is no axis to average over in an array of shape {x.shape}")
    outside = [axis for axis in (*axes, channel_axis) if not -x.ndim <= axis < x.ndim]
    if outside:
        raise ValueError(f"axis {outside[0]} is out of range for an array of {x.ndim} axes")
    found = tuple(sorted(axis % x.ndim for axis in axes))
    if len(set(found)) != len(found):
        raise ValueError(f"axes={tuple(axes)} name an axis twice in an array of {x.ndim} axes")
    channel = channel_axis % x.ndim
    if groups < 1 or x.shape[channel] % groups:
        raise ValueError(f"groups={groups} does not divide {x.shape[channel]} channels")
    if sub_batches < 1 or x.shape[0] % sub_batches:
        raise ValueError(f"sub_batches={sub_batches} does not divide {x.shape[0]} examples")
    return Reduction(
        axes=found,
        groups=groups if channel in found else 1,
        sub_batches=sub_batches if 0 in found else 1,
        channel_axis=channel,
        axis_name=axis_name,
        # Hashable, for it becomes part of a function that is differentiated.
        axis_index_groups=axis_index_groups and tuple(tuple(group) for group in axis_index_groups),
        one_pass=one_pass,
    )


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
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if where is None:
        counted = None
        size = 1
        for axis in over.axes:
            size *= x.shape[axis]
        own_count = jnp.full((1,) * x.ndim, size // over.groups // over.sub_batches, x.dtype)
    else:
        counted = jnp.broadcast_to(where, x.shape)
        own_count = over.own_total(counted.astype(x.dtype))
        # Not a product with zero: an element that does not count may be infinite.
        x = jnp.where(counted, x, 0)
    count = over.over_devices(own_count)
    safe_count = jnp.maximum(count, 1)
    if over.one_pass and center and counted is None:
        return _by_one_pass(over, x, own_count, count)
    mean = over.total(x) / safe_count if center else jnp.zeros_like(safe_count)
    deviation = x - mean if counted is None else jnp.where(counted, x - mean, 0)
    return Moments(mean, over.total(lax.square(deviation)) / safe_count, count)


def _by_one_pass(over: Reduction, x: jax.Array, own_count: jax.Array, count: jax.Array) -> Moments:
    """Sums x - shift and its square together, and merges devices by (count, mean, M2), Chan et al. 1979."""
    shift = lax.stop_gradient(over.sample_mean(x))
    own = over.own_total(x - shift) / own_count
    squares = jnp.maximum(over.own_total(lax.square(x - shift)) - own_count * lax.square(own), 0)
    own_mean = shift + own
    if over.axis_name is None:
        return Moments(own_mean, squares / own_count, count)
    mean = over.over_devices(own_count * own_mean) / count
    merged = over.over_devices(squares + own_count * lax.square(own_mean - mean))
    return Moments(mean, merged / count, count)


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
