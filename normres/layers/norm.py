"""`Norm`: any row of the axis table with its parameters and running averages."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.layers.ops import PLAIN, Ops
from normres.norms import Average, Moments, NormSpec, pooled, reduction_axes
from normres.norms.moments import deviation_and_moments, mask_for
from normres.norms.spec import spec_reduction


class Norm(nn.Module):
    """Any normalization of the axis table, channels last, with its parameters.

    A norm with `spec.running` keeps `mean` and `var` in the collection `batch_stats` (and `updates`, if its average
    counts them), normalizes with them when `use_running_average`, and updates them otherwise; other norms always
    use the input's own statistics.  If the collection `moments` is mutable, a norm with
    `spec.running` stores the input's moments there, also in evaluation (see recalibrate.py).

    Attributes:
      spec: a row of norms.TABLE (find_spec sets its groups and epsilon), or any NormSpec.
      average: how running averages are updated.
      use_running_average: True in evaluation.
      axis_name: device axis over which the examples, and so the statistics of a norm over N, are spread.
      scale_init: initializer of the scale.
      ops: the operations, see layers.Ops.
    """

    spec: NormSpec
    average: Average = Average()
    use_running_average: bool = False
    axis_name: str | None = None
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    ops: Ops = PLAIN

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        residual: jax.Array | None = None,
        activation: str = "identity",
        affine: Mapping[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Returns activation(norm(x) + residual) for x (N, ..., C), of the same shape and dtype.

        `mask` (broadcastable) excludes elements from the statistics.  `affine` has a scale and a bias, broadcastable to
        x, in place of the layer's own parameters: (N, 1, 1, C) if they depend on a class (conditional instance norm) or
        on a picture (AdaIN), (N, H, W, C) if they depend on the place (SPADE).  A norm's own nonlinearity
        replaces `activation`; it is left out if `activation` is "identity".
        """
        if self.spec.channel_axis % x.ndim != x.ndim - 1:
            axis = self.spec.channel_axis
            raise ValueError(f"channel_axis={axis}: layers.Norm has channels last; norms.normalization takes any")
        # `init` sees one example on one device: there is nothing to split and nothing to merge.
        spec = replace(self.spec, sub_batches=1) if self.is_initializing() else self.spec
        spread = spec.over_examples and spec.sub_batches == 1 and not self.is_initializing()
        axis_name = self.axis_name if spread else None
        running, variables = self._running(x) if spec.running else (None, ())
        y, moments = self.ops.normalization(
            x,
            spec,
            self._parameters(x.shape[-1], activation, affine),
            running=running,
            use_running=spec.running and self.use_running_average,
            where=mask,
            axis_name=axis_name,
            residual=residual,
            activation=activation,
        )
        if spec.running and not self.is_initializing():
            own = pooled(moments) if spec.sub_batches > 1 else moments
            if not self.use_running_average:
                self._update(own, variables)
            if self.is_mutable_collection("moments"):
                # `own` is not the whole batch's: measure that.
                if self.use_running_average or spec.sub_batches > 1:
                    whole = spec_reduction(x, replace(spec, sub_batches=1), spec.reductions[0], axis_name)
                    _, own = deviation_and_moments(x, whole, mask_for(x, mask, "mask"))
                self._store(own)
        return y

    def _parameters(
        self, channels: int, activation: str, affine: Mapping[str, jax.Array] | None
    ) -> dict[str, jax.Array]:
        """Makes scale, bias and the spec's own parameters; scale and bias only if they are not given."""
        if affine is not None and (strange := sorted(affine.keys() - {*self.spec.affine})):
            raise ValueError(
                f"affine: this norm has no {strange[0]}; it has {', '.join(self.spec.affine) or 'nothing'}"
            )
        initial = {"scale": self.scale_init, "bias": nn.initializers.zeros}
        params = {
            name: self.param(name, initial[name], (channels,), jnp.float32) if affine is None else affine[name]
            for name in self.spec.affine
        }
        for parameter in self.spec.parameters:
            if activation != "identity" or parameter.name not in self.spec.activation:
                size = channels if parameter.per == "channel" else len(self.spec.reductions)
                constant = nn.initializers.constant(parameter.initial)
                params[parameter.name] = self.param(parameter.name, constant, (size,), jnp.float32)
        return params

    def _reduced_axes(self, ndim: int) -> tuple[int, ...]:
        """Returns the axes that running averages lack: those reduced, but not the channels where groups differ."""
        axes = reduction_axes(self.spec.reductions[0], ndim)
        return tuple(axis for axis in axes if not (self.spec.groups > 1 and axis == ndim - 1))

    def _running(self, x: jax.Array) -> tuple[Moments, tuple[Any, ...]]:
        """Returns the running averages, broadcastable to x, and the variables that hold them."""
        axes = self._reduced_axes(x.ndim)
        shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
        variables = list(running_statistics(self, shape))
        if self.average.kind != "exponential":
            variables.append(self.variable("batch_stats", "updates", jnp.zeros, (), jnp.float32))
        mean, var = (jnp.expand_dims(variable.value, axes) for variable in variables[:2])
        return Moments(mean, var, jnp.ones(())), tuple(variables)  # the count is not read

    def _store(self, moments: Moments) -> None:
        """Stores the input's moments in the collection `moments`, without the axes that running averages lack."""
        axes = self._reduced_axes(moments.mean.ndim)
        stored: Any = self.variable("moments", "input", lambda: None)
        stored.value = Moments(*(jnp.squeeze(value, axes) for value in moments))

    def _update(self, moments: Moments, variables: tuple[Any, ...]) -> None:
        """Updates the running averages with the moments of a batch."""
        mean, var, *updates = variables
        updates_done: Any = updates[0].value if updates else None
        mean.value, var.value = self.average.update(mean.value, var.value, moments, updates_done)
        if updates:
            updates[0].value = updates_done + jnp.any(moments.count > 0)


def running_statistics(module: nn.Module, shape: Any) -> tuple[Any, Any]:
    """Returns the module's variables `mean` and `var` in the collection `batch_stats`, in float32, as Flax has them."""
    mean = module.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    var = module.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    return mean, var
