"""The four operations that networks are made of, as one value: `Ops`.

`PLAIN` is plain JAX: the reference, and what GPUs and TPUs get, whose compilers fuse it.  Another set has the same
signatures and, within rounding, the same numbers.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from normres.norms.forms import activated
from normres.norms.spec import normalization

CONVOLVED = "convolved"  # what jax.checkpoint's policies call a convolution's output


class Ops(NamedTuple):
    """A set of operations.

    Attributes:
      conv: see `conv`.
      normalization: see norms.normalization.
      activation: see norms.forms.activated.
      add: x, y -> x + y, of one shape and dtype.
    """

    conv: Callable[..., jax.Array]
    normalization: Callable[..., tuple[jax.Array, Any]]
    activation: Callable[..., jax.Array]
    add: Callable[[jax.Array, jax.Array], jax.Array]


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
    half = kernel_HWIO.shape[0] // 2
    y = lax.conv_general_dilated(
        x_NHWC,
        kernel_HWIO.astype(x_NHWC.dtype),
        (stride, stride),
        ((half, half), (half, half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return checkpoint_name(y, CONVOLVED)


PLAIN = Ops(conv, normalization, activated, operator.add)
