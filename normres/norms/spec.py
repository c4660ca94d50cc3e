"""What a norm is, `NormSpec`, and its application to an array, `normalization`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from normres.norms import forms
from normres.norms.moments import (
    Deviation,
    Moments,
    Reduction,
    broadcastable,
    check_floating,
    cleaned,
    deviation_and_moments,
    mask_for,
    reduction,
)

# Names of axes: N (examples), S (all spatial axes; singly H, W and D), C (channels).
LETTERS = "NSCHWD"

Change = Literal["scale", "shift", "example scale", "example shift", "channel scale", "channel shift"]


def reduction_axes(over: str, ndim: int, channel_axis: int = -1) -> tuple[int, ...]:
    """Turns letters into axis numbers: N is axis 0, C is `channel_axis`, S is every other axis.

    W, H and D name single spatial axes: the last, the one before it, and the one before that.  An array of two axes
    has no spatial axis, so S is then nothing.

    Raises:
      ValueError: another letter, an axis that is named twice or absent, or a channel axis out of range.
    """
    if not -ndim <= channel_axis < ndim or channel_axis % ndim == 0:
        raise ValueError(f"channel_axis={channel_axis} does not fit an array of {ndim} axes, of which 0 is N")
    channel_axis %= ndim
    spatial = tuple(axis for axis in range(1, ndim) if axis != channel_axis)
    meaning = {"N": (0,), "C": (channel_axis,), "S": spatial}
    meaning |= {letter: (axis,) for letter, axis in zip("WHD", reversed(spatial), strict=False)}
    if absent := sorted(set(over) - set(meaning)):
        raise ValueError(f"over={over!r}: an array of {ndim} axes has no {absent[0]!r}; choices: {', '.join(meaning)}")
    axes = [axis for letter in over for axis in meaning[letter]]
    if len(set(axes)) != len(axes):
        raise ValueError(f"over={over!r} names an axis twice")
    return tuple(sorted(axes))


@dataclass(frozen=True)
class Parameter:
    """A learned parameter beside scale and bias: one value per channel, or one per reduction of the spec."""

    name: str
    initial: float
    per: Literal["channel", "reduction"] = "channel"


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a norm; `docs/norms.md` is made of it, and the tests check `invariant`.

    Attributes:
      paper: where it is from.
      use: when to take it.
      invariant: changes of x that do not change y: times a positive factor (scale), plus a number (shift), one for all
        of x or one for each example or channel.  Measured with epsilon = 0, in training.
      formula: what it computes before scale and bias; x̂ is the standardized x.
    """

    paper: str
    use: str
    invariant: tuple[Change, ...] = ()
    formula: str = "x̂ = (x - mean) / sqrt(var + epsilon)"


@dataclass(frozen=True)
class NormSpec:
    """A normalization: the axes it averages over, and a few switches.

    Attributes:
      over: letters of N, S (or H, W, D) and C; a tuple of such words for a form that mixes reductions.
      var_over: letters of the variance, if they are more than those of the mean; "" = the same.
      groups: channel groups, each with its own statistics (if `over` has C); find_spec replaces all but 1.
      sub_batches: number of parts of the batch, each with its own statistics; read if `over` has N.
      center: whether the mean is subtracted; without, the "variance" is the mean square.
      running: whether evaluation uses running averages in place of the reduction over N.
      affine: which of scale and bias it has.
      form: the formula (forms.py).
      parameters: what it learns beside scale and bias.
      activation: names of the `parameters` of its own nonlinearity.  It replaces the activation after the norm; where
        none follows, it is off.
      epsilon: added to variances.
      channel_axis: where the channels stand in the array.
      about: documentation.
    """

    over: str | tuple[str, ...]
    var_over: str = ""
    groups: int = 1
    sub_batches: int = 1
    center: bool = True
    running: bool = False
    affine: tuple[str, ...] = ("scale", "bias")
    form: forms.Form = forms.standardized
    parameters: tuple[Parameter, ...] = ()
    activation: tuple[str, ...] = ()
    epsilon: float = 1e-5
    channel_axis: int = -1
    about: About | None = None

    @property
    def reductions(self) -> tuple[str, ...]:
        """Returns the words of `over`; the first is the one that running averages stand for."""
        return (self.over,) if isinstance(self.over, str) else self.over

    @property
    def over_examples(self) -> bool:
        """Returns whether any of its statistics depends on more than one example."""
        return "N" in "".join((*self.reductions, self.var_over))

    def split(self, groups: int = 1, sub_batches: int = 1) -> "NormSpec":
        """Returns the norm with these numbers of parts, where it has groups or sub-batches."""
        groups, sub_batches = groups if self.groups > 1 else 1, sub_batches if self.sub_batches > 1 else 1
        return replace(self, groups=groups, sub_batches=sub_batches)


def normalization(
    x: jax.Array,
    spec: NormSpec,
    params: Mapping[str, jax.Array] | None = None,
    *,
    running: Moments | None = None,
    use_running: bool = False,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    residual: jax.Array | None = None,
    activation: str = "identity",
) -> tuple[jax.Array, Moments | None]:
    """Normalizes x (N, ..., C), of any rank from 2, as a row of the table says: activation(norm(x) + residual).

    Args:
      x: of any floating dtype; channels at spec.channel_axis.
      spec: a row of TABLE, or any NormSpec.
      params: "scale", "bias" and the spec's own by name, each of any shape that broadcasts to x (a vector per channel
        if the channels are last), or one value per reduction.  A missing scale or bias is not applied.  A missing
        parameter of `spec.activation` turns the nonlinearity off.  Any other missing one has its initial value.
      running: running averages, broadcastable to x, for norms that have them; batch renormalization reads them in
        training too.
      use_running: put `running` in place of the reduction over N.
      where: boolean, broadcastable to x; elements where it is False do not count in the statistics.
      axis_name: a device axis.  For a norm over N it splits the batch, and reductions over N are merged.  For any other
        norm it splits each example, and all reductions are merged.
      residual: of x's shape, added to the normalized x in x's dtype.
      activation: a row of forms.ACTIVATIONS; not applied if norm(x) already has the spec's own nonlinearity.

    Returns:
      y of x's shape and dtype, and the moments of the spec's first reduction (None if it has none).

    Raises:
      ValueError: parts that do not divide, an array that does not broadcast, an unknown parameter, or x that is not
        of floating-point numbers.
    """
    x = jnp.asarray(x)
    check_floating(x)
    if use_running and running is None:
        raise ValueError("use_running needs running averages")
    parameters = checked_parameters(x, spec, params or {})
    where = mask_for(x, where)
    if running is not None:
        running = Moments(*(broadcastable(f"running {name}", value, x) for name, value in running._asdict().items()))
    wide = cleaned(x.astype(jnp.promote_types(x.dtype, jnp.float32)), where)

    def measured(over: str) -> tuple[Deviation, Moments]:
        """Returns the deviation from the mean and the moments, the input's own or the running averages."""
        if running is not None and use_running and "N" in over:
            return Deviation(wide - running.mean, jnp.zeros_like(running.mean)), running
        return deviation_and_moments(x, spec_reduction(x, spec, over, axis_name), where)

    deviations, moments = zip(*map(measured, spec.reductions), strict=True) if spec.reductions else ((), ())
    terms = forms.Terms(wide, deviations, moments, running, parameters, spec.epsilon, spec.channel_axis % x.ndim, where)
    y = spec.form(terms).astype(x.dtype)
    if residual is not None:
        y = y + broadcastable("residual", residual, x).astype(x.dtype)
    if not any(name in parameters for name in spec.activation):
        y = forms.activated(y, activation)
    return y, moments[0] if moments else None


def spec_reduction(x: jax.Array, spec: NormSpec, over: str, axis_name: str | None = None) -> Reduction:
    """Returns the Reduction of x over the letters `over` of a spec, with axis_name if the devices must merge it."""
    axes = reduction_axes(over, x.ndim, spec.channel_axis)
    var_axes = reduction_axes(spec.var_over, x.ndim, spec.channel_axis) if spec.var_over else ()
    # If devices split the batch, each has all elements of a reduction without N.
    merged_axis = axis_name if "N" in over or not spec.over_examples else None
    examples = (0, spec.sub_batches, "sub_batches", "examples")
    channels = (spec.channel_axis % x.ndim, spec.groups, "groups", "channels")
    for axis, count, name, what in (examples, channels):
        if axis in axes and (count < 1 or x.shape[axis] % count):
            raise ValueError(f"{name}={count} does not divide {x.shape[axis]} {what}")
    parts = {0: spec.sub_batches, spec.channel_axis: spec.groups}
    return reduction(x, axes, parts, var_axes, center=spec.center, axis_name=merged_axis)


def checked_parameters(x: jax.Array, spec: NormSpec, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the given parameters, checked, and missing own ones (but the nonlinearity's) at their initial values."""
    own = {parameter.name: parameter for parameter in spec.parameters}
    if unknown := sorted(set(params) - set(own) - {"scale", "bias"}):
        raise ValueError(f"this norm has no parameter {unknown[0]!r}; it has {', '.join(('scale', 'bias', *own))}")
    checked: dict[str, Any] = {}
    for name in ("scale", "bias", *own):
        per_reduction = name in own and own[name].per == "reduction"
        if params.get(name) is not None:
            array = params[name]
            checked[name] = jnp.asarray(array) if per_reduction else broadcastable(name, array, x)
        elif name in own and name not in spec.activation:
            checked[name] = jnp.full((len(spec.reductions),) if per_reduction else (1,) * x.ndim, own[name].initial)
    return checked
