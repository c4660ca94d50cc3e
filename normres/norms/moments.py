"""Mean and variance over any axes: exact under masks, over several devices and for a large mean.

Statistics are in at least float32.  E[x^2] - E[x]^2 would lose all digits of the variance under a large mean.  With any
shift s near the mean,

    d = x - s,   rest = E[d],   mean = s + rest,   var = E[d^2] - rest^2,

where rest is small, so that nothing is lost.  The shift is the mean of a first pass over x, with its rounding error;
bfloat16 needs no shift, see deviation_and_moments.  Mean and variance do not depend on s, so s gets no gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

STATISTICS = "statistics"  # their name in jax.checkpoint's policies


class Moments(NamedTuple):
    """Mean, biased variance and number of elements of a reduction, each broadcastable to the input."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count, which nobody needs here


class Deviation(NamedTuple):
    """x - mean in two parts, (x - shift) - rest, so that a form can merge `rest` into its bias."""

    shifted: jax.Array  # of x's shape
    rest: jax.Array  # of the mean's

    def whole(self) -> jax.Array:
        """Returns x - mean, more exact than x - moments.mean: float32 rounds a mean of 1e6 by up to 0.03."""
        return self.shifted - self.rest


@dataclass(frozen=True)
class Reduction:
    """What a statistic is computed over.

    Attributes:
      axes: array axes to average over; with none, every element is its own mean.
      parts: pairs (axis, count): `axis`, one of `axes`, is split into `count` blocks, each with its own statistics:
        groups of channels, sub-batches of examples.
      var_axes: axes of the variance, which contain `axes`; () = `axes`.
      center: whether the mean is subtracted; without, mean is zero and var is the mean square.
      axis_name: a pmap, vmap or shard_map axis whose members' arrays count as one; a mask may differ on each.
      axis_index_groups: as in lax.psum: the groups of devices that are merged; None = all.
    """

    axes: tuple[int, ...]
    parts: tuple[tuple[int, int], ...] = ()
    var_axes: tuple[int, ...] = ()
    center: bool = True
    axis_name: str | None = None
    axis_index_groups: Any = None

    def total(self, values: jax.Array) -> jax.Array:
        """Sums over the axes, within each part, and over the devices; the result broadcasts against `values`."""
        return self.over_parts(jnp.sum(values, self.whole_axes, keepdims=True))

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """Returns the axes that are not split."""
        return tuple(axis for axis in self.axes if axis not in dict(self.parts))

    def over_parts(self, sums: jax.Array) -> jax.Array:
        """Makes a total of sums over the axes that are not split."""
        for axis, count in self.parts:
            sums = unsharded(sums, axis)
            apart = sums.reshape(*sums.shape[:axis], count, sums.shape[axis] // count, *sums.shape[axis + 1 :])
            sums = jnp.broadcast_to(jnp.sum(apart, axis + 1, keepdims=True), apart.shape).reshape(sums.shape)
        return self.over_devices(sums)

    def over_devices(self, sums: jax.Array) -> jax.Array:
        """Sums over the devices."""
        if self.axis_name is None:
            return sums
        return lax.psum(sums, self.axis_name, axis_index_groups=self.axis_index_groups)

    def count(self, x: jax.Array, where: jax.Array | None, dtype: Any) -> jax.Array:
        """Returns the number of elements behind each statistic, broadcastable to x."""
        if where is not None:
            return self.total(jnp.broadcast_to(where, x.shape).astype(dtype))
        size = 1
        for axis in self.axes:
            size = size * (x.shape[axis] // dict(self.parts).get(axis, 1))
        return self.over_devices(jnp.asarray(size, dtype).reshape((1,) * x.ndim))


def moments(
    x: jax.Array,
    axes: Sequence[int],
    *,
    parts: Mapping[int, int] | None = None,
    var_axes: Sequence[int] = (),
    center: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
) -> Moments:
    """Mean and biased variance over `axes`, in at least float32.

    Args:
      x: array of any rank and floating dtype.
      axes: axes to average over; negative ones count from the end.
      parts, var_axes, center, axis_name, axis_index_groups: see Reduction.
      where: boolean, broadcastable to x; elements where it is False do not count.

    Returns:
      Moments of size 1 along `axes` (of full size along split axes: equal within a part).
      A reduction over no element gives mean 0 and variance 0.

    Raises:
      ValueError: an axis that is named twice or out of range, parts that do not divide it, a mask that does not
        broadcast, or x that is not of floating-point numbers.
    """
    devices = {"axis_name": axis_name, "axis_index_groups": axis_index_groups}
    over = reduction(x, axes, parts, var_axes, center=center, **devices)
    return deviation_and_moments(x, over, mask_for(x, where))[1]


def reduction(
    x: jax.Array, axes: Sequence[int], parts: Mapping[int, int] | None, var_axes: Sequence[int] = (), **options: Any
) -> Reduction:
    """Returns the checked Reduction of x over `axes`; see `moments` for the errors."""
    check_floating(x)

    def checked(axes: Sequence[int]) -> tuple[int, ...]:
        if outside := [axis for axis in axes if not -x.ndim <= axis < x.ndim]:
            raise ValueError(f"axis {outside[0]} is out of range for an array of {x.ndim} axes")
        positive = tuple(sorted(axis % x.ndim for axis in axes))
        if len(set(positive)) != len(positive):
            raise ValueError(f"axes={tuple(axes)} name an axis twice in an array of {x.ndim} axes")
        return positive

    known, wider = checked(axes), checked(var_axes)
    if wider and not set(known) <= set(wider):
        raise ValueError(f"var_axes={wider} do not contain axes={known}")
    split = {axis % x.ndim: count for axis, count in (parts or {}).items() if axis % x.ndim in known and count != 1}
    for axis, count in split.items():
        if count < 1 or x.shape[axis] % count:
            raise ValueError(f"{count} parts do not divide axis {axis} of size {x.shape[axis]}")
    return Reduction(known, tuple(sorted(split.items())), wider, **options)


def deviation_and_moments(x: jax.Array, over: Reduction, where: jax.Array | None = None) -> tuple[Deviation, Moments]:
    """Returns x - mean, in at least float32, and the moments."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, given_dtype = cleaned(x.astype(dtype), where), x.dtype
    # This device's part; `merged` adds the others.  Its sums are saved, so that a loop's backward pass keeps them.
    local = replace(over, axis_name=None)

    def total(values: jax.Array) -> jax.Array:
        # Not a product with zero: an element that does not count may be infinite.
        return local.total(values if where is None else jnp.where(where, values, 0))

    count = saved(local.count(x, where, dtype))
    shifted, shift, rest = x, jnp.zeros_like(count), jnp.zeros_like(count)
    if over.center:
        # Rounding x to bfloat16 has added a variance of about E[x]^2 / 2^18.  E[x^2] - E[x]^2 in float32 loses only
        # E[x]^2 / 2^24.  So one pass is enough, and the compiler can fuse it with what computes x.  Where nearly all
        # numbers are equal, rounding has added less, and one pass does lose digits.
        if given_dtype != jnp.bfloat16:
            shift = saved(lax.stop_gradient(total(x) / jnp.maximum(count, 1)))
        shifted = x - shift
        rest = saved(total(shifted) / jnp.maximum(count, 1))
    squares = saved(total(lax.square(shifted)) - count * lax.square(rest))
    mean = shift + rest if over.center else jnp.zeros_like(squares)
    if over.axis_name is not None:
        count, mean, squares, rest = merged(over, count, shift, rest, squares)
    var_count = jnp.maximum(count, 1)
    if over.var_axes:
        others = tuple(axis for axis in over.var_axes if axis not in over.axes)
        each = jnp.sum(jnp.broadcast_to(count, squares.shape), others, keepdims=True)
        squares, var_count = jnp.sum(squares, others, keepdims=True), jnp.maximum(each, 1)
    # Not jnp.maximum(squares, 0): its gradient at 0 is one half.
    squares = jnp.where(squares < 0, 0, squares)
    return Deviation(shifted, rest), Moments(mean, squares / var_count, count)


def saved(sums: jax.Array) -> jax.Array:
    """Names sums over x, so that jax.checkpoint can keep them: they are small, and x is not."""
    return checkpoint_name(sums, STATISTICS)


def merged(
    over: Reduction, count: jax.Array, shift: jax.Array, rest: jax.Array, squares: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Merges the devices' statistics by one all-reduce (Chan, Golub, LeVeque 1979).

    Device k has mean_k = shift_k + rest_k and squares_k, the sum of its squared deviations from mean_k:

        squares = sum of (squares_k + count_k (mean_k - mean)^2).

    Returns count, mean and squares of all devices, equal on each, and mean - shift_k, the new rest of this device.
    """
    # Each device fills its own row of a stack of zeros; the sum over the devices then has every row.
    own = jnp.stack(jnp.broadcast_arrays(count, shift, rest, squares))
    size = lax.psum(1, over.axis_name)
    mine = (jnp.arange(size) == lax.axis_index(over.axis_name)).reshape(-1, *(1,) * own.ndim)
    everyone = saved(lax.psum(jnp.where(mine, own, 0), over.axis_name, axis_index_groups=over.axis_index_groups))
    counts, shifts, rests, all_squares = jnp.moveaxis(everyone, 1, 0)
    count = counts.sum(0)
    safe_count = jnp.maximum(count, 1)
    mean_shift = lax.stop_gradient((counts * shifts).sum(0) / safe_count)
    offsets = shifts - mean_shift[None] + rests
    rest = (counts * offsets).sum(0) / safe_count
    squares = (all_squares + counts * lax.square(offsets - rest[None])).sum(0)
    return count, mean_shift + rest, squares, mean_shift - shift + rest


def unsharded(array: jax.Array, axis: int) -> jax.Array:
    """Returns the array with `axis` replicated on all devices; without explicit mesh axes, the array itself."""
    spec = jax.typeof(array).sharding.spec
    if spec[axis] is None:
        return array
    return jax.reshard(array, PartitionSpec(*spec[:axis], None, *spec[axis + 1 :]))


def cleaned(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Sets non-finite elements that the mask excludes to 0; their gradient would be 0 * inf = NaN."""
    return x if where is None else jnp.where(where | jnp.isfinite(x), x, 0)


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
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # complex numbers too, as Flax's norms
        raise ValueError(f"expected an array of floating-point numbers, got one of {x.dtype}")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    factor = lax.rsqrt(aligned(var, x.ndim).astype(dtype) + epsilon)
    if scale is not None:
        factor = factor * aligned(scale, x.ndim).astype(dtype)
    y = (x.astype(dtype) - aligned(mean, x.ndim)) * factor
    if bias is not None:
        y = y + aligned(bias, x.ndim).astype(dtype)
    return y.astype(x.dtype)


def check_floating(x: jax.Array) -> None:
    """Raises ValueError if x is not of real floating-point numbers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected an array of real floating-point numbers, got one of {x.dtype}")


def broadcastable(name: str, array: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `array` with x's number of axes.

    Raises:
      ValueError: it does not broadcast to x; the message calls it `name`.
    """
    shape = (1,) * (x.ndim - np.ndim(array)) + np.shape(array)
    # Sizes may be symbols (jax.export), which can be compared but not sorted or broadcast by NumPy.
    if len(shape) != x.ndim or any(own != 1 and own != size for own, size in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{name} of shape {np.shape(array)} does not broadcast to the input's {x.shape}")
    return aligned(array, x.ndim)


def mask_for(x: jax.Array, where: Any, name: str = "where") -> jax.Array | None:
    """Returns a mask as booleans that broadcast to x; for None, None."""
    return None if where is None else broadcastable(name, jnp.asarray(where, bool), x)


def aligned(array: Any, ndim: int) -> jax.Array:
    """Puts axes of size 1 before those of an array until it has `ndim`."""
    array = jnp.asarray(array)
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)
