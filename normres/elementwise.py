"""Elementwise passes over arrays with few channels, in the form that the CPU's compiler makes fast loops of.

XLA emits a loop per axis.  LLVM unrolls an innermost loop of 16 or 32 channels whole and then packs single operations,
which takes three to four times as long, in bfloat16 and in float32, as the vectorized loop over a long row.  So the
CPU gets the last two axes as one.  XLA would take the reshape to the other side of the operation and undo it, hence
the barriers, which move no data.  Other compilers get the operation as it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normres.devices import alike

LONG = 64  # innermost axes of this length and more are vectorized as they are


def elementwise(function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None) -> jax.Array:
    """Returns function(x, *others) of x's shape.

    Args:
      function: works element by element on arrays that broadcast, and takes None where `others` has it.
      x: of any shape.
      others: of x's number of axes, broadcastable to x, or None.
    """
    columns = x.shape[-2:]
    if x.ndim < 2 or x.shape[-1] >= LONG or x.shape[-2] == 1:
        return function(x, *others)
    per_row = ((1, 1), (1, columns[-1]), columns)
    if any(y is not None and y.shape[-2:] not in per_row for y in others):
        return function(x, *others)
    result: jax.Array = lax.platform_dependent(*alike(x, *others), cpu=partial(_in_rows, function), default=function)
    return result


def _in_rows(function: Callable[..., jax.Array], *arrays: jax.Array | None) -> jax.Array:
    shape = arrays[0].shape  # type: ignore[union-attr]

    def row(array: jax.Array | None) -> jax.Array | None:
        if array is None or array.shape[-2:] == (1, 1):
            return array if array is None else array.reshape(*array.shape[:-2], 1)
        return jnp.broadcast_to(array, (*array.shape[:-2], *shape[-2:])).reshape(*array.shape[:-2], -1)

    rows: Any = lax.optimization_barrier([row(array) for array in arrays])
    return lax.optimization_barrier(function(*rows)).reshape(shape)
