"""`Conv`: a convolution whose kernel may be normalized (norms/kernels.py)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.layers.ops import PLAIN, Ops
from normres.norms import kernels

# He, Zhang, Ren, Sun 2015, arXiv 1502.01852: variance 2 / fan-in, which keeps the scale through a ReLU.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """A convolution without bias: (N, H, W, I) -> (N, ceil(H / stride), ceil(W / stride), features).

    Attributes:
      features: output channels.
      kernel_size: odd.
      stride: in both directions.
      groups: blocks of channels that are convolved on their own.
      weights: a row of kernels.TABLE: what the stored kernel goes through before it is applied.
      train: whether spectral norm stores its improved vector u.
      dtype: of the input and the output.
      kernel_init: initializer of the stored kernel.
      ops: the operations, see layers.Ops.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    weights: str = "plain"
    train: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = he_normal
    ops: Ops = PLAIN

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Convolves in `dtype`; the kernel is stored in float32."""
        shape = (self.kernel_size, self.kernel_size, x_NHWC.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        row = kernels.TABLE[self.weights]
        scale = state = None
        if row.initial_scale is not None:
            scale = self.param("kernel_scale", lambda _, initial=row.initial_scale: initial(kernel))
        if row.initial_state is not None:
            # In batch_stats, which is carried from step to step and saved.
            initial = row.initial_state
            state = self.variable("batch_stats", "u", lambda: initial(self.make_rng("params"), kernel))
        kernel, new_state = row.apply(kernel, scale, state.value if state is not None else None)
        if state is not None and self.train and not self.is_initializing():
            state.value = new_state
        return self.ops.conv(x_NHWC.astype(self.dtype), kernel, self.stride, self.groups)
