"""The rectifier, with a gradient that is read off its output: a step keeps one array for it and the next convolution.

Reverse mode only (jax.custom_vjp).
"""

from functools import partial

import jax
import jax.numpy as jnp

from normres.cpu.devices import alike
from normres.cpu.guard import reverse_mode_only
from normres.cpu.rows import elementwise
from normres.norms.forms import ACTIVATIONS


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
    return elementwise(partial(_select, dtype=jnp.promote_types(dy.dtype, jnp.float32)), *alike(y, dy))


def _select(y: jax.Array, dy: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(y.astype(dtype) > 0, dy.astype(dtype), 0).astype(dy.dtype)


relu.defvjp(_forward, lambda y, dy: (rectified_gradient(y, dy),))


def activation(x: jax.Array, name: str = "relu") -> jax.Array:
    """layers.ops.activation, with the same arguments and values."""
    return reverse_mode_only(relu)(x) if name == "relu" else ACTIVATIONS[name](x)


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x + y, of one shape and dtype."""
    return x + y
