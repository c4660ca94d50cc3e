"""The rectifier, with a gradient that is read off its output: a step keeps one array for it and the next convolution.

Reverse mode only (jax.custom_vjp).
"""

import jax
import jax.numpy as jnp

from normres.cpu.guard import reverse_mode_only
from normres.norms.forms import ACTIVATIONS


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0); the derivative at 0 is 0."""
    return jnp.maximum(x, 0)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    # A CPU selects among bfloat16 values one by one, which takes ten times as long as among float32 ones.
    wide = jnp.promote_types(dy.dtype, jnp.float32)
    return (jnp.where(y.astype(wide) > 0, dy.astype(wide), 0).astype(dy.dtype),)


relu.defvjp(_forward, _backward)


def activation(x: jax.Array, name: str = "relu") -> jax.Array:
    """layers.ops.activation, with the same arguments and values."""
    return relu(reverse_mode_only(x)) if name == "relu" else ACTIVATIONS[name](x)
