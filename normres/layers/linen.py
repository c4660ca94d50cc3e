"""`flax.linen`'s norms with the same arguments and variables, exact where Flax is not.

They are Flax's own modules with another computation, so they drop into existing code and checkpoints.  Only bfloat16
computation uses E[x^2] - E[x]^2 (norms/moments.py says why), statistics are at least float32 (whatever
`use_fast_variance` and `force_float32_reductions` say), shards are merged by count, and masks of any broadcastable
shape are accepted.  Where a mask leaves no element of a mean, it is 0, and running averages stay; Flax has NaN there.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jax import lax

from normres.layers.norm import running_statistics
from normres.norms.averages import Average
from normres.norms.moments import Moments, deviation_and_moments, mask_for, normalize, reduction

Axes = int | Sequence[int]


def axes_of(axes: Axes, ndim: int) -> tuple[int, ...]:
    """Returns the axes in order, not negative and, as in Flax, each once."""
    listed = axes if isinstance(axes, Iterable) else (axes,)
    if outside := [axis for axis in listed if not -ndim <= axis < ndim]:
        raise ValueError(f"axis {outside[0]} is out of range for an array of {ndim} axes")
    return tuple(sorted({axis % ndim for axis in listed}))


def axes_of_groups(reduction_axes: Axes | None, ndim: int) -> tuple[int, ...]:
    """Returns what a group norm averages over; an array of rank 1 is its channels, an example without its batch."""
    every_other = tuple(range(min(1, ndim - 1), ndim))
    axes = every_other if reduction_axes is None else axes_of(reduction_axes, ndim)
    if ndim - 1 not in axes:
        raise ValueError(f"reduction_axes={reduction_axes} must contain the channels, axis -1")
    return axes


def axes_of_instances(feature_axes: Axes, ndim: int) -> tuple[int, ...]:
    """Returns what an instance norm averages over."""
    kept = axes_of(feature_axes, ndim)
    if 0 in kept:
        raise ValueError(f"feature_axes={feature_axes}: axis 0 is the batch and cannot be a feature axis")
    return tuple(axis for axis in range(1, ndim) if axis not in kept)


def own_statistics(
    module: Any, x: jax.Array, axes: Axes, affine: dict[str, Any], dtype: Any, mask: Any, **options: Any
) -> tuple[jax.Array, Moments]:
    """Normalizes x over `axes` by its own statistics, also where it is complex; returns it in `dtype`, and the moments.

    Args:
      module: whose `axis_name` and `axis_index_groups` say over which devices statistics are merged by count.
      affine: what normalize takes beside x and its moments.
      mask: broadcastable, or None.
      options: `center`, and `groups` of channels, see norms.moments.
    """
    wide = x.astype(jnp.promote_types(x.dtype, dtype))
    # At initialization there are no devices to merge over.
    alone = isinstance(module, nn.Module) and module.is_initializing()
    devices = {} if alone else {"axis_name": module.axis_name, "axis_index_groups": module.axis_index_groups}
    groups = {-1: options.pop("groups", 1)}
    over = reduction(wide.real, axes_of(axes, x.ndim), groups, **options, **devices)
    where = mask_for(x, mask, "mask")
    real, moments = deviation_and_moments(wide.real, over, where)
    deviation = real.whole()
    if jnp.iscomplexobj(wide):  # the variance is the mean of |x - mean|^2
        imaginary, (mean, var, _) = deviation_and_moments(wide.imag, over, where)
        deviation = lax.complex(deviation, imaginary.whole())
        moments = Moments(lax.complex(moments.mean, mean), moments.var + var, moments.count)
    y = normalize(deviation, jnp.zeros(()), moments.var, **affine)
    return y.astype(dtype), moments


def by_averages(
    x: jax.Array, mean: jax.Array, var: jax.Array, kept: Sequence[int], affine: dict[str, Any], dtype: Any
) -> jax.Array:
    """Normalizes x by running averages, which vary along the axes `kept`; returns it in `dtype`."""
    shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    wide = x.astype(jnp.promote_types(x.dtype, dtype))
    return normalize(wide, mean.reshape(shape), var.reshape(shape), **affine).astype(dtype)


def _affine(module: Any, x: jax.Array, feature_axes: Axes) -> tuple[dict[str, Any], Any]:
    """Makes the module's parameters, along `feature_axes`; returns what normalize takes, and Flax's output dtype."""
    axes = axes_of(feature_axes, x.ndim)
    shape = tuple(x.shape[axis] for axis in axes)
    broadcast = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
    affine: dict[str, Any] = {}
    for name in ("scale", "bias"):
        if getattr(module, f"use_{name}", False):  # RMSNorm has no bias
            initial = getattr(module, f"{name}_init")
            affine[name] = module.param(name, initial, shape, module.param_dtype).reshape(broadcast)
    dtype = canonicalize_dtype(x, *affine.values(), dtype=module.dtype)
    return affine | {"epsilon": module.epsilon}, dtype


class BatchNorm(nn.BatchNorm):
    """flax.linen.BatchNorm: averages over every axis but `axis`, with running averages in `batch_stats`."""

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes with the running averages, or with the batch's own statistics, which then update them."""
        use_running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        kept = axes_of(self.axis, x.ndim)
        mean, var = running_statistics(self, tuple(x.shape[axis] for axis in kept))
        affine, dtype = _affine(self, x, kept)
        if use_running:
            return by_averages(x, mean.value, var.value, kept, affine, dtype)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        y, moments = own_statistics(self, x, axes, affine, dtype, mask)
        if not self.is_initializing():
            mean.value, var.value = Average(momentum=self.momentum).update(mean.value, var.value, moments)
        return y


class LayerNorm(nn.LayerNorm):
    """flax.linen.LayerNorm: averages over `reduction_axes`, with parameters along `feature_axes`."""

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        return own_statistics(self, x, self.reduction_axes, *_affine(self, x, self.feature_axes), mask)[0]


class RMSNorm(nn.RMSNorm):
    """flax.linen.RMSNorm: divides by the root mean square over `reduction_axes`; no mean, no bias."""

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own mean square; `mask` (broadcastable) excludes elements from it."""
        return own_statistics(self, x, self.reduction_axes, *_affine(self, x, self.feature_axes), mask, center=False)[0]


class GroupNorm(nn.GroupNorm):
    """flax.linen.GroupNorm: channels last in groups; averages over `reduction_axes`, by default all but axis 0.

    Exactly one of `num_groups` and `group_size` (channels in a group) is given, the other is None.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        channels = x.shape[-1]
        if (self.num_groups is None) == (self.group_size is None):
            raise ValueError("exactly one of num_groups and group_size must be given; set the other to None")
        if self.group_size is not None and channels % self.group_size:
            raise ValueError(f"group_size={self.group_size} does not divide {channels} channels")
        groups = channels // self.group_size if self.group_size else self.num_groups
        if not groups or groups < 1 or channels % groups:
            raise ValueError(f"num_groups={groups} does not divide {channels} channels")
        axes = axes_of_groups(self.reduction_axes, x.ndim)
        return own_statistics(self, x, axes, *_affine(self, x, -1), mask, groups=groups)[0]


class InstanceNorm(nn.InstanceNorm):
    """flax.linen.InstanceNorm: averages over every axis but the first and `feature_axes`."""

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        axes = axes_of_instances(self.feature_axes, x.ndim)
        return own_statistics(self, x, axes, *_affine(self, x, self.feature_axes), mask)[0]
