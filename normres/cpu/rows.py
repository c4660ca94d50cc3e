"""Elementwise passes over arrays with few channels, and sums of them, in forms that the CPU's compiler makes fast.

XLA emits a loop per axis.  LLVM unrolls an innermost loop of 16 or 32 channels whole and then packs single operations,
which takes three to four times as long, in bfloat16 and in float32, as the vectorized loop over a long row.  So the
CPU gets the last two axes as one.  XLA would take the reshape to the other side of the operation and undo it, hence
the barriers, which move no data.

A sum it hands to a library, which reads float32 from memory: what is summed is written there first.  So the CPU gets
the sum over the rows of an image as additions, which are elementwise and read what is there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LONG = 64  # innermost axes of this length and more are vectorized as they are
ADDED = 32  # at most so many rows are added in one pass


def elementwise(function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None) -> jax.Array:
    """Returns function(x, *others) of x's shape.

    `function` works element by element on arrays that broadcast, and takes None where `others` has it; those have x's
    number of axes.
    """
    if x.ndim < 2 or x.shape[-1] >= LONG or x.shape[-2] == 1 or not _fit_rows(x, others):
        return function(x, *others)
    rows: Any = lax.optimization_barrier([_row(array, x.shape[-2:]) for array in (x, *others)])
    return lax.optimization_barrier(function(*rows)).reshape(x.shape)


def summed(
    function: Callable[..., jax.Array], axes: tuple[int, ...], x: jax.Array, *others: jax.Array | None
) -> jax.Array:
    """Returns the sum over `axes` (not negative) of function(x, *others), see `elementwise`; they become of size 1."""
    height = x.ndim - 3
    if height not in axes or _members(x.shape[height]) == 1 or not _fit_rows(x, others):
        return _plain_sum(function, axes, x, *others)
    return _sum(function, axes, x, *others)


def _plain_sum(function: Callable[..., jax.Array], axes: tuple[int, ...], *arrays: jax.Array | None) -> jax.Array:
    return jnp.sum(function(*arrays), axes, keepdims=True)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum(function: Callable[..., jax.Array], axes: tuple[int, ...], *arrays: Any) -> jax.Array:
    shape = arrays[0].shape
    members = _members(shape[-3])
    rows: Any = lax.optimization_barrier([_row(array, shape[-2:]) for array in arrays])

    def member(array: jax.Array | None, number: int) -> jax.Array | None:
        if array is None or array.shape[-2] == 1:
            return array
        return lax.slice_in_dim(array, number, None, members, axis=-2)

    total = function(*(member(array, 0) for array in rows))
    for number in range(1, members):
        total = total + function(*(member(array, number) for array in rows))
    total = lax.optimization_barrier(total)
    return jnp.sum(total.reshape(*shape[:-3], shape[-3] // members, *shape[-2:]), axes, keepdims=True)


@_sum.defjvp
def _sum_jvp(function: Callable[..., jax.Array], axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    """The gradient is the plain sum's: that of a sum of slices would be a sum of padded arrays."""
    return _sum(function, axes, *primals), jax.jvp(partial(_plain_sum, function, axes), primals, tangents)[1]


def _members(size: int) -> int:
    """Returns the largest divisor of an axis's size, up to ADDED."""
    return max(count for count in range(1, min(size, ADDED) + 1) if size % count == 0)


def _fit_rows(x: jax.Array, others: tuple[jax.Array | None, ...]) -> bool:
    """Returns whether every other array is constant along x's rows, periodic with its channels, or has whole rows."""
    per_row = ((1, 1), (1, x.shape[-1]), x.shape[-2:])
    return all(other is None or other.shape[-2:] in per_row for other in others)


def _row(array: jax.Array | None, columns: tuple[int, ...]) -> jax.Array | None:
    """Joins the last two axes, of sizes `columns` in the array that this one meets."""
    if array is None:
        return None
    if array.shape[-2:] == (1, 1):
        return array.reshape(*array.shape[:-2], 1)
    return jnp.broadcast_to(array, (*array.shape[:-2], *columns)).reshape(*array.shape[:-2], columns[0] * columns[1])
