"""The convolution, with its gradients written out as plain forward convolutions where that is faster.

On the CPU, XLA hands a convolution to its fast library only in the plain forward form, and the kernel gradient that
autodiff makes falls to a naive loop inside a scan.  Both gradients of a convolution are convolutions too, so there
they are written as forward ones, and the kernel's, where its sides allow it, as one matrix product, which needs no
transposes.  GPU and TPU compilers want autodiff's own forms and get them: the choice is made when the program is
lowered for its platform.

Reverse mode, reverse over reverse, vmap, scan and remat work; forward mode does not (jax.custom_vjp).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normres.devices import alike

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """Convolution with padding of half the (odd) kernel size on every side, without bias.

    Args:
      x_NHWC: (N, H, W, I).
      kernel_HWIO: (K, K, I / groups, O), K odd; cast to x's dtype.
      stride: step in both directions; H and W need not divide by it.
      groups: output channels in as many equal blocks, each of which sees its own block of input channels.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), O) in x's dtype.
    """
    kernel_HWIO = kernel_HWIO.astype(x_NHWC.dtype)
    if kernel_HWIO.shape[:2] == (1, 1) and stride > 1:
        # A strided 1x1 kernel only reads the positions it keeps.
        x_NHWC, stride = x_NHWC[:, ::stride, ::stride], 1
    return _conv(*alike(x_NHWC, kernel_HWIO), stride, groups)


def _plain(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    half = kernel.shape[0] // 2
    padding = ((half, half), (half, half))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT, feature_group_count=groups
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    return _plain(x, kernel, stride, groups)


def _conv_forward(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> tuple[jax.Array, Any]:
    return _conv(x, kernel, stride, groups), (x, kernel)


def _conv_backward(stride: int, groups: int, residuals: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    written_out, autodiff = partial(_written_out, stride, groups), partial(_autodiff, stride, groups)
    return lax.platform_dependent(*residuals, dy, cpu=written_out, default=autodiff)


_conv.defvjp(_conv_forward, _conv_backward)


def _autodiff(stride: int, groups: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(lambda x, kernel: _plain(x, kernel, stride, groups), x, kernel)[1](dy)


def _written_out(
    stride: int, groups: int, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both gradients as stride-1 forward convolutions in NHWC / HWIO.

    The input's: dy against the kernel turned by 180 degrees with I and O exchanged, within each group.  A stride
    spreads dy by zeros first.  The kernel's: see `_kernel_gradient` and `_kernel_gradient_as_product`.
    """
    size = kernel.shape[0]
    half = size // 2
    if stride > 1:
        zero = jnp.zeros((), dy.dtype)
        dy = lax.pad(dy, zero, ((0, 0, 0), (0, 0, stride - 1), (0, 0, stride - 1), (0, 0, 0)))
    # What a stride leaves unread at the far edge: rows of x that no window, or only some, reached.
    missing = [x.shape[axis] - dy.shape[axis] for axis in (1, 2)]
    inner, outer = kernel.shape[2], kernel.shape[3] // groups
    turned = kernel[::-1, ::-1].reshape(size, size, inner, groups, outer)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(size, size, outer, groups * inner)
    padding = [(size - 1 - half, half + extra) for extra in missing]
    dx = lax.conv_general_dilated(dy, turned, (1, 1), padding, dimension_numbers=_LAYOUT, feature_group_count=groups)
    if x.dtype in (jnp.bfloat16, jnp.float32) and missing == [0, 0] and size > 1 and groups == 1:
        return dx, _kernel_gradient_as_product(x, dy, size)
    return dx, _kernel_gradient(x, dy, size, missing, groups)


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


def _kernel_gradient_as_product(x: jax.Array, dy: jax.Array, size: int) -> jax.Array:
    """One matrix product of x at `size` shifts along W with dy at `size` shifts along H: (size, size, I, O).

    The sum over positions of x(h + i, w + j) dy(h, w) equals that of x(h, w + j) dy(h - i, w), so shifting each
    factor along one axis gives all size x size offsets with no product computed in vain and no transpose in memory.
    """
    half = size // 2
    # What made x and dy must not be computed once more for every shift.
    x, dy = lax.optimization_barrier((x, dy))
    shifts = range(-half, half + 1)
    sides = _side_by_side(x, 2, shifts), _side_by_side(dy, 1, [-shift for shift in shifts])
    left, right = (side.reshape(-1, side.shape[-1]) for side in lax.optimization_barrier(sides))
    product = lax.dot_general(left, right, (((0,), (0,)), ((), ())))
    return product.reshape(size, x.shape[-1], size, dy.shape[-1]).transpose(2, 0, 1, 3)


def _side_by_side(array: jax.Array, axis: int, shifts: Iterable[int]) -> jax.Array:
    """Returns array(... place + shift ...) for each of the shifts along an axis, zero outside, joined along channels.

    Each is padded with zeros to its place among the channels, and their bits are ORed: one vectorized loop, where
    joining takes a copy for each pixel (six times as long for 16 channels).
    """
    channels, shifts = array.shape[-1], list(shifts)
    bits = lax.bitcast_convert_type(array, {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[array.dtype.itemsize])
    joined = jnp.zeros((), bits.dtype)
    for number, shift in enumerate(shifts):
        padding = [(0, 0, 0)] * array.ndim
        padding[axis] = (-shift, shift, 0)
        padding[-1] = (number * channels, (len(shifts) - 1 - number) * channels, 0)
        joined = joined | lax.pad(bits, jnp.zeros((), bits.dtype), padding)
    return lax.bitcast_convert_type(joined, array.dtype)
