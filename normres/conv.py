"""The convolution, with its gradients written out as plain forward convolutions where that is faster.

On the CPU, XLA hands a convolution to its fast library only in the plain forward form, and the weight gradient that
autodiff makes falls to a naive loop inside a scan.  Both gradients of a convolution are convolutions too, so there
they are written as forward ones.  GPU and TPU compilers want autodiff's own forms and get them: the choice is made
when the program is lowered for its platform.

Reverse mode, reverse over reverse, vmap, scan and remat work; forward mode does not (jax.custom_vjp).
"""

from functools import partial

import jax
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x_NHWC: jax.Array, kernel_HWIO: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with padding of half the (odd) kernel size on every side, without bias.

    Args:
      x_NHWC: (N, H, W, I).
      kernel_HWIO: (K, K, I, O), K odd; cast to x's dtype.
      stride: step in both directions; H and W need not divide by it.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), O) in x's dtype.
    """
    kernel_HWIO = kernel_HWIO.astype(x_NHWC.dtype)
    if kernel_HWIO.shape[:2] == (1, 1) and stride > 1:
        # A strided 1x1 kernel only reads the positions it keeps.
        x_NHWC, stride = x_NHWC[:, ::stride, ::stride], 1
    return _conv(x_NHWC, kernel_HWIO, stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    half = kernel.shape[0] // 2
    padding = ((half, half), (half, half))
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _plain(x, kernel, stride)


def _conv_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, stride), (x, kernel)


def _conv_backward(stride: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(*residuals, dy, cpu=partial(_written_out, stride), default=partial(_autodiff, stride))


_conv.defvjp(_conv_forward, _conv_backward)


def _autodiff(stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(lambda x, kernel: _plain(x, kernel, stride), x, kernel)[1](dy)


def _written_out(stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients as stride-1 forward convolutions in NHWC / HWIO.

    The input's: dy against the kernel turned by 180 degrees with I and O exchanged.  The kernel's: x against dy
    as the kernel, with the batch in the role of the input channels.  A stride spreads dy by zeros first.
    """
    size = kernel.shape[0]
    half = size // 2
    if stride > 1:
        zero = lax.full((), 0, dy.dtype)
        dy = lax.pad(dy, zero, ((0, 0, 0), (0, 0, stride - 1), (0, 0, stride - 1), (0, 0, 0)))
    # What a stride leaves unread at the far edge: rows of x that no window, or only some, reached.
    missing = tuple(x.shape[axis] - dy.shape[axis] for axis in (1, 2))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    before = size - 1 - half
    dx = lax.conv_general_dilated(
        dy, turned, (1, 1), [(before, half + extra) for extra in missing], dimension_numbers=_LAYOUT
    )
    d_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        [(half, before - extra) for extra in missing],
        dimension_numbers=_LAYOUT,
    ).transpose(1, 2, 0, 3)
    return dx, d_kernel
