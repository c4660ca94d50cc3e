"""Normalization as reduction axes: pure functions, arrays in, arrays out.

An image batch has the axes N (examples), S (all spatial axes) and C (channels), and C may be split into groups.  A
norm is which of these it averages over; `TABLE` is the list, and its rows are the documentation:

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

Statistics are computed in at least float32 whatever the input's dtype, by two passes (the mean first, then the mean
square of what is left), so that a large mean costs no digits of the variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count, which nobody needs here


@dataclass(frozen=True)
class Reduction:
    """What one statistic is computed over.

    Attributes:
      axes: array axes, none of them negative.
      groups: channel groups; read where `axes` contains `channel_axis`.
      channel_axis: not negative.
      axis_name: a pmap, vmap or shard_map axis whose members count as one array.
      axis_index_groups: only these groups of members count as one array.
    """

    axes: tuple[int, ...]
    groups: int = 1
    channel_axis: int = -1
    axis_name: str | None = None
    axis_index_groups: Any = None

    def total(self, values: jax.Array) -> jax.Array:
        """Sums over the axes, within the groups and over the devices; the result broadcasts against the input.

        An axis along which `values` is constant must be given at size 1 and is not multiplied by the true size.
        """
        grouped = self.groups > 1 and values.shape[self.channel_axis] > 1
        axes = tuple(axis for axis in self.axes if not (grouped and axis == self.channel_axis))
        # Channels are summed last: a sum over the other axes runs along whole rows of channels.
        sums = jnp.sum(values, axes, keepdims=True)
        if grouped:
            channel = self.channel_axis
            split = (*sums.shape[:channel], self.groups, -1, *sums.shape[channel + 1 :])
            members = sums.shape[channel] // self.groups
            sums = jnp.repeat(jnp.sum(sums.reshape(split), channel + 1), members, axis=channel)
        if self.axis_name is not None:
            sums = lax.psum(sums, self.axis_name, axis_index_groups=self.axis_index_groups)
        return sums


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


def reduction(
    x: jax.Array,
    axes: Sequence[int],
    *,
    groups: int = 1,
    channel_axis: int = -1,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
) -> Reduction:
    """Returns the Reduction of x (any rank) over `axes`, which may be negative.

    Raises:
      ValueError: no axes, an axis twice or out of range, groups that do not divide the channels, or complex x.
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"expected an array of real numbers, got one of {x.dtype}")
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
    return Reduction(found, groups if channel in found else 1, channel, axis_name, axis_index_groups)


def moments(
    x: jax.Array,
    axes: Sequence[int],
    *,
    groups: int = 1,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    center: bool = True,
) -> Moments:
    """Mean and biased variance over `axes`, in at least float32, by two passes.

    Args:
      x: array of any rank and floating dtype.
      axes: axes to average over.
      groups: split the channels into this many groups of neighbours, if `axes` contains `channel_axis`.
      channel_axis: where the channels stand.
      where: boolean, broadcastable to x; elements where it is False do not count.
      axis_name: a pmap, vmap or shard_map axis whose members count as one array, however many elements of each do.
      axis_index_groups: merge within these groups of the members only.
      center: if False, mean is zero and var is the mean square.

    Returns:
      Moments of size 1 along `axes` (along the channels of several groups: of full size, equal within a group).
      A reduction over no element gives mean 0 and variance 0.

    Raises:
      ValueError: see `reduction`.
    """
    over = reduction(
        x,
        axes,
        groups=groups,
        channel_axis=channel_axis,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
    )
    return reduced_moments(over, center, x, where)


def reduced_moments(over: Reduction, center: bool, x: jax.Array, where: jax.Array | None) -> Moments:
    """`moments` of a checked Reduction."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if where is None:
        size = 1
        for axis in over.axes:
            size *= x.shape[axis]
        count = jnp.full((1,) * x.ndim, size // over.groups, x.dtype)
        if over.axis_name is not None:
            count = lax.psum(count, over.axis_name, axis_index_groups=over.axis_index_groups)
    else:
        counted = jnp.broadcast_to(aligned(where, x.ndim), x.shape)
        count = over.total(counted.astype(x.dtype))
        # Not a product with zero: an element that does not count may be infinite.
        x = jnp.where(counted, x, 0)
    safe_count = jnp.maximum(count, 1)
    mean = over.total(x) / safe_count if center else jnp.zeros_like(safe_count)
    deviation = x - mean
    if where is not None:
        deviation = jnp.where(counted, deviation, 0)
    return Moments(mean, over.total(lax.square(deviation)) / safe_count, count)


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


def aligned(array: jax.Array, ndim: int) -> jax.Array:
    """Gives an array that broadcasts to `ndim` axes its leading axes of size 1."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def varying(array: jax.Array) -> frozenset[str]:
    """Returns the device axes over which an array differs, as shard_map's check (check_vma=True) knows them."""
    return frozenset(jax.typeof(array).manual_axis_type.varying)


def alike(*arrays: jax.Array | None) -> list[Any]:
    """Lets every array vary over the device axes over which any does, so that JAX sums its gradient over them.

    Changes no value.  For arguments of custom gradients, which must be of one kind where shard_map checks this.
    """
    every = frozenset[str]().union(*(varying(array) for array in arrays if array is not None))
    return [
        array
        if array is None or varying(array) == every
        else lax.pcast(array, tuple(every - varying(array)), to="varying")
        for array in arrays
    ]


def update_running(running: jax.Array, new: jax.Array, momentum: float) -> jax.Array:
    """Returns momentum * running + (1 - momentum) * new: `momentum` is the share of the old value that stays."""
    return momentum * running + (1 - momentum) * new
