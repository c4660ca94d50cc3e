"""Addition and rectifier in one pass, forward and backward, with a gradient that is read off the output.

Reverse mode only (jax.custom_gradient).
"""

from typing import Any

import jax
import jax.numpy as jnp

from normres.cpu.rows import elementwise
from normres.norms.forms import activated


class Sum:
    """x + y, not computed yet: a rectifier that follows adds in its own pass.

    An array's operators and methods force it.  Functions of jax.numpy may refuse it before jnp.asarray has forced it.
    """

    def __init__(self, x: jax.Array, y: jax.Array):
        self.x, self.y = x, y

    def __jax_array__(self) -> jax.Array:
        return self.x + self.y

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__jax_array__(), name)


def _forced(name: str) -> Any:
    return lambda self, *arguments: getattr(self.__jax_array__(), name)(*arguments)


_ARITHMETIC = ["add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "matmul", "neg", "abs"]
for _name in (*_ARITHMETIC, "getitem", "len", "iter", "lt", "le", "gt", "ge"):
    setattr(Sum, f"__{_name}__", _forced(f"__{_name}__"))


def add(x: jax.Array, y: jax.Array) -> Any:
    """layers.PLAIN.add, with the same arguments and, once forced, values."""
    return Sum(jnp.asarray(x), jnp.asarray(y))


def activation(x: Any, name: str = "relu") -> jax.Array:
    """norms.forms.activated, with the same arguments, values and errors."""
    if name != "relu":
        return activated(jnp.asarray(x), name)
    if isinstance(x, Sum):
        return _relu_of_sum(x.x, x.y)
    return _relu(x)


def passed(dtype: Any, dy: jax.Array, y: jax.Array | None) -> jax.Array:
    """Returns what a rectifier, whose output is y, lets through of its output's gradient dy, in `dtype`; None: all."""
    wide = dy.astype(dtype)
    return wide if y is None else jnp.where(y.astype(dtype) > 0, wide, 0)


def _rectified(y: jax.Array, dy: jax.Array) -> jax.Array:
    # A CPU selects among bfloat16 values one by one, which takes ten times as long as among float32 ones.
    return passed(jnp.promote_types(dy.dtype, jnp.float32), dy, y).astype(dy.dtype)


@jax.custom_gradient
def _relu(x: jax.Array) -> Any:
    y = jnp.maximum(x, 0)
    return y, lambda dy: _rectified(y, dy)


@jax.custom_gradient
def _relu_of_sum(x: jax.Array, other: jax.Array) -> Any:
    y = elementwise(lambda x, other: jnp.maximum(x + other, 0), x, other)
    return y, lambda dy: (elementwise(_rectified, y, dy),) * 2
