"""What forward mode meets: JAX cannot push tangents through a gradient that is written out."""

from collections.abc import Callable
from typing import Any


def reverse_mode_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a jax.custom_vjp function say in one line what to do where forward mode meets it.

    Raises:
      TypeError: when called under jax.jvp or jax.jacfwd.
    """

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                "the CPU's operations have no forward-mode derivative (jax.jvp, jacfwd, hessian); use ops=plain"
            ) from None

    return call
