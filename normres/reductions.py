"""What a statistic is computed over: array axes, their parts, and the devices that share them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normres.elementwise import summed


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
        return self.total_of(_same, values)

    def own_total(self, values: jax.Array) -> jax.Array:
        """`total` of this device's values alone."""
        return self.own_total_of(_same, values)

    def total_of(self, function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None) -> jax.Array:
        """`total` of function(x, *others), see elementwise.summed."""
        return self.over_devices(self.own_total_of(function, x, *others))

    def own_total_of(self, function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None) -> jax.Array:
        """`total_of` this device's values alone."""
        parts = {axis: count for axis, count in self.parts().items() if x.shape[axis] > 1}
        # Split axes are summed last: a sum over the other axes runs along whole rows of channels.
        sums = summed(function, tuple(axis for axis in self.axes if axis not in parts), x, *others)
        for axis, count in parts.items():
            sums = _spread(jnp.sum(_split(sums, axis, count), axis + 1), axis, x.shape[axis] // count)
        return sums

    def over_devices(self, sums: jax.Array) -> jax.Array:
        """Sums over the devices."""
        if self.axis_name is None:
            return sums
        return lax.psum(sums, self.axis_name, axis_index_groups=self.axis_index_groups)

    def first(self, x: jax.Array) -> jax.Array:
        """Returns the first element of each part, in the shape of `total`; 0 where it is not finite."""
        parts = {axis: count for axis, count in self.parts().items() if x.shape[axis] > 1}
        for axis in self.axes:
            if axis in parts:
                of_each = lax.index_in_dim(_split(x, axis, parts[axis]), 0, axis + 1, keepdims=False)
                x = _spread(of_each, axis, x.shape[axis] // parts[axis])
            else:
                x = lax.index_in_dim(x, 0, axis)
        return jnp.where(jnp.isfinite(x), x, 0)

    def sample_mean(self, x: jax.Array) -> jax.Array:
        """Returns the mean of a first slice of each part, in the shape of `total`; 0 where it is not finite.

        In at least float32, like the statistics.
        """
        parts = self.parts()
        whole = [axis for axis in self.axes if axis not in parts]
        if whole:
            x = lax.index_in_dim(x, 0, whole[0])
        size = 1
        for axis in self.axes:
            size *= x.shape[axis] // parts.get(axis, 1)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        # As a first element plus what is left: a sum of large equal numbers would round.
        start = self.first(x)
        mean = start + self.own_total(x - start) / size
        return jnp.where(jnp.isfinite(mean), mean, 0)


def _same(values: jax.Array) -> jax.Array:
    return values


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
