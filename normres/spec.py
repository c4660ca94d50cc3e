"""What a norm is, `NormSpec`, and its application to an array: `normalization`, and how running averages follow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from normres import forms
from normres.activation import relu, relu_of_sum
from normres.deferred import Convolved, Pending
from normres.fused import standardize
from normres.merging import statistics
from normres.moments import Moments, aligned, broadcastable, moments, normalize, reduction, reduction_axes

Change = Literal["scale", "shift", "example scale", "example shift", "channel scale", "channel shift"]


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
      formula: what it computes, x^ being the standardized x.
      invariant: changes of the input that change nothing: of all of it by one positive factor (scale) or by one
        addend (shift), or by one of each for every example or channel.  Measured with epsilon = 0, in training.
      passes: times that the input is read or the output written, forward and in training.
      use: when to take it.
    """

    paper: str
    formula: str
    invariant: tuple[Change, ...]
    passes: int
    use: str


@dataclass(frozen=True)
class NormSpec:
    """A normalization: the axes it averages over, and a few switches.

    Attributes:
      over: letters out of N, S (or H, W) and C; or several such words, for a form that mixes reductions.
      grouped: whether C is split into groups with statistics of their own.
      divided: whether N is split into sub-batches with statistics of their own.
      center: whether the mean is subtracted; without, the "variance" is the mean square.
      running: whether evaluation uses running averages in place of the reduction over N.
      affine: which of scale and bias it has.
      form: the formula, if not that of the module's docstring.
      parameters: what it learns beside scale and bias.
      activation: those of `parameters` that make its nonlinearity.  It replaces a ReLU that follows, and without
        one they are left out.
      about: documentation.
    """

    over: str | tuple[str, ...]
    grouped: bool = False
    divided: bool = False
    center: bool = True
    running: bool = False
    affine: tuple[str, ...] = ("scale", "bias")
    form: forms.Form | None = None
    parameters: tuple[Parameter, ...] = ()
    activation: tuple[str, ...] = ()
    about: About | None = None

    @property
    def reductions(self) -> tuple[str, ...]:
        """Returns the words of `over`; the first is the one that running averages stand for."""
        return (self.over,) if isinstance(self.over, str) else self.over


def normalization(
    x: jax.Array,
    spec: NormSpec,
    *,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    parameters: Mapping[str, jax.Array] | None = None,
    running: Moments | None = None,
    use_running: bool = False,
    groups: int = 1,
    sub_batches: int = 1,
    epsilon: float = 1e-5,
    channel_axis: int = -1,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    one_pass: bool = False,
    rectify: bool = False,
    side: jax.Array | None = None,
) -> tuple[jax.Array, Moments | None]:
    """Normalizes x (N, ..., C), of any rank from 2, as a row of the table says.

    Args:
      x: channels at `channel_axis`.
      spec: a row of TABLE, or any NormSpec.
      scale, bias: of any shape that broadcasts to x; a vector per channel if the channels are last.
      parameters: the spec's own, by name, in such shapes too, or one value per reduction.  Those that are left out
        have their initial values, but without those of its nonlinearity it has none.
      running: running averages, for norms that have them; batch renormalization reads them in training too.
      use_running: put `running` in place of the reduction over N.
      groups: number of channel groups, read if spec.grouped.
      sub_batches: number of sub-batches, read if spec.divided.
      epsilon, channel_axis, where, axis_name, one_pass: see `normalize` and `moments`.  `axis_name` merges every
        reduction over those devices: give it where they share examples or, for norms over N, a batch.
      rectify: return max(y, 0), where possible from the same pass over x.
      side: of x's shape and dtype, added to y before that.

    Returns:
      y of x's shape and dtype, and the moments of the spec's first reduction (None if it has none).

    Raises:
      ValueError: nothing to average over, parts that do not divide, an array that does not broadcast, or x that is
        not of floating-point numbers.
    """
    extra = _parameters(spec, parameters or {})
    given_affine = {"scale": broadcastable("scale", scale, x), "bias": broadcastable("bias", bias, x)}
    affine = {name: array for name, array in given_affine.items() if array is not None}
    where = broadcastable("where", where, x)
    if running is not None:
        running = Moments(*(aligned(jnp.asarray(value), x.ndim) for value in running))
    elif use_running:
        raise ValueError("use_running needs running averages")
    options: dict[str, Any] = {
        "groups": groups if spec.grouped else 1,
        "sub_batches": sub_batches if spec.divided else 1,
        "channel_axis": channel_axis,
        "where": where,
        "one_pass": one_pass,
    }

    def measured(over: str) -> Moments:
        """Returns the running averages or the input's own moments; the devices merge what they share."""
        if use_running and "N" in over:
            assert running is not None
            return running
        merged = axis_name if "N" in over or "N" not in "".join(spec.reductions) else None
        axes = reduction_axes(over, x.ndim, channel_axis)
        return moments(x, axes, center=spec.center, axis_name=merged, **options)

    if spec.form is None:
        if not use_running:
            axes = reduction_axes(spec.reductions[0], x.ndim, channel_axis)
            kind = {"axis_name": axis_name, "center": spec.center, "epsilon": epsilon, "rectify": rectify}
            return standardize(x, axes, side=side, **affine, **kind, **options)  # type: ignore[arg-type]
        assert running is not None
        y = normalize(x, running.mean, running.var, **affine, epsilon=epsilon)
        return _finished(y, rectify, side), running
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected an array of real floating-point numbers, got one of {x.dtype}")
    found = tuple(measured(over) for over in spec.reductions)
    per_channel = {p.name for p in spec.parameters if p.per == "channel"}
    own: dict[str, Any] = {
        name: broadcastable(name, array, x) if name in per_channel else array for name, array in extra.items()
    }
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if where is not None:
        # What is not finite under the mask would spoil gradients: zero times infinity.
        wide = jnp.where(where | jnp.isfinite(wide), wide, 0)
    given = forms.Given(wide, found, running, affine | own, epsilon, channel_axis % x.ndim, where)
    y = spec.form(given).astype(x.dtype)
    return _finished(y, rectify, side), (found[0] if found else None)


def deferrable(spec: NormSpec) -> bool:
    """Returns whether `deferred` knows the norm: its statistics follow from each example's and channel's."""
    return spec.form is None and ("S" in spec.reductions[0] or {"H", "W"} <= set(spec.reductions[0]))


def deferred(
    convolved: Convolved,
    spec: NormSpec,
    *,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    running: Moments | None = None,
    use_running: bool = False,
    groups: int = 1,
    sub_batches: int = 1,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
    rectify: bool = False,
    side: jax.Array | None = None,
) -> tuple[Pending, Moments]:
    """`normalization` of a convolution's output, left to the next convolution, and the moments.

    Args: as of `normalization`, for a `deferrable` norm.  The output's own moments are read unless `use_running`.
    """
    y = convolved.y
    if use_running:
        assert running is not None
        found, center, factor = running, running.mean, lax.rsqrt(running.var + epsilon)
        factor = factor if scale is None else factor * aligned(scale, y.ndim)
    else:
        assert convolved.mean is not None
        assert convolved.squares is not None
        mean, squares = (of[:, None, None, :] for of in (convolved.mean, convolved.squares))
        options: dict[str, Any] = {"groups": groups if spec.grouped else 1}
        options["sub_batches"] = sub_batches if spec.divided else 1
        over = reduction(mean, reduction_axes(spec.reductions[0], y.ndim), axis_name=axis_name, **options)
        found, center, factor = statistics(over, spec.center, mean, squares, scale, y.shape[1] * y.shape[2], epsilon)
    shift = jnp.zeros((1,) * y.ndim) if bias is None else aligned(bias, y.ndim)
    rows = max(of.shape[0] for of in (center, factor, shift))  # as many as examples, or one for all
    center, factor, shift = (
        jnp.broadcast_to(of, (rows, 1, 1, y.shape[-1])).reshape(rows, y.shape[-1]) for of in (center, factor, shift)
    )
    return Pending(y, center, factor, shift, side, rectify), found


def _finished(y: jax.Array, rectify: bool, side: jax.Array | None) -> jax.Array:
    """Adds the side and applies the rectifier."""
    if side is None:
        return relu(y) if rectify else y
    return relu_of_sum(y, side) if rectify else y + side


def _parameters(spec: NormSpec, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the spec's own parameters, the given ones and, for those left out, their initial values."""
    own = {parameter.name: parameter for parameter in spec.parameters}
    if strangers := sorted(set(given) - set(own)):
        raise ValueError(f"this norm has no parameter {strangers[0]!r}; it has {', '.join(own) or 'none'}")
    found = dict(given)
    for name, parameter in own.items():
        if name not in found and name not in spec.activation:
            size = len(spec.reductions) if parameter.per == "reduction" else 1
            found[name] = jnp.full((size,), parameter.initial)
    return found


@dataclass(frozen=True)
class Average:
    """How running statistics follow the batches'.

    Attributes:
      kind: "exponential"; "debiased", the same corrected for its start (as Adam does), so that the first batch
        counts fully; or "cumulative", the plain mean of all batches so far.
      momentum: share of the old value that stays, read by the first two.
      torch_momentum: `momentum` is PyTorch's instead: the share of the new value.
      unbiased: average the unbiased variance, n / (n - 1) times the biased one, as PyTorch and Keras do.
    """

    kind: Literal["exponential", "debiased", "cumulative"] = "exponential"
    momentum: float = 0.9
    torch_momentum: bool = False
    unbiased: bool = False

    def kept(self, updates: jax.Array | None) -> jax.Array | float:
        """Returns the share of the old value in an update that `updates` others precede.

        A debiased average m_t / (1 - k^t), m_t = k m_(t-1) + (1 - k) x_t, is itself an average whose old value
        keeps the share k (1 - k^(t-1)) / (1 - k^t); so all three kinds differ in this share only.
        """
        keep = 1 - self.momentum if self.torch_momentum else self.momentum
        if self.kind == "exponential":
            return keep
        assert updates is not None, f"a {self.kind} average counts its updates"
        if self.kind == "cumulative":
            return updates / (updates + 1)
        return keep * (1 - keep**updates) / (1 - keep ** (updates + 1))

    def update(
        self, mean: jax.Array, var: jax.Array, new: Moments, updates: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the running mean and variance after the batch moments `new`; a batch without elements is ignored."""
        of_new = new.var * new.count / jnp.maximum(new.count - 1, 1) if self.unbiased else new.var
        kept = jnp.where(new.count > 0, self.kept(updates), 1.0)
        return kept * mean + (1 - kept) * new.mean, kept * var + (1 - kept) * of_new


def pooled(found: Moments) -> Moments:
    """Averages moments over axis 0 by their counts: those of sub-batches, as one batch's for running averages."""
    share = found.count / jnp.maximum(jnp.sum(found.count * jnp.ones_like(found.mean), 0, keepdims=True), 1)
    mean, var = (jnp.sum(value * share, 0, keepdims=True) for value in (found.mean, found.var))
    count = jnp.max(found.count * jnp.ones_like(found.mean), 0, keepdims=True)
    return Moments(mean, var, count)
