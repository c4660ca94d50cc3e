"""Normalization as reduction axes: pure functions, arrays in, arrays out.

An image batch has the axes N (examples), S (all spatial axes) and C (channels), and C may be split into groups.  A
norm is which of these it averages over; `TABLE` is the list, and its rows are the documentation:

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

Statistics are computed in at least float32 whatever the input's dtype, by two passes (the mean first, then the mean
square of what is left), so that a large mean costs no digits of the variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class NormSpec:
    """A normalization: the axes it averages over, and three switches.

    Attributes:
      over: letters out of N (examples), S (every spatial axis), C (channels, or the channels of one group).
      grouped: whether C is split into groups with statistics of their own.
      center: whether the mean is subtracted; without, the "variance" is the mean square.
      running: whether evaluation uses running averages instead of the input's own statistics.
    """

    over: str
    grouped: bool = False
    center: bool = True
    running: bool = False


# To add a norm, add a row.  It can then be named in a config.
TABLE: dict[str, NormSpec] = {
    # Ioffe, Szegedy 2015, arXiv 1502.03167: statistics per channel.
    "batch": NormSpec(over="NS", running=True),
    # Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022: per example and channel.
    "instance": NormSpec(over="S"),
    # Ba, Kiros, Hinton 2016, arXiv 1607.06450: per example.
    "layer": NormSpec(over="SC"),
    # Wu, He 2018, arXiv 1803.08494: per example and group of channels.
    "group": NormSpec(over="SC", grouped=True),
    # Zhang, Sennrich 2019, arXiv 1910.07467: layer norm that does not centre.
    "rms": NormSpec(over="SC", center=False),
}


class Moments(NamedTuple):
    """Mean, biased variance and number of elements of a reduction, each broadcastable to the input."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array


def reduction_axes(over: str, ndim: int, channel_axis: int = -1) -> tuple[int, ...]:
    """Turns letters into axis numbers: N is axis 0, C is `channel_axis`, S is every other axis.

    Raises:
      ValueError: a letter that is not N, S or C, a letter given twice, or a channel axis out of range.
    """
    if not -ndim <= channel_axis < ndim or channel_axis % ndim == 0:
        raise ValueError(f"channel_axis={channel_axis} does not fit an array of {ndim} axes, of which 0 is N")
    channel_axis %= ndim
    meaning = {
        "N": (0,),
        "C": (channel_axis,),
        "S": tuple(axis for axis in range(1, ndim) if axis != channel_axis),
    }
    if len(set(over)) != len(over) or not set(over) <= set(meaning):
        raise ValueError(f"over={over!r}: expected letters out of N, S and C, each at most once")
    return tuple(sorted(axis for letter in over for axis in meaning[letter]))


def moments(
    x: jax.Array,
    axes: Sequence[int],
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    center: bool = True,
) -> Moments:
    """Mean and biased variance over `axes`, in at least float32, by two passes.

    Args:
      x: array of any rank and floating dtype.
      axes: axes to average over.
      where: boolean, broadcastable to x; elements where it is False do not count.
      axis_name: a pmap, vmap or shard_map axis whose members are merged, by count, as if they were one array.
      axis_index_groups: merge within these groups of the members only.
      center: if False, mean is zero and var is the mean square.

    Returns:
      Moments whose arrays have size 1 along `axes`.  A reduction over no element gives mean 0 and variance 0.
    """
    axes = tuple(sorted(axis % x.ndim for axis in axes))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if where is None:
        size = 1
        for axis in axes:
            size *= x.shape[axis]
        count = jnp.full((1,) * x.ndim, size, x.dtype)
    else:
        where = jnp.broadcast_to(where, x.shape)
        count = jnp.sum(where, axes, keepdims=True, dtype=x.dtype)
    safe_count = jnp.maximum(count, 1)

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(values, axes, keepdims=True, where=where)

    if not center:
        mean_square = total(lax.square(x)) / safe_count
        merged = Moments(jnp.zeros_like(mean_square), mean_square, count)
    else:
        mean = total(x) / safe_count
        merged = Moments(mean, total(lax.square(x - mean)) / safe_count, count)
    if axis_name is None:
        return merged
    return _merge_members(merged, axis_name, axis_index_groups, center)


def _merge_members(
    part: Moments, axis_name: str, groups: Sequence[Sequence[int]] | None, center: bool
) -> Moments:
    """Merges the members' (count, mean, M2) exactly, so unequal counts are right (Chan et al. 1979)."""

    def total(values: jax.Array) -> jax.Array:
        return lax.psum(values, axis_name, axis_index_groups=groups)

    count = total(part.count)
    safe_count = jnp.maximum(count, 1)
    mean = total(part.count * part.mean) / safe_count if center else part.mean
    # M2 about the common mean: each member's own, plus its count times its mean's squared distance.
    var = total(part.count * (part.var + lax.square(part.mean - mean))) / safe_count
    return Moments(mean, var, count)


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
    factor = lax.rsqrt(var.astype(dtype) + epsilon)
    if scale is not None:
        factor = factor * scale.astype(dtype)
    y = (x.astype(dtype) - mean) * factor
    if bias is not None:
        y = y + bias.astype(dtype)
    return y.astype(x.dtype)


def statistics(
    x: jax.Array,
    spec: NormSpec,
    *,
    groups: int = 1,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> Moments:
    """Returns the moments that `spec` normalizes x with, each broadcastable to x.

    Args:
      x: (N, ..., C) of any rank from 2, channels at `channel_axis`.
      spec: a row of TABLE, or any NormSpec.
      groups: number of channel groups, read if spec.grouped.
      channel_axis: where C stands.
      where: boolean, broadcastable to x; False elements do not count.
      axis_name: device axis to merge over, see `moments`.

    Raises:
      ValueError: nothing to average over, or groups that do not divide the channels.
    """
    axes = reduction_axes(spec.over, x.ndim, channel_axis)
    if not axes:
        raise ValueError(f"over={spec.over!r} leaves nothing to average over in an array of {x.ndim} axes")
    if not spec.grouped:
        return moments(x, axes, where=where, axis_name=axis_name, center=spec.center)
    return grouped_moments(
        x, axes, groups, channel_axis, where=where, axis_name=axis_name, center=spec.center
    )


def grouped_moments(
    x: jax.Array,
    axes: Sequence[int],
    groups: int,
    channel_axis: int = -1,
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    center: bool = True,
) -> Moments:
    """Moments over `axes`, where C at `channel_axis` is split into `groups` groups of neighbours.

    Returns:
      Moments with one value per channel along `channel_axis`, equal within a group, so broadcastable to x.

    Raises:
      ValueError: groups do not divide the channels.
    """
    channel = channel_axis % x.ndim
    size = x.shape[channel]
    if groups < 1 or size % groups:
        raise ValueError(f"groups={groups} does not divide {size} channels")

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(*array.shape[:channel], groups, size // groups, *array.shape[channel + 1 :])

    # The split puts a new axis after the channel axis: the groups stay at `channel`, the members follow.
    split_axes = []
    for axis in (axis % x.ndim for axis in axes):
        split_axes.append(axis if axis < channel else axis + 1)
    if where is not None:
        where = split(jnp.broadcast_to(where, x.shape))
    grouped = moments(
        split(x),
        split_axes,
        where=where,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        center=center,
    )

    def join(array: jax.Array) -> jax.Array:
        shape = list(array.shape)
        members = size // groups if shape[channel] == groups else 1
        return jnp.repeat(jnp.squeeze(array, channel + 1), members, axis=channel)

    return Moments(*(join(array) for array in grouped))


def normalization(
    x: jax.Array,
    spec: NormSpec,
    *,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    groups: int = 1,
    epsilon: float = 1e-5,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Normalizes x with its own statistics: `statistics`, then `normalize`.  x (N, ..., C) -> y of x's shape."""
    found = statistics(
        x, spec, groups=groups, channel_axis=channel_axis, where=where, axis_name=axis_name
    )
    return normalize(x, found.mean, found.var, scale=scale, bias=bias, epsilon=epsilon)


def update_running(running: jax.Array, new: jax.Array, momentum: float) -> jax.Array:
    """Returns momentum * running + (1 - momentum) * new: `momentum` is the share of the old value that stays."""
    return momentum * running + (1 - momentum) * new
