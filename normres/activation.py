"""The rectifier, whose gradient is read off its output, so that a step keeps one array for it and the convolution."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from normres.devices import alike
from normres.elementwise import elementwise


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0); the derivative at 0 is 0.  Reverse mode only (jax.custom_vjp).

    Autodiff's gradient keeps a mask beside the output that the next convolution keeps anyway.
    """
    return elementwise(lambda x: jnp.maximum(x, 0), x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    # A CPU selects among bfloat16 values one by one, which takes ten times as long as among float32 ones.
    wide = partial(_select, dtype=jnp.promote_types(dy.dtype, jnp.float32))
    in_rows, narrow = partial(elementwise, wide), partial(_select, dtype=dy.dtype)
    return (lax.platform_dependent(*alike(y, dy), cpu=in_rows, default=narrow),)


def _select(y: jax.Array, dy: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(y.astype(dtype) > 0, dy.astype(dtype), 0).astype(dy.dtype)


relu.defvjp(_forward, _backward)
