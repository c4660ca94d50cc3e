"""`flax.nnx`'s norms with the same arguments and variables, exact where Flax is not; see linen.py."""

from typing import Any

import jax
from flax import nnx
from flax.nnx.module import first_from

from normres.layers.linen import Axes, axes_of, axes_of_groups, axes_of_instances, by_averages, own_statistics
from normres.norms import Average


def _affine(module: Any, x: jax.Array, features: Axes, *others: jax.Array) -> tuple[dict[str, Any], Any]:
    """Returns what normalize takes beside x and its moments, and Flax's output dtype: what all arrays promote to."""
    kept = axes_of(features, x.ndim)
    parameters = [getattr(module, name, None) for name in ("scale", "bias")]
    scale, bias = (None if parameter is None else parameter[...] for parameter in parameters)
    dtype = module.promote_dtype((x, *others, scale, bias), dtype=module.dtype)[0].dtype
    values = {name: value for name, value in (("scale", scale), ("bias", bias)) if value is not None}
    shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    return {name: value.reshape(shape) for name, value in values.items()} | {"epsilon": module.epsilon}, dtype


class BatchNorm(nnx.BatchNorm):
    """flax.nnx.BatchNorm: averages over every axis but `axis`, with running averages `mean` and `var`."""

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes with the running averages, or with the batch's own statistics, which then update them."""
        message = "say use_running_average=True or False, to BatchNorm or to its call"
        use_running = first_from(use_running_average, self.use_running_average, error_msg=message)
        kept = axes_of(self.axis, x.ndim)
        mean, var = self.mean[...], self.var[...]
        affine, dtype = _affine(self, x, kept, mean, var)
        if use_running:
            return by_averages(x, mean, var, kept, affine, dtype)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        y, moments = own_statistics(self, x, axes, affine, dtype, mask)
        averages = Average(momentum=self.momentum).update(mean, var, moments)
        self.mean[...], self.var[...] = map(jax.lax.stop_gradient, averages)
        return y


class LayerNorm(nnx.LayerNorm):
    """flax.nnx.LayerNorm: averages over `reduction_axes`, with parameters along `feature_axes`."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        return own_statistics(self, x, self.reduction_axes, *_affine(self, x, self.feature_axes), mask)[0]


class RMSNorm(nnx.RMSNorm):
    """flax.nnx.RMSNorm: divides by the root mean square over `reduction_axes`; no mean, no bias."""

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own mean square; `mask` (broadcastable) excludes elements from it."""
        return own_statistics(self, x, self.reduction_axes, *_affine(self, x, self.feature_axes), mask, center=False)[0]


class GroupNorm(nnx.GroupNorm):
    """flax.nnx.GroupNorm: channels last in groups; averages over `reduction_axes`, by default all but axis 0."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        axes = axes_of_groups(self.reduction_axes, x.ndim)
        return own_statistics(self, x, axes, *_affine(self, x, -1), mask, groups=self.num_groups)[0]


class InstanceNorm(nnx.InstanceNorm):
    """flax.nnx.InstanceNorm: averages over every axis but the first and `feature_axes`."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        axes = axes_of_instances(self.feature_axes, x.ndim)
        return own_statistics(self, x, axes, *_affine(self, x, self.feature_axes), mask)[0]
