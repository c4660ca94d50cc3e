"""`flax.linen.WeightNorm` and `SpectralNorm`: modules that normalize another layer's kernels; same arguments and names.

Lengths and singular values are computed in at least float32, also for kernels of lower precision.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from normres.norms.kernels import l2_normalized, spectrally_normalized


def _name(layer: nn.Module, path: Sequence[Any]) -> str:
    """Returns the name under which what belongs to the layer's parameter at `path` is stored, as Flax builds it."""
    return f"{layer.name}/{jax.tree_util.keystr(tuple(path[1:]), simple=True, separator='/')}"


class WeightNorm(nn.Module):
    """flax.linen.WeightNorm: `scale * W / |W|` for the kernels of `layer_instance`, see kernels.l2_normalized."""

    layer_instance: nn.Module
    epsilon: float = 1e-12
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_scale: bool = True
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    feature_axes: int | Sequence[int] | None = -1
    variable_filter: Iterable[str] | None = field(default_factory=lambda: {"kernel"})

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with normalized parameters."""
        return nn.map_variables(
            lambda layer: layer(*args, **kwargs),
            "params",
            trans_in_fn=lambda params: jax.tree_util.tree_map_with_path(self._normalized, params),
            init=self.is_initializing(),
        )(self.layer_instance)

    def _normalized(self, path: Sequence[Any], value: Any) -> jax.Array:
        name, value = _name(self.layer_instance, path), jnp.asarray(value)
        if self.variable_filter and not any(part in name for part in self.variable_filter):
            return value
        axes = () if self.feature_axes is None else self.feature_axes
        kept = {axis % value.ndim for axis in ((axes,) if isinstance(axes, int) else axes)}
        scale = None
        if self.use_scale:
            shape = [size for axis, size in enumerate(value.shape) if axis in kept]
            stored = self.param(f"{name}/scale", self.scale_init, shape, self.param_dtype)
            scale = stored.reshape([size if axis in kept else 1 for axis, size in enumerate(value.shape)])
        dtype = canonicalize_dtype(value, *(() if scale is None else (scale,)), dtype=self.dtype)
        reduced = [axis for axis in range(value.ndim) if axis not in kept]
        return l2_normalized(value.astype(dtype), scale, reduced, self.epsilon).astype(dtype)


class SpectralNorm(nn.Module):
    """flax.linen.SpectralNorm: W / sigma for the kernels of `layer_instance`, see kernels.spectrally_normalized."""

    layer_instance: nn.Module
    n_steps: int = 1
    epsilon: float = 1e-12
    dtype: Any = None
    param_dtype: Any = jnp.float32
    error_on_non_matrix: bool = False
    collection_name: str = "batch_stats"

    @nn.compact
    def __call__(self, *args: Any, update_stats: bool, **kwargs: Any) -> Any:
        """Calls the layer with normalized parameters; `update_stats` keeps what the power iterations found."""
        return nn.map_variables(
            lambda layer: layer(*args, **kwargs),
            trans_in_fn=lambda params: jax.tree_util.tree_map_with_path(
                lambda path, value: self._normalized(path, value, update_stats), params
            ),
            init=self.is_initializing(),
            mutable=True,
        )(self.layer_instance)

    def _normalized(self, path: Sequence[Any], value: Any, update_stats: bool) -> jax.Array:
        value = jnp.asarray(value)
        if value.ndim <= 1 or self.n_steps < 1:
            return value
        if value.ndim > 2 and self.error_on_non_matrix:
            raise ValueError(f"a kernel of shape {value.shape} is no matrix, and error_on_non_matrix is set")
        name = _name(self.layer_instance, path)
        key = None if self.has_variable(self.collection_name, f"{name}/u") else self.make_rng("params")
        shape = (1, value.shape[-1])
        u = self.variable(self.collection_name, f"{name}/u", jax.random.normal, key, shape, self.param_dtype)
        sigma = self.variable(self.collection_name, f"{name}/sigma", jnp.ones, (), self.param_dtype)
        y, new_u, new_sigma = spectrally_normalized(value, u.value, self.n_steps, self.epsilon)
        if update_stats:
            u.value, sigma.value = new_u, new_sigma
        return y.astype(canonicalize_dtype(value, u.value, dtype=self.dtype))
