"""The convolution with written-out gradients.

On the CPU, XLA hands a convolution to its fast library only in the plain forward form, and the kernel gradient that
autodiff makes falls to a naive loop inside a scan.  Both gradients of a convolution are convolutions too, so here they
are written as forward ones, and the kernel's, where its sides allow it, as one matrix product, which needs no
transposes; or all three are C++ code (native/).

Reverse mode, reverse over reverse, vmap, scan and remat work; forward mode does not, and the C++ code has no third
derivative.
"""

import operator
from collections.abc import Iterator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from normres.cpu import native as code
from normres.layers.ops import CONVOLVED
from normres.layers.ops import conv as plain_conv

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(
    x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int = 1, groups: int = 1, *, native: bool = False
) -> jax.Array:
    """layers.ops.conv, with the same arguments, values and errors; `native`: in C++, where that has the shapes."""
    x_NHWC = jnp.asarray(x_NHWC)  # it may be a sum that is not computed yet
    if native and groups == 1 and code.possible(x_NHWC, kernel_HWIO, stride):
        return checkpoint_name(_native(x_NHWC, kernel_HWIO.astype(jnp.float32), stride), CONVOLVED)
    kernel_HWIO = kernel_HWIO.astype(x_NHWC.dtype)
    if kernel_HWIO.shape[:2] == (1, 1) and stride > 1:
        # A strided 1x1 kernel only reads the positions it keeps.
        x_NHWC, stride = x_NHWC[:, ::stride, ::stride], 1

    @jax.custom_gradient
    def convolved(x: jax.Array, kernel: jax.Array) -> Any:
        return plain_conv(x, kernel, stride, groups), partial(_written_out, stride, groups, x, kernel)

    return checkpoint_name(convolved(x_NHWC, kernel_HWIO), CONVOLVED)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _native(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return code.convolution(x, kernel, stride)


def _native_forward(x: Any, kernel: Any, stride: int) -> tuple[jax.Array, Any]:
    # Images need no gradient, which is a third of what there is to compute.  None and () are told apart by JAX.
    return _native(x.value, kernel.value, stride), (x.value, kernel.value, None if x.perturbed else ())


def _native_backward(stride: int, residuals: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients; zeros for that of x if it is not asked for."""
    x, kernel, of_kernel_alone = residuals
    of_input = of_kernel_alone is None

    def plain(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        backward = jax.vjp(lambda x, kernel: plain_conv(x, kernel, stride), x, kernel.astype(x.dtype))[1]
        dx, d_kernel = backward(dy)
        return dx if of_input else jnp.zeros_like(x), d_kernel.astype(kernel.dtype)

    @jax.custom_gradient
    def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        dx, d_kernel = code.gradients(x, kernel, dy, stride, of_input)
        both = jnp.zeros_like(x) if dx is None else dx, d_kernel
        # The derivative of a gradient is that of the plain operation's.
        return both, lambda cotangents: jax.vjp(plain, x, kernel, dy)[1](cotangents)

    both: tuple[jax.Array, jax.Array] = gradients(x, kernel, dy)
    return both


_native.defvjp(_native_forward, _native_backward, symbolic_zeros=True)


def _written_out(
    stride: int, groups: int, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both gradients as stride-1 forward convolutions in NHWC / HWIO, or the kernel's in a form of its own."""
    size = kernel.shape[0]
    whole = x.shape[1] % stride == 0 and x.shape[2] % stride == 0
    spread, missing = dy, [0, 0]
    if stride > 1:
        zero = jnp.zeros((), dy.dtype)
        spread = lax.pad(dy, zero, ((0, 0, 0), (0, 0, stride - 1), (0, 0, stride - 1), (0, 0, 0)))
        # What a stride leaves unread at the far edge: rows of x that no window, or only some, reached.
        missing = [x.shape[axis] - spread.shape[axis] for axis in (1, 2)]
    if whole and stride > 1:
        dx = _input_gradient_by_phase(kernel, dy, stride, groups)
    else:
        dx = _input_gradient(kernel, spread, missing, groups)
    # XLA would have the library add what is added to dx, for which it takes twice as long.
    dx = lax.optimization_barrier(dx)
    if x.dtype in (jnp.bfloat16, jnp.float32) and whole and size > 1 and groups == 1:
        return dx, _kernel_gradient_as_product(x, dy, size, stride)
    return dx, _kernel_gradient(x, spread, size, missing, groups)


def _input_gradient(kernel: jax.Array, dy: jax.Array, missing: list[int], groups: int) -> jax.Array:
    """Convolves dy, spread by zeros for a stride, with the kernel turned by 180 degrees, I and O exchanged by group."""
    size, inner, outer = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    half = size // 2
    turned = kernel[::-1, ::-1].reshape(size, size, inner, groups, outer)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(size, size, outer, groups * inner)
    padding = [(size - 1 - half, half + extra) for extra in missing]
    return lax.conv_general_dilated(dy, turned, (1, 1), padding, dimension_numbers=_LAYOUT, feature_group_count=groups)


def _input_gradient_by_phase(kernel: jax.Array, dy: jax.Array, stride: int, groups: int) -> jax.Array:
    """One convolution of dy whose output channels are the stride x stride phases of the input's pixels.

    Of dy spread by zeros, a convolution would multiply mostly zeros.  Row stride p + a of x met the kernel's row i in
    the window of row h of dy where stride h + i - half = stride p + a; so phase a sees dy(p + offset) through the row
    i = a + half - stride offset, if the kernel has it.
    """
    size, inner, outer = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    half = size // 2
    first, last = -((size - 1 - half) // stride), (stride - 1 + half) // stride
    rows = np.array([[a + half - stride * offset for a in range(stride)] for offset in range(first, last + 1)])
    inside = (rows >= 0) & (rows < size)
    rows = np.where(inside, rows, 0)
    parts = kernel.reshape(size, size, inner, groups, outer).transpose(0, 1, 4, 3, 2)
    parts = parts[rows[:, None, :, None], rows[None, :, None, :]]  # (offset, offset, a, b, outer, groups, inner)
    parts = jnp.where((inside[:, None, :, None] & inside[None, :, None, :])[..., None, None, None], parts, 0)
    turned = parts.transpose(0, 1, 4, 5, 2, 3, 6).reshape(*rows.shape[:1] * 2, outer, -1)
    phases = lax.conv_general_dilated(
        dy, turned, (1, 1), [(-first, last)] * 2, dimension_numbers=_LAYOUT, feature_group_count=groups
    )
    batch, height, width, _ = dy.shape
    apart = phases.reshape(batch, height, width, groups, stride, stride, inner).transpose(0, 1, 4, 2, 5, 3, 6)
    return apart.reshape(batch, height * stride, width * stride, groups * inner)


def _kernel_gradient(x: jax.Array, dy: jax.Array, size: int, missing: list[int], groups: int) -> jax.Array:
    """Convolves x with dy as the kernel, the batch in the role of the input channels: (size, size, I / groups, O)."""
    half = size // 2
    padding = [(half, size - 1 - half - extra) for extra in missing]
    batch, height, width, channels = x.shape
    # Each group's examples become one block of input channels, which meets that group's block of dy alone.
    x_IHWGN = x.reshape(batch, height, width, groups, channels // groups).transpose(4, 1, 2, 3, 0)
    x_IHWN, dy_HWNO = x_IHWGN.reshape(channels // groups, height, width, groups * batch), dy.transpose(1, 2, 0, 3)
    result_IHWO = lax.conv_general_dilated(
        x_IHWN, dy_HWNO, (1, 1), padding, dimension_numbers=_LAYOUT, feature_group_count=groups
    )
    return result_IHWO.transpose(1, 2, 0, 3)


def _kernel_gradient_as_product(x: jax.Array, dy: jax.Array, size: int, stride: int) -> jax.Array:
    """One matrix product of x at `size` shifts along W with dy at shifts along H: (size, size, I, O).

    The sum over positions of x(h + i, w + j) dy(h, w) equals that of x(h, w + j) dy(h - i, w), so shifting each
    factor along one axis gives all size x size offsets with no product computed in vain and no transpose in memory.
    With a stride, x(stride h + i, ...) is x's phase i modulo the stride at row h + i // stride, and likewise along W;
    the rows' phases stand side by side, and some of their products with dy's shifts are not needed.
    """
    batch, height, width, channels = x.shape
    offsets = np.arange(size) - size // 2
    shifts, phases = offsets // stride, offsets % stride
    of_rows = np.unique(shifts)
    # What made x and dy must not be computed once more for every shift.
    x, dy = lax.optimization_barrier((x, dy))
    # A pixel's `stride` columns as one: a shift by columns takes some of its channels from a neighbour.
    columns = x.reshape(batch, height, width // stride, stride * channels)
    parts = [columns[..., phase * channels : (phase + 1) * channels] for phase in phases]
    left = _side_by_side(tuple(parts), tuple(map(int, shifts)), 2)
    right = _side_by_side((dy,) * len(of_rows), tuple(map(int, -of_rows)), 1)
    left, right = lax.optimization_barrier((left, right))
    left = left.reshape(batch, height // stride, stride, width // stride, size * channels).swapaxes(2, 3)
    rows = batch * (height // stride) * (width // stride)
    left, right = left.reshape(rows, stride * size * channels), right.reshape(rows, right.shape[-1])
    product = lax.dot_general(left, right, (((0,), (0,)), ((), ())))
    product = product.reshape(stride, size, channels, len(of_rows), dy.shape[-1])
    return jnp.moveaxis(product, 3, 1)[phases, np.searchsorted(of_rows, shifts)]


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _side_by_side(arrays: tuple[jax.Array, ...], shifts: tuple[int, ...], axis: int) -> jax.Array:
    """Returns array(... place + shift ...) for each array and shift along an axis, zero outside, joined by channels.

    Each is padded with zeros to its place among the channels, and their bits are ORed: one vectorized loop, where
    joining takes a copy for each pixel (six times as long for 16 channels).
    """
    unsigned = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[arrays[0].dtype.itemsize]
    bits = tuple(lax.bitcast_convert_type(array, unsigned) for array in arrays)
    return lax.bitcast_convert_type(reduce(operator.or_, _apart(bits, shifts, axis)), arrays[0].dtype)


@_side_by_side.defjvp
def _side_by_side_jvp(shifts: tuple[int, ...], axis: int, primals: Any, tangents: Any) -> Any:
    # Bits have no derivative; of the numbers it is the same operation, by sums.
    (arrays,), (changes,) = primals, tangents
    return _side_by_side(arrays, shifts, axis), reduce(operator.add, _apart(changes, shifts, axis))


def _apart(arrays: tuple[jax.Array, ...], shifts: tuple[int, ...], axis: int) -> Iterator[jax.Array]:
    """Yields each array, shifted, at its place among the channels of all, with zeros around it."""
    channels = arrays[0].shape[-1]
    for number, (array, shift) in enumerate(zip(arrays, shifts, strict=True)):
        padding = [(0, 0, 0)] * array.ndim
        padding[axis] = (-shift, shift, 0)
        padding[-1] = (number * channels, (len(arrays) - 1 - number) * channels, 0)
        yield lax.pad(array, jnp.zeros((), array.dtype), padding)
