"""Flax modules that own parameters and running averages, and call the pure functions of norms.py and conv.py.

`Norm` applies any row of the axis table, `Conv` any row of the kernel table (weights.py).  The modules with the names
of `flax.linen`'s are in linen.py and wrappers.py and can be had from here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres import norms
from normres import weights as kernels
from normres.conv import conv
from normres.deferred import Convolved, Pending, convolve, possible
from normres.linen import BatchNorm, GroupNorm, Initializer, InstanceNorm, LayerNorm, RMSNorm, running_statistics
from normres.moments import Moments, reduction_axes
from normres.norms import Average, NormSpec
from normres.weights import WeightNormalization
from normres.wrappers import SpectralNorm, WeightNorm

__all__ = [
    "BatchNorm",
    "Conv",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "RMSNorm",
    "SpectralNorm",
    "WeightNorm",
    "he_normal",
]

# He, Zhang, Ren, Sun 2015, arXiv 1502.01852: variance 2 / fan-in, which keeps the scale through a ReLU.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """A convolution without bias: (N, H, W, I) -> (N, H / stride, W / stride, features).

    Attributes:
      features: output channels.
      kernel_size: odd.
      stride: in both directions.
      groups: blocks of channels that are convolved on their own.
      weights: a row of weights.TABLE: what the stored kernel goes through before it is applied.
      train: whether power iterations (spectral norm) go on.
      native: whether deferred.convolve carries it out, where that has a fused form for it.
      dtype: of the input and the output.
      kernel_init: initializer of the stored kernel.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    weights: str = "plain"
    train: bool = False
    native: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = he_normal

    @nn.compact
    def __call__(self, x_NHWC: jax.Array | Pending, measured: bool = False, keep: bool = False) -> Any:
        """Convolves in `dtype`; the kernel is stored in float32.

        Returns an array if x is one, and what deferred.convolve returns if it is Pending.
        """
        pending = x_NHWC if isinstance(x_NHWC, Pending) else Pending(x_NHWC.astype(self.dtype))
        shape = (self.kernel_size, self.kernel_size, pending.x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        row = kernels.TABLE[self.weights]
        scale = state = None
        if row.initial_scale is not None:
            scale = self.param("kernel_scale", lambda _, initial=row.initial_scale: initial(kernel))
        if row.initial_state is not None:
            # Beside the running averages, which are carried and saved as this must be.
            state = self.variable("batch_stats", "u", self._initial_state, row, kernel)
        held = state.value if state is not None else None
        kernel, after = row.apply(kernel, scale, held, self.train)
        if state is not None and self.train and not self.is_initializing():
            state.value = after
        if isinstance(x_NHWC, Pending):
            return convolve(pending, kernel, self.stride, measured, keep)
        if self.native and self.groups == 1 and possible(pending.x, self.kernel_size, self.stride):
            return convolve(pending, kernel, self.stride).y
        return conv(pending.x, kernel, self.stride, self.groups)

    def _initial_state(self, row: WeightNormalization, kernel: jax.Array) -> jax.Array:
        assert row.initial_state is not None
        return row.initial_state(self.make_rng("params"), kernel)


class Norm(nn.Module):
    """Any normalization of the axis table, channels last, with its parameters.

    A norm with `spec.running` keeps `mean` and `var` in the collection `batch_stats` (and `updates`, if its average
    counts them), normalizes with them when `use_running_average`, and updates them otherwise; other norms always
    use the input's own statistics.  Where the collection `moments` is mutable, those of the input are stored there,
    also in evaluation (see recalibrate.py).

    Attributes:
      spec: a row of norms.TABLE, or any NormSpec.
      groups: channel groups, read if spec.grouped.
      sub_batches: parts of the batch, read if spec.divided.
      epsilon: added to the variance.
      average: how running averages follow the batches.
      use_running_average: True in evaluation.
      activate: whether a norm that brings its own nonlinearity applies it.
      rectify: whether the output goes through max(y, 0).
      axis_name: device axis over which the examples, and so the statistics of a norm over N, are spread.
      scale_init: initializer of the scale.
    """

    spec: NormSpec
    groups: int = 1
    sub_batches: int = 1
    epsilon: float = 1e-5
    average: Average = Average()
    use_running_average: bool = False
    activate: bool = True
    rectify: bool = False
    axis_name: str | None = None
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: jax.Array | Convolved, *, mask: jax.Array | None = None, side: jax.Array | None = None
    ) -> Any:
        """Normalizes x (N, ..., C) to the same shape and dtype; `mask` (broadcastable) excludes elements.

        `side`, of x's shape and dtype, is added to the result, before the rectifier.  What a convolution left with its
        moments is not normalized but returned as Pending, for a norm that is `deferrable`.
        """
        spec, convolved = self.spec, x if isinstance(x, Convolved) else None
        x = x.y if isinstance(x, Convolved) else x
        channels = x.shape[-1:]
        initial = {"scale": self.scale_init, "bias": nn.initializers.zeros}
        affine: dict[str, Any] = {name: self.param(name, initial[name], channels, jnp.float32) for name in spec.affine}
        parameters: dict[str, jax.Array] = {}
        for parameter in spec.parameters:
            if self.activate or parameter.name not in spec.activation:
                size = channels if parameter.per == "channel" else (len(spec.reductions),)
                constant = nn.initializers.constant(parameter.initial)
                parameters[parameter.name] = self.param(parameter.name, constant, size, jnp.float32)
        # A norm within an example merges nothing, nor does a part of a batch that one device holds; and at
        # initialization there are no devices.
        spread = "N" in "".join(spec.reductions) and not spec.divided and not self.is_initializing()
        options: dict[str, Any] = {
            "groups": self.groups,
            "sub_batches": 1 if self.is_initializing() else self.sub_batches,
            "where": mask,
            "axis_name": self.axis_name if spread else None,
        }
        running, variables = self._running(x) if spec.running else (None, ())
        common: dict[str, Any] = {
            **affine,
            "running": running,
            "use_running": spec.running and self.use_running_average,
            "epsilon": self.epsilon,
            "rectify": self.rectify,
            "side": side,
        }
        y: Any
        if convolved is None:
            y, found = norms.normalization(x, spec, **common, parameters=parameters, **options)
        else:
            of_convolved = {name: option for name, option in options.items() if name != "where"}
            y, found = norms.deferred(convolved, spec, **common, **of_convolved)
        if spec.running and not self.is_initializing():
            self._keep(x, found, variables, options)
        return y

    def _running(self, x: jax.Array) -> tuple[Moments, tuple[Any, ...]]:
        """Returns the running averages, broadcastable to x, and the variables that hold them."""
        axes = self._averaged(x)
        mean, var = running_statistics(self, [size for axis, size in enumerate(x.shape) if axis not in axes])
        variables = [mean, var]
        if self.average.kind != "exponential":
            variables.append(self.variable("batch_stats", "updates", jnp.zeros, (), jnp.float32))
        broadcast = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return Moments(mean.value.reshape(broadcast), var.value.reshape(broadcast), jnp.ones(())), tuple(variables)

    def _averaged(self, x: jax.Array) -> tuple[int, ...]:
        """Returns the axes along which running averages do not vary: groups differ, so channels keep their group's."""
        axes = reduction_axes(self.spec.reductions[0], x.ndim)
        grouped = self.spec.grouped and self.groups > 1
        return tuple(axis for axis in axes if not (grouped and axis == x.ndim - 1))

    def _keep(self, x: jax.Array, found: Moments | None, variables: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Updates the running averages in training, and stores the input's moments where they are asked for."""
        stored = variables[0].value.shape
        asked = self.is_mutable_collection("moments")
        if self.use_running_average and asked:
            axes = reduction_axes(self.spec.reductions[0], x.ndim)
            merge = {**options, "sub_batches": 1, "groups": self.groups if self.spec.grouped else 1}
            found = norms.moments(x, axes, center=self.spec.center, **merge)
        if asked:
            assert found is not None
            at: Any = self.variable("moments", "found", lambda: None)
            at.value = Moments(*(jnp.broadcast_to(value, found.mean.shape).reshape(stored) for value in found))
        if not self.use_running_average:
            assert found is not None
            new = norms.pooled(found) if self.spec.divided else found
            new = Moments(*(jnp.broadcast_to(value, new.mean.shape).reshape(stored) for value in new))
            mean, var, *updates = variables
            counted: Any = updates[0].value if updates else None
            mean.value, var.value = self.average.update(mean.value, var.value, new, counted)
            if updates:
                updates[0].value = counted + 1
