"""What forward mode meets: JAX cannot push tangents through a gradient that is written out, and says so in its words.

`reverse_mode_only` is the identity.  Its tangent passes through a primitive that can be transposed, as reverse mode
does with it, but neither computed nor compiled, as forward mode would.
"""

from functools import partial
from typing import Any, NoReturn

import jax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

MESSAGE = "the CPU's operations have no forward-mode derivative (jax.jvp, jacfwd, hessian, linearize); use ops=plain"


@jax.custom_jvp
def reverse_mode_only(x: jax.Array) -> jax.Array:
    """Returns x.

    Raises:
      TypeError: where a tangent of x is wanted: MESSAGE, one line.
    """
    return x


@partial(reverse_mode_only.defjvp, symbolic_zeros=True)
def _tangent(primals: Any, tangents: Any) -> Any:
    # The value is guarded once more, for a derivative of the derivative.
    (x,), (tangent,) = primals, tangents
    return reverse_mode_only(x), tangent if isinstance(tangent, SymbolicZero) else _primitive.bind(tangent)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(MESSAGE)


_primitive = Primitive("reverse_mode_only")
_primitive.def_impl(_refuse)
_primitive.def_abstract_eval(lambda tangent: tangent)
ad.deflinear(_primitive, lambda cotangent: [cotangent])
batching.primitive_batchers[_primitive] = lambda tangents, axes: (_primitive.bind(*tangents), axes[0])
mlir.register_lowering(_primitive, _refuse)
# Before it compiles, JAX replaces some primitives, custom gradients among them.  This one must come first.
_primitive.is_high = lambda *_, **__: True  # type: ignore[method-assign]
_primitive.to_lojax = _refuse  # type: ignore[method-assign]
