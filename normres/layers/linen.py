"""`flax.linen`'s norms with the same constructor and call arguments and variables, exact where Flax is not.

They drop into existing code and checkpoints.  They differ where Flax is inexact: the variance is never E[x^2] - E[x]^2
and statistics are at least float32 (whatever `use_fast_variance` and `force_float32_reductions` say), shards are merged
by count, and masks of any broadcastable shape are accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jax import lax

from normres.layers.norm import running_statistics
from normres.norms.averages import Average
from normres.norms.moments import Moments, broadcastable, deviation_and_moments, normalize, reduction

Axes = int | Sequence[int]
Initializer = Callable[..., jax.Array]
IndexGroups = Sequence[Sequence[int]] | None


# The modules below list every field themselves, in Flax's order, so that positional arguments mean the same.


def _affine(module: Any, x: jax.Array, feature_axes: Axes) -> tuple[dict[str, Any], Any]:
    """Makes the module's parameters, of shape x.shape[feature_axes], and finds Flax's output dtype.

    Returns the keyword arguments that normalize() takes, and the dtype: the module's, or else what the input and the
    parameters promote to.
    """
    axes = axes_of(feature_axes, x.ndim)
    shape = tuple(x.shape[axis] for axis in axes)
    broadcast = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
    affine: dict[str, Any] = {}
    if module.use_scale:
        affine["scale"] = module.param("scale", module.scale_init, shape, module.param_dtype).reshape(broadcast)
    if getattr(module, "use_bias", False):  # RMSNorm has no such field
        affine["bias"] = module.param("bias", module.bias_init, shape, module.param_dtype).reshape(broadcast)
    dtype = canonicalize_dtype(x, *affine.values(), dtype=module.dtype)
    return affine | {"epsilon": module.epsilon}, dtype


def _own_statistics(
    module: Any,
    x: jax.Array,
    axes: Axes,
    feature_axes: Axes,
    mask: jax.Array | None,
    center: bool = True,
    groups: int = 1,
) -> tuple[jax.Array, Moments]:
    """Normalizes x over `axes` by its own statistics with the module's parameters, in Flax's output dtype."""
    affine, dtype = _affine(module, x, feature_axes)
    # At initialization there are no devices to merge over.
    devices = (None if module.is_initializing() else module.axis_name, module.axis_index_groups)
    return own_statistics(x, axes, affine, dtype, mask, devices, center, groups)


def own_statistics(
    x: jax.Array,
    axes: Axes,
    affine: dict[str, Any],
    dtype: Any,
    mask: jax.Array | None,
    devices: tuple[str | None, IndexGroups],
    center: bool = True,
    groups: int = 1,
) -> tuple[jax.Array, Moments]:
    """Normalizes x over `axes` by its own statistics, also where it is complex; returns it in `dtype`, and the moments.

    Args:
      affine: what normalize takes beside x and its moments.
      mask: broadcastable, or None.
      devices: axis_name and axis_index_groups, over which statistics are merged by count.
      center, groups: see norms.moments.
    """
    wide = x.astype(jnp.promote_types(x.dtype, dtype))
    name, index_groups = devices
    over = reduction(
        wide.real, axes_of(axes, x.ndim), {-1: groups}, center=center, axis_name=name, axis_index_groups=index_groups
    )
    where = None if mask is None else broadcastable("mask", jnp.asarray(mask, bool), x)
    real, moments = deviation_and_moments(wide.real, over, where)
    deviation = real.whole()
    if jnp.iscomplexobj(wide):  # the variance is the mean of |x - mean|^2
        imaginary, (mean, var, _) = deviation_and_moments(wide.imag, over, where)
        deviation = lax.complex(deviation, imaginary.whole())
        moments = Moments(lax.complex(moments.mean, mean), moments.var + var, moments.count)
    y = normalize(deviation, jnp.zeros(()), moments.var, **affine)
    return y.astype(dtype), moments


def axes_of(axes: Axes, ndim: int) -> tuple[int, ...]:
    """Returns the axes in order, not negative and, as in Flax, each once."""
    listed = (axes,) if isinstance(axes, int) else axes
    outside = [axis for axis in listed if not -ndim <= axis < ndim]
    if outside:
        raise ValueError(f"axis {outside[0]} is out of range for an array of {ndim} axes")
    return tuple(sorted({axis % ndim for axis in listed}))


class BatchNorm(nn.Module):
    """flax.linen.BatchNorm: averages over every axis but `axis`, with running averages in `batch_stats`."""

    use_running_average: bool | None = None
    axis: Axes = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None
    axis_index_groups: IndexGroups = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes with the running averages, or with the batch's own statistics, which then update them."""
        use_running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        kept = axes_of(self.axis, x.ndim)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        if not use_running:
            y, moments = _own_statistics(self, x, axes, kept, mask)
            self._running(moments, x.shape, axes)
            return y
        mean, var = self._running(None, x.shape, axes)
        affine, dtype = _affine(self, x, kept)
        wide = x.astype(jnp.promote_types(x.dtype, dtype))
        return normalize(wide, mean, var, **affine).astype(dtype)

    def _running(self, new: Moments | None, shape: Sequence[int], axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        """Returns the running mean and variance, broadcastable to `shape`, after `new`, if given, has updated them."""
        stored = tuple(size for axis, size in enumerate(shape) if axis not in axes)
        mean, var = running_statistics(self, stored)
        if new is not None and not self.is_initializing():
            of_batch = Moments(*(jnp.broadcast_to(value, new.mean.shape).reshape(stored) for value in new))
            mean.value, var.value = Average(momentum=self.momentum).update(mean.value, var.value, of_batch)
        broadcast = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        return mean.value.reshape(broadcast), var.value.reshape(broadcast)


class LayerNorm(nn.Module):
    """flax.linen.LayerNorm: averages over `reduction_axes`, with parameters along `feature_axes`."""

    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: IndexGroups = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        return _own_statistics(self, x, self.reduction_axes, self.feature_axes, mask)[0]


class RMSNorm(nn.Module):
    """flax.linen.RMSNorm: divides by the root mean square over `reduction_axes`; no mean, no bias."""

    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: IndexGroups = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own mean square; `mask` (broadcastable) excludes elements from it."""
        return _own_statistics(self, x, self.reduction_axes, self.feature_axes, mask, center=False)[0]


class GroupNorm(nn.Module):
    """flax.linen.GroupNorm: channels last in groups; averages over `reduction_axes`, by default all but axis 0.

    Exactly one of `num_groups` and `group_size` (channels in a group) is given, the other is None.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    reduction_axes: Axes | None = None
    axis_name: str | None = None
    axis_index_groups: IndexGroups = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        channels = x.shape[-1]
        if (self.num_groups is None) == (self.group_size is None):
            raise ValueError("exactly one of num_groups and group_size must be given; set the other to None")
        if self.group_size is not None and channels % self.group_size:
            raise ValueError(f"group_size={self.group_size} does not divide {channels} channels")
        groups = self.num_groups if self.group_size is None else channels // self.group_size
        assert groups is not None
        if groups < 1 or channels % groups:
            raise ValueError(f"num_groups={groups} does not divide {channels} channels")
        # An array of rank 1 is its channels: an example without its batch.
        every_other = range(min(1, x.ndim - 1), x.ndim)
        axes = every_other if self.reduction_axes is None else axes_of(self.reduction_axes, x.ndim)
        if x.ndim - 1 not in axes:
            raise ValueError(f"reduction_axes={self.reduction_axes} must contain the channels, axis -1")
        return _own_statistics(self, x, tuple(axes), -1, mask, groups=groups)[0]


class InstanceNorm(nn.Module):
    """flax.linen.InstanceNorm: averages over every axis but the first and `feature_axes`."""

    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: IndexGroups = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x with its own statistics; `mask` (broadcastable) excludes elements from them."""
        kept = axes_of(self.feature_axes, x.ndim)
        if 0 in kept:
            raise ValueError(f"feature_axes={self.feature_axes}: axis 0 is the batch and cannot be a feature axis")
        axes = tuple(axis for axis in range(1, x.ndim) if axis not in kept)
        return _own_statistics(self, x, axes, kept, mask)[0]
