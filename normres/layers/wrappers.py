"""`flax.linen.WeightNorm` and `SpectralNorm`: modules that normalize another layer's kernels; same arguments and names.

They are Flax's own with lengths and singular values in at least float32, also for kernels of lower precision.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from normres.layers.linen import axes_of
from normres.norms.kernels import l2_normalized, spectrally_normalized


def _name(layer: nn.Module, path: Sequence[Any]) -> str:
    """Returns Flax's name for the parameter at `path`, "LAYER/PATH"; its variables are stored under it."""
    return f"{layer.name}/{jax.tree_util.keystr(tuple(path[1:]), simple=True, separator='/')}"


def _wide(kernel: jax.Array) -> jax.Array:
    """Returns a kernel in at least float32, so that only the result is rounded."""
    return kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))


class WeightNorm(nn.WeightNorm):
    """flax.linen.WeightNorm: `scale * W / |W|` for the kernels of `layer_instance`, see kernels.l2_normalized."""

    def _l2_normalize(self, path: Sequence[Any], vs: Any) -> jax.Array:
        """Returns the kernel at `path`, normalized; Flax's `__call__` calls it."""
        name, value = _name(self.layer_instance, path), jnp.asarray(vs)
        if self.variable_filter and not any(part in name for part in self.variable_filter):
            return value
        kept = axes_of(() if self.feature_axes is None else self.feature_axes, value.ndim)
        scale = None
        if self.use_scale:
            stored = self.param(
                f"{name}/scale", self.scale_init, [value.shape[axis] for axis in kept], self.param_dtype
            )
            scale = stored.reshape([size if axis in kept else 1 for axis, size in enumerate(value.shape)])
        dtype = canonicalize_dtype(value, *(() if scale is None else (scale,)), dtype=self.dtype)
        reduced = [axis for axis in range(value.ndim) if axis not in kept]
        return l2_normalized(_wide(value), scale, reduced, self.epsilon).astype(dtype)


class SpectralNorm(nn.SpectralNorm):
    """flax.linen.SpectralNorm: W / sigma for the kernels of `layer_instance`, see kernels.spectrally_normalized."""

    def _spectral_normalize(self, path: Sequence[Any], vs: Any, update_stats: bool) -> jax.Array:
        """Returns the kernel at `path`, normalized; Flax's `__call__` calls it."""
        value = jnp.asarray(vs)
        if value.ndim <= 1 or self.n_steps < 1:
            return value
        if value.ndim > 2 and self.error_on_non_matrix:
            raise ValueError(f"a kernel of shape {value.shape} is no matrix, and error_on_non_matrix is set")
        name = _name(self.layer_instance, path)
        key = None if self.has_variable(self.collection_name, f"{name}/u") else self.make_rng("params")
        shape = (1, value.shape[-1])
        u = self.variable(self.collection_name, f"{name}/u", jax.random.normal, key, shape, self.param_dtype)
        sigma = self.variable(self.collection_name, f"{name}/sigma", jnp.ones, (), self.param_dtype)
        dtype = canonicalize_dtype(value, u.value, dtype=self.dtype)
        y, new_u, new_sigma = spectrally_normalized(_wide(value), u.value, self.n_steps, self.epsilon)
        if update_stats:
            u.value, sigma.value = new_u.astype(u.value.dtype), new_sigma.astype(sigma.value.dtype)
        return y.astype(dtype)
