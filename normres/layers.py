"""Flax modules that own parameters and running averages, and call the pure functions of norms.py and conv.py.

`Norm` applies any row of the axis table.  BatchNorm, LayerNorm, GroupNorm, InstanceNorm and RMSNorm take the
constructor and call arguments of `flax.linen`'s modules of the same name and store the same variables, so they drop
into existing code and checkpoints.  They differ where Flax is inexact: the variance is always two-pass and statistics
are at least float32 (whatever `use_fast_variance` and `force_float32_reductions` say), shards are merged by count, and
masks of any broadcastable shape are accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from normres import norms
from normres.conv import conv
from normres.fused import normalization, standardize
from normres.norms import Moments, NormSpec

Axes = int | Sequence[int]
Initializer = Callable[..., jax.Array]
IndexGroups = Sequence[Sequence[int]] | None

# He, Zhang, Ren, Sun 2015, arXiv 1502.01852: variance 2 / fan-in, which keeps the scale through a ReLU.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """A convolution without bias: (N, H, W, I) -> (N, H / stride, W / stride, features)."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer = he_normal

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        """Convolves in `dtype`; the kernel is stored in float32."""
        shape = (self.kernel_size, self.kernel_size, x_NHWC.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return conv(x_NHWC.astype(self.dtype), kernel, self.stride)


class Norm(nn.Module):
    """Any normalization of the axis table, channels last, with a scale and a bias per channel.

    A norm with `spec.running` keeps `mean` and `var` in the collection `batch_stats`, normalizes with them when
    `use_running_average`, and updates them otherwise; other norms always use the input's own statistics.

    Attributes:
      spec: a row of norms.TABLE, or any NormSpec.
      groups: channel groups, read if spec.grouped.
      epsilon: added to the variance.
      momentum: share of the old running average that stays.
      use_running_average: True in evaluation.
      axis_name: device axis over which the examples, and so the statistics of a norm over N, are spread.
      scale_init: initializer of the scale.
    """

    spec: NormSpec
    groups: int = 1
    epsilon: float = 1e-5
    momentum: float = 0.9
    use_running_average: bool = False
    axis_name: str | None = None
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalizes x (N, ..., C) to the same shape and dtype; `mask` (broadcastable) excludes elements."""
        affine: dict[str, Any] = {"scale": self.param("scale", self.scale_init, (x.shape[-1],), jnp.float32)}
        if self.spec.center:
            affine["bias"] = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        y, found = x, None
        if not (self.spec.running and self.use_running_average):
            # Devices hold different examples, so a norm within an example merges nothing; nor are there any at
            # initialization.
            merge = "N" in self.spec.over and not self.is_initializing()
            axis_name = self.axis_name if merge else None
            options: dict[str, Any] = {
                "groups": self.groups,
                "where": mask,
                "axis_name": axis_name,
                "epsilon": self.epsilon,
            }
            y, found = normalization(x, self.spec, **affine, **options)
        if self.spec.running:
            axes = norms.reduction_axes(self.spec.over, x.ndim)
            if self.spec.grouped and self.groups > 1:
                # Groups differ, so every channel keeps its group's statistics.
                axes = tuple(axis for axis in axes if axis != x.ndim - 1)
            mean, var = _running(self, found, x.shape, axes, self.momentum)
            if found is None:
                y = norms.normalize(x, mean, var, **affine, epsilon=self.epsilon)
        return y


def _running(
    module: nn.Module, new: Moments | None, shape: Sequence[int], axes: Sequence[int], momentum: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the running mean and variance, broadcastable to `shape`, after `new`, if given, has updated them.

    They are stored in the shape of the axes that are not averaged over, as Flax stores them.
    """
    stored = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    broadcast = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    mean = module.variable("batch_stats", "mean", jnp.zeros, stored, jnp.float32)
    var = module.variable("batch_stats", "var", jnp.ones, stored, jnp.float32)
    if new is not None and not module.is_initializing():
        mean.value = norms.update_running(mean.value, new.mean.reshape(stored), momentum)
        var.value = norms.update_running(var.value, new.var.reshape(stored), momentum)
    return mean.value.reshape(broadcast), var.value.reshape(broadcast)


# The modules below list every field themselves, in Flax's order, so that positional arguments mean the same.


def _affine(module: Any, x: jax.Array, feature_axes: Axes) -> tuple[dict[str, Any], Any]:
    """Makes the module's parameters, of shape x.shape[feature_axes], and finds Flax's output dtype.

    Returns the keyword arguments that normalize() and standardize() share, and the dtype: the module's, or else
    what the input and the parameters promote to.
    """
    axes = _axes(feature_axes, x.ndim)
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
    module: Any, x: jax.Array, axes: Axes, feature_axes: Axes, mask: jax.Array | None, **options: Any
) -> tuple[jax.Array, Moments]:
    """Normalizes x over `axes` by its own statistics with the module's parameters, in Flax's output dtype."""
    affine, dtype = _affine(module, x, feature_axes)
    y, found = standardize(
        x.astype(jnp.promote_types(x.dtype, dtype)),
        _axes(axes, x.ndim),
        where=None if mask is None else jnp.asarray(mask, bool),
        # At initialization there are no devices to merge over.
        axis_name=None if module.is_initializing() else module.axis_name,
        axis_index_groups=module.axis_index_groups,
        **affine,
        **options,
    )
    return y.astype(dtype), found


def _axes(axes: Axes, ndim: int) -> tuple[int, ...]:
    """Returns the axes in order, not negative and, as in Flax, each once."""
    given = (axes,) if isinstance(axes, int) else axes
    outside = [axis for axis in given if not -ndim <= axis < ndim]
    if outside:
        raise ValueError(f"axis {outside[0]} is out of range for an array of {ndim} axes")
    return tuple(sorted({axis % ndim for axis in given}))


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
        kept = _axes(self.axis, x.ndim)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        if not use_running:
            y, found = _own_statistics(self, x, axes, kept, mask)
            _running(self, found, x.shape, axes, self.momentum)
            return y
        mean, var = _running(self, None, x.shape, axes, self.momentum)
        affine, dtype = _affine(self, x, kept)
        wide = x.astype(jnp.promote_types(x.dtype, dtype))
        return norms.normalize(wide, mean, var, **affine).astype(dtype)


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
        # An array of rank 1 is its channels: an example without its batch.
        every_other = range(min(1, x.ndim - 1), x.ndim)
        axes = every_other if self.reduction_axes is None else _axes(self.reduction_axes, x.ndim)
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
        kept = _axes(self.feature_axes, x.ndim)
        if 0 in kept:
            raise ValueError(f"feature_axes={self.feature_axes}: axis 0 is the batch and cannot be a feature axis")
        axes = tuple(axis for axis in range(1, x.ndim) if axis not in kept)
        return _own_statistics(self, x, axes, kept, mask)[0]
