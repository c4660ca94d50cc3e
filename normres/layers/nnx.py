"""`flax.nnx`'s norms with the same arguments and variables, exact where Flax is not.

They are Flax's own modules with another computation, so they take Flax's place in a model, a state and a checkpoint.
The variance is never E[x^2] - E[x]^2, statistics are at least float32, shards are merged by count (Flax averages them
as if all were equally large), and masks of any broadcastable shape are accepted.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.module import first_from

from normres.layers.linen import axes_of, own_statistics
from normres.norms.averages import Average
from normres.norms.moments import Moments, normalize


def _affine(module: Any, x: jax.Array, kept: Sequence[int], *others: jax.Array) -> tuple[dict[str, Any], Any]:
    """Returns what normalize takes beside x and its moments, and Flax's output dtype: what all arrays promote to."""
    parameters = {name: getattr(module, name, None) for name in ("scale", "bias")}
    values = {name: parameter[...] for name, parameter in parameters.items() if parameter is not None}
    dtype = module.promote_dtype((x, *others, *values.values()), dtype=module.dtype)[0].dtype
    shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    return {name: value.reshape(shape) for name, value in values.items()} | {"epsilon": module.epsilon}, dtype


def _normalized(module: Any, x: jax.Array, axes: Any, features: Any, mask: Any, **options: Any) -> jax.Array:
    """Normalizes x over `axes` by its own statistics, with parameters along `features`."""
    affine, dtype = _affine(module, x, axes_of(features, x.ndim))
    return own_statistics(x, axes, affine, dtype, mask, (module.axis_name, module.axis_index_groups), **options)[0]


class BatchNorm(nnx.BatchNorm):
    """flax.nnx.BatchNorm: averages over every axis but `axis`, with running averages `mean` and `var`."""

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes with the running averages, or with the batch's own statistics, which then update them."""
        message = "say use_running_average=True or False, to BatchNorm or to its call"
        use_running = first_from(use_running_average, self.use_running_average, error_msg=message)
        kept = axes_of(self.axis, x.ndim)
        shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
        affine, dtype = _affine(self, x, kept, self.mean[...], self.var[...])
        if use_running:
            mean, var = (average[...].reshape(shape) for average in (self.mean, self.var))
            return normalize(x.astype(jnp.promote_types(x.dtype, dtype)), mean, var, **affine).astype(dtype)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        y, moments = own_statistics(x, axes, affine, dtype, mask, (self.axis_name, self.axis_index_groups))
        flat = Moments(*(jnp.broadcast_to(value, moments.mean.shape).reshape(self.mean.shape) for value in moments))
        new = Average(momentum=self.momentum).update(self.mean[...], self.var[...], flat)
        self.mean[...], self.var[...] = map(jax.lax.stop_gradient, new)
        return y


class LayerNorm(nnx.LayerNorm):
    """flax.nnx.LayerNorm: averages over `reduction_axes`, with parameters along `feature_axes`."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        return _normalized(self, x, self.reduction_axes, self.feature_axes, mask)


class RMSNorm(nnx.RMSNorm):
    """flax.nnx.RMSNorm: divides by the root mean square over `reduction_axes`; no mean, no bias."""

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own mean square; `mask` (broadcastable) excludes elements from it."""
        return _normalized(self, x, self.reduction_axes, self.feature_axes, mask, center=False)


class GroupNorm(nnx.GroupNorm):
    """flax.nnx.GroupNorm: channels last in groups; averages over `reduction_axes`, by default all but axis 0."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        every_other = tuple(range(min(1, x.ndim - 1), x.ndim))
        axes = axes_of(every_other if self.reduction_axes is None else self.reduction_axes, x.ndim)
        if x.ndim - 1 not in axes:
            raise ValueError(f"reduction_axes={self.reduction_axes} must contain the channels, axis -1")
        return _normalized(self, x, axes, -1, mask, groups=self.num_groups)


class InstanceNorm(nnx.InstanceNorm):
    """flax.nnx.InstanceNorm: averages over every axis but the first and `feature_axes`."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        kept = axes_of(self.feature_axes, x.ndim)
        if 0 in kept:
            raise ValueError(f"feature_axes={self.feature_axes}: axis 0 is the batch and cannot be a feature axis")
        return _normalized(self, x, tuple(axis for axis in range(1, x.ndim) if axis not in kept), kept, mask)
