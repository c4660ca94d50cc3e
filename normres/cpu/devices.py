"""Over which device axes an array differs, for functions whose gradients are written out.

shard_map with check_vma=True knows of every array over which axes it varies; gradients are summed over the others.
"""

from typing import Any

import jax
from jax import lax


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
