"""A norm's statistics and its factor, from the moments of each example and channel.

These are a dozen sums and products of small arrays, of each of which XLA makes a loop that takes half a megabyte to
compile.  On the CPU all are one piece of C++ code (native/statistics.h); elsewhere, and where they are differentiated
twice, they are the plain composition, `_composed`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from normres.deferred import absent, call, given
from normres.devices import alike
from normres.moments import Moments, aligned, merged
from normres.reductions import Reduction

# What XLA calls the C++ code, once native.load() has brought it.
STATISTICS_TARGET, STATISTICS_BACKWARD_TARGET = "normres_statistics", "normres_statistics_gradients"


class _Static(NamedTuple):
    over: Reduction
    center: bool
    size: int
    epsilon: float


def statistics(
    over: Reduction,
    center: bool,
    mean: jax.Array,
    squares: jax.Array,
    scale: jax.Array | None,
    size: int,
    epsilon: float,
) -> tuple[Moments, jax.Array, jax.Array]:
    """Returns the moments, as moments.merged does, and scale / sqrt(var + epsilon).

    Args:
      over: of an array of the shape (N, 1, 1, C).
      center: if False, mean is zero and var is the mean square.
      mean, squares: of each example and channel, and the sum of squared deviations from it, float32 (N, 1, 1, C).
      scale: float32 (C,) or None.
      size: number of elements behind each.
      epsilon: added to the variance.

    Returns:
      The moments, and mean and factor for each channel, (N, 1, 1, C) or (1, 1, 1, C).
    """
    static = _Static(over, center, size, epsilon)
    mean, squares, scale = alike(mean, squares, scale)
    of_other_dtype = any(of is not None and of.dtype != jnp.float32 for of in (mean, squares, scale))
    plain = over.axis_name is not None or of_other_dtype
    own_mean, var, factor = (_spread if plain else _statistics)(static, mean, squares, scale)
    # As moments.merged gives them, of size 1 where all channels are one part; what does not depend on them is its.
    own = slice(1) if 3 in over.axes and over.groups == 1 else slice(None)
    known = merged(over, center, mean, squares, size)
    return Moments(own_mean[..., own] if center else known.mean, var[..., own], known.count), own_mean, factor


def _composed(static: _Static, mean: jax.Array, squares: jax.Array, scale: jax.Array | None) -> tuple[jax.Array, ...]:
    found = merged(static.over, static.center, mean, squares, static.size)
    factor = lax.rsqrt(found.var + static.epsilon)
    return found.mean, found.var, factor if scale is None else factor * aligned(scale, mean.ndim)


def _shape(over: Reduction, mean: Any) -> tuple[int, ...]:
    """Returns the shape of the C++ code's results: a row for all examples, or one for each."""
    return (1 if 0 in over.axes and over.sub_batches == 1 else mean.shape[0], 1, 1, mean.shape[-1])


def _attributes(static: _Static, mean: Any) -> dict[str, Any]:
    """Returns into how many parts of equal statistics the examples and the channels divide, and what else it takes."""
    over = static.over
    return {
        "batches": np.int64(over.sub_batches if 0 in over.axes else max(mean.shape[0], 1)),
        "groups": np.int64(over.groups if 3 in over.axes else mean.shape[-1]),
        "size": np.int64(static.size),
        "center": static.center,
        "epsilon": np.float32(static.epsilon),
    }


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _statistics(static: _Static, mean: Any, squares: Any, scale: Any) -> tuple[jax.Array, ...]:
    arrays = (mean, squares, scale)
    found = lax.platform_dependent(*arrays, cpu=partial(_native, static), default=partial(_spread, static))
    return tuple(found)


def _spread(static: _Static, mean: jax.Array, squares: jax.Array, scale: jax.Array | None) -> tuple[jax.Array, ...]:
    """`_composed` in the shape that the C++ code gives."""
    found = _composed(static, mean, squares, scale)
    return tuple(jnp.broadcast_to(of, _shape(static.over, mean)) for of in found)


def _native(static: _Static, mean: jax.Array, squares: jax.Array, scale: jax.Array | None) -> tuple[jax.Array, ...]:
    result = jax.ShapeDtypeStruct(_shape(static.over, mean), jnp.float32)
    arrays = (mean, squares, given(scale, jnp.float32))
    return tuple(call(STATISTICS_TARGET, (result,) * 3, arrays, _attributes(static, mean)))


def _forward(static: _Static, mean: Any, squares: Any, scale: Any) -> tuple[tuple[jax.Array, ...], Any]:
    arrays = [None if of is None else of.value for of in (mean, squares, scale)]
    found = _statistics(static, *arrays)
    return found, (arrays, found[:2])


def _backward(static: _Static, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    arrays, found = residuals
    wanted = [None if isinstance(of, SymbolicZero) else of for of in cotangents]
    return tuple(_gradients(static, *alike(*arrays, *found, *wanted)))


_statistics.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(static: _Static, *arrays: Any) -> Any:
    """Returns the gradients of mean, squares and scale; `arrays`: these, mean and var found, and three cotangents."""
    native, composed = partial(_native_gradients, static), partial(_composed_gradients, static)
    return lax.platform_dependent(*arrays, cpu=native, default=composed)


def _composed_gradients(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    primals, cotangents = arrays[:3], arrays[5:]
    found, backward = jax.vjp(partial(_spread, static), *primals)
    return backward(tuple(jnp.zeros_like(of) if d is None else d for of, d in zip(found, cotangents, strict=True)))


def _native_gradients(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    mean, squares, scale, *others = arrays
    like = [jax.ShapeDtypeStruct(of.shape, of.dtype) for of in (mean, squares)]
    results = (*like, absent(jnp.float32) if scale is None else jax.ShapeDtypeStruct(scale.shape, scale.dtype))
    inputs = (mean, given(scale, jnp.float32), *(given(of, jnp.float32) for of in others))
    d_mean, d_squares, d_scale = call(STATISTICS_BACKWARD_TARGET, results, inputs, _attributes(static, mean))
    return d_mean, d_squares, None if scale is None else d_scale


def _gradients_forward(static: _Static, *arrays: Any) -> Any:
    return _gradients(static, *arrays), arrays


def _gradients_backward(static: _Static, arrays: Any, cotangents: Any) -> Any:
    """The derivative of a gradient is the composition's, in which what was found follows from the others."""
    return jax.vjp(partial(_composed_gradients, static), *arrays)[1](tuple(cotangents))


_gradients.defvjp(_gradients_forward, _gradients_backward)
