"""Norm, addition and rectifier left to the next convolution, which does them while it reads its input.

`Pending` is such an input.  `convolve` convolves it and returns, beside the output, the moments of each example and
channel, of which the next norm's statistics follow by merging (moments.merged), so that between two convolutions a
step writes one array and reads it once.  On the CPU it is C++ code (native/convolution.h); elsewhere, and where it is
differentiated twice, it is the plain composition, `_composed`, of which it is a fused form.

Reverse mode, reverse over reverse and vmap work; forward mode does not (jax.custom_vjp).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from normres.conv import CONVOLVED, conv
from normres.devices import alike
from normres.elementwise import elementwise
from normres.moments import STATISTICS

SIZES = (1, 3)  # of kernels that the fused form knows

# What XLA calls the C++ code, once native.load() has brought it.
FORWARD_TARGET, BACKWARD_TARGET = "normres_convolution", "normres_convolution_gradients"


@partial(
    jax.tree_util.register_dataclass, data_fields=["x", "center", "factor", "shift", "side"], meta_fields=["rectify"]
)
@dataclass(frozen=True)
class Pending:
    """max(factor (x - center) + shift + side, 0), not computed yet.

    Attributes:
      x: (N, H, W, C), float32 or bfloat16.
      center, factor, shift: float32 (N, C), or (1, C) for all examples; or all None.
      side: of x's shape and dtype, or None.
      rectify: whether the maximum with 0 is taken.
    """

    x: jax.Array
    center: jax.Array | None = None
    factor: jax.Array | None = None
    shift: jax.Array | None = None
    side: jax.Array | None = None
    rectify: bool = field(default=False)

    def value(self) -> jax.Array:
        """Returns what is pending, of x's shape and dtype, computed in at least float32 and rounded once."""
        affine = [None if of is None else of[:, None, None, :] for of in (self.center, self.factor, self.shift)]
        return elementwise(partial(_value, self.rectify), self.x, *affine, self.side)


def _value(rectify: bool, x: Any, center: Any, factor: Any, shift: Any, side: Any) -> jax.Array:
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if factor is not None:
        y = (y - center) * factor + shift
    if side is not None:
        y = y + side.astype(y.dtype)
    # As a selection, whose derivative at 0 is 0, and which keeps what is not a number.
    return (jnp.where(y <= 0, 0, y) if rectify else y).astype(x.dtype)


class Convolved(NamedTuple):
    """A convolution's output (N, H, W, O) and what came with it, each None if it was not asked for.

    `mean` and `squares`, the sum of squared deviations from it, are float32 (N, O); `activated` is the input's value.
    """

    y: jax.Array
    mean: jax.Array | None = None
    squares: jax.Array | None = None
    activated: jax.Array | None = None


def possible(x: jax.Array, size: int, stride: int) -> bool:
    """Returns whether `convolve` has a fused form for an input like x and such a kernel."""
    whole = x.shape[1] % stride == 0 and x.shape[2] % stride == 0
    return x.dtype in (jnp.float32, jnp.bfloat16) and size in SIZES and stride in (1, 2) and whole


def convolve(
    pending: Pending, kernel_HWIO: jax.Array, stride: int = 1, measured: bool = False, keep: bool = False
) -> Convolved:
    """Convolves as conv.conv does, in the input's dtype, what is pending.

    Args:
      pending: the input.
      kernel_HWIO: float32 (K, K, I, O), K odd.
      stride: step in both directions.
      measured: whether the moments of each example and channel are wanted.
      keep: whether the input's value is.
    """
    static = _Static(stride, pending.rectify, measured, keep)
    arrays = (pending.x, pending.center, pending.factor, pending.shift, pending.side, kernel_HWIO)
    fused = possible(pending.x, kernel_HWIO.shape[0], stride)
    return _convolve(static, *alike(*arrays)) if fused else _named(_composed(static, *alike(*arrays)))


class _Static(NamedTuple):
    stride: int
    rectify: bool
    measured: bool
    keep: bool


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(static: _Static, x: Any, center: Any, factor: Any, shift: Any, side: Any, kernel: Any) -> Convolved:
    arrays = (x, center, factor, shift, side, kernel)
    found: Convolved = lax.platform_dependent(*arrays, cpu=partial(_native, static), default=partial(_composed, static))
    return found


def _named(found: Convolved) -> Convolved:
    """Lets jax.checkpoint's policies know what it is, or it would be computed anew."""
    mean, squares = (None if of is None else checkpoint_name(of, STATISTICS) for of in (found.mean, found.squares))
    activated = None if found.activated is None else checkpoint_name(found.activated, CONVOLVED)
    return Convolved(checkpoint_name(found.y, CONVOLVED), mean, squares, activated)


def _composed(static: _Static, x: Any, center: Any, factor: Any, shift: Any, side: Any, kernel: Any) -> Convolved:
    """The same as a composition of what can be had one by one."""
    value = Pending(x, center, factor, shift, side, static.rectify).value()
    y = conv(value, kernel, static.stride)
    mean = squares = None
    if static.measured:
        wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        mean = jnp.mean(wide, (1, 2))
        squares = jnp.sum(lax.square(wide - mean[:, None, None, :]), (1, 2))
    return Convolved(y, mean, squares, value if static.keep else None)


def _native(static: _Static, x: Any, center: Any, factor: Any, shift: Any, side: Any, kernel: Any) -> Convolved:
    batch, height, width, _ = x.shape
    outer, numbers = kernel.shape[-1], jnp.float32
    shape = (batch, -(-height // static.stride), -(-width // static.stride), outer)
    per_channel = (batch, outer) if static.measured else None
    results = (
        jax.ShapeDtypeStruct(shape, x.dtype),
        _result(per_channel, numbers),
        _result(per_channel, numbers),
        _result(x.shape if static.keep else None, x.dtype),
    )
    arrays = (x, *(given(of, numbers) for of in (center, factor, shift)), given(side, x.dtype), kernel)
    y, mean, squares, activated = call(FORWARD_TARGET, results, arrays, _attributes(static))
    if not static.measured:
        mean = squares = None
    return Convolved(y, mean, squares, activated if static.keep else None)


def given(array: Any, dtype: Any) -> Any:
    """Returns the array; the C++ code takes one of no elements for None."""
    return jnp.zeros((0,), dtype) if array is None else array


def absent(dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns what stands for a result of the C++ code that is not wanted."""
    return jax.ShapeDtypeStruct((0,), dtype)


def _result(shape: tuple[int, ...] | None, dtype: Any) -> jax.ShapeDtypeStruct:
    return absent(dtype) if shape is None else jax.ShapeDtypeStruct(shape, dtype)


def _attributes(static: _Static) -> dict[str, Any]:
    return {"stride": np.int64(static.stride), "rectify": static.rectify}


def call(target: str, results: Any, arrays: tuple[Any, ...], attributes: dict[str, Any]) -> list[Any]:
    """Calls the C++ code, which takes leading axes beyond the usual ones for those of several members."""
    found = jax.ffi.ffi_call(target, results, vmap_method="broadcast_all")(*arrays, **attributes)
    # JAX takes the results of foreign code for ones that all devices share.
    return [alike(of, arrays[0])[0] for of in found]


def _convolve_forward(static: _Static, *arguments: Any) -> tuple[Convolved, Any]:
    arrays = [None if of is None else of.value for of in arguments]
    # Named out here: policies do not see into a function with a gradient of its own.
    found = _named(_convolve(static, *arrays))
    # Images need no gradient, which is a third of what there is to compute.  None and () are told apart by JAX.
    of_kernel_alone = not any(of is not None and of.perturbed for of in arguments[:-1])
    return found, (arrays, found.y, found.mean, () if of_kernel_alone else None)


def _convolve_backward(static: _Static, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    arrays, y, mean, of_kernel_alone = residuals
    dy, d_mean, d_squares, d_activated = (
        None if isinstance(of, SymbolicZero) or of is None else of for of in cotangents
    )
    dy = jnp.zeros_like(y) if dy is None else dy
    if d_mean is None and d_squares is None:
        d_mean, d_squares, y, mean = None, None, None, None
    else:
        d_mean, d_squares = (jnp.zeros_like(mean) if of is None else of for of in (d_mean, d_squares))
    plain = static._replace(measured=y is not None, keep=d_activated is not None)
    return tuple(_gradients(plain, of_kernel_alone == (), *alike(*arrays, y, mean, dy, d_mean, d_squares, d_activated)))


_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(static: _Static, of_kernel_alone: bool, *arrays: Any) -> Any:
    """Returns the gradients of x, center, factor, shift, side and kernel; `arrays`: these, y, mean, and cotangents."""
    native = partial(_native_gradients, static, of_kernel_alone)
    composed = partial(_composed_gradients, static, of_kernel_alone)
    return lax.platform_dependent(*arrays, cpu=native, default=composed)


def _composed_gradients(static: _Static, of_kernel_alone: bool, *arrays: Any) -> tuple[Any, ...]:
    primals, (_, _, dy, d_mean, d_squares, d_activated) = arrays[:6], arrays[6:]
    gradients = jax.vjp(partial(_composed, static), *primals)[1](Convolved(dy, d_mean, d_squares, d_activated))
    if not of_kernel_alone:
        return gradients
    return (*(None if of is None else jnp.zeros_like(of) for of in gradients[:-1]), gradients[-1])


def _native_gradients(static: _Static, of_kernel_alone: bool, *arrays: Any) -> tuple[Any, ...]:
    x, center, factor, shift, side, kernel, y, mean, dy, d_mean, d_squares, d_activated = arrays
    numbers, zeros = jnp.float32, partial(jax.tree.map, jnp.zeros_like)
    per_channel = None if factor is None or of_kernel_alone else factor.shape
    results = (
        _result(None if of_kernel_alone else x.shape, x.dtype),
        _result(None if of_kernel_alone or side is None else x.shape, x.dtype),
        *[_result(per_channel, numbers)] * 3,
        jax.ShapeDtypeStruct(kernel.shape, numbers),
    )
    given_arrays = (
        x,
        *(given(of, numbers) for of in (center, factor, shift)),
        given(side, x.dtype),
        kernel,
        dy,
        given(y, x.dtype),
        *(given(of, numbers) for of in (mean, d_mean, d_squares)),
        given(d_activated, x.dtype),
    )
    found = call(BACKWARD_TARGET, results, given_arrays, _attributes(static))
    dx, d_side, d_center, d_factor, d_shift, d_kernel = found
    if of_kernel_alone:
        return (*(zeros(of) for of in (x, center, factor, shift, side)), d_kernel)
    of_affine = (d_center, d_factor, d_shift) if factor is not None else (None, None, None)
    return dx, *of_affine, d_side if side is not None else None, d_kernel


def _gradients_forward(static: _Static, of_kernel_alone: bool, *arrays: Any) -> Any:
    return _gradients(static, of_kernel_alone, *arrays), arrays


def _gradients_backward(static: _Static, of_kernel_alone: bool, arrays: Any, cotangents: Any) -> Any:
    """The derivative of a gradient: JAX takes it from the composition, in which y and mean follow from the others."""
    return jax.vjp(partial(_composed_gradients, static, of_kernel_alone), *arrays)[1](tuple(cotangents))


_gradients.defvjp(_gradients_forward, _gradients_backward)
