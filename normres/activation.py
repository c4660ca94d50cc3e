"""The rectifier, alone and after an addition, and the fork of a path: each in one pass, forward and backward.

Their gradients are read off the output, so that a step keeps one array for them and the next convolution.
Reverse mode only (jax.custom_vjp).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from normres.devices import alike
from normres.elementwise import elementwise


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0); the derivative at 0 is 0.

    Autodiff's gradient keeps a mask beside the output that the next convolution keeps anyway.
    """
    return elementwise(lambda x: jnp.maximum(x, 0), x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def rectified_gradient(y: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns what the rectifier, whose output is y, lets through of its output's gradient dy."""
    # A CPU selects among bfloat16 values one by one, which takes ten times as long as among float32 ones.
    wide = partial(_select, dtype=jnp.promote_types(dy.dtype, jnp.float32))
    in_rows, narrow = partial(elementwise, wide), partial(_select, dtype=dy.dtype)
    gradient: jax.Array = lax.platform_dependent(*alike(y, dy), cpu=in_rows, default=narrow)
    return gradient


def _select(y: jax.Array, dy: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(y.astype(dtype) > 0, dy.astype(dtype), 0).astype(dy.dtype)


relu.defvjp(_forward, lambda y, dy: (rectified_gradient(y, dy),))


def relu_of_sum(x: jax.Array, other: jax.Array) -> jax.Array:
    """Returns max(x + other, 0) of two arrays of one shape and dtype."""
    return _relu_of_sum(*alike(x, other))


@jax.custom_vjp
def _relu_of_sum(x: jax.Array, other: jax.Array) -> jax.Array:
    return elementwise(lambda x, other: jnp.maximum(x + other, 0), x, other)


def _forward_of_sum(x: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _relu_of_sum(x, other)
    return y, y


_relu_of_sum.defvjp(_forward_of_sum, lambda y, dy: (rectified_gradient(y, dy),) * 2)


@jax.custom_vjp
def fork(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns x twice, for two paths whose gradients are then added in one pass over rows."""
    return x, x


fork.defvjp(lambda x: ((x, x), None), lambda _, gradients: (elementwise(jnp.add, *alike(*gradients)),))
