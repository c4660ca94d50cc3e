"""Normalization with a written-out gradient: what a training step on a CPU reads once, autodiff reads several times.

The backward pass keeps x and two statistics (for float32 also the mean's rounding), not the float32 copies that
differentiating the formula keeps.  It holds for the common form, (x - mean) / sqrt(var + epsilon) * scale + bias, with
the input's own statistics and perhaps a ReLU; everything else is norms.normalization.

Reverse mode, reverse over reverse and vmap work; forward mode does not (jax.custom_vjp).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from normres import norms
from normres.cpu.activation import activation as activate
from normres.cpu.activation import add, passed
from normres.cpu.rows import elementwise, summed
from normres.norms import Moments, NormSpec, forms, normalize
from normres.norms.moments import STATISTICS, Reduction, cleaned, mask_for
from normres.norms.spec import checked_parameters, spec_reduction


def normalization(
    x: jax.Array, spec: NormSpec, params: Mapping[str, jax.Array] | None = None, **options: Any
) -> tuple[jax.Array, Moments | None]:
    """norms.normalization, with the same arguments, values and errors."""
    x = jnp.asarray(x)  # it may be a sum that is not computed yet
    residual, activation = options.pop("residual", None), options.pop("activation", "identity")
    own_statistics = not options.get("use_running") and isinstance(spec.over, str) and not spec.var_over
    # Flax's scan takes a sum over devices in a custom gradient for a dependency between blocks.
    own_statistics &= options.get("axis_name") is None
    # Of masked elements the written form does not know the mean's rounding, which counts in float32.
    exact = x.dtype != jnp.float32 or options.get("where") is None
    own_form = spec.form is forms.standardized and own_statistics and exact
    if not own_form or activation not in ("identity", "relu"):
        return norms.normalization(x, spec, params, **options, residual=residual, activation=activation)
    affine = checked_parameters(x, spec, params or {})
    over = spec_reduction(x, spec, spec.reductions[0])
    where = mask_for(x, options.get("where"))
    rectify = activation == "relu"
    static = (over, spec.epsilon, rectify and residual is None)
    y, moments = _standardize(static, cleaned(x, where), affine.get("scale"), affine.get("bias"), where)
    if not over.center:
        moments = moments._replace(mean=jnp.zeros_like(moments.var))
    if residual is not None:
        y = activate(add(y, jnp.asarray(residual).astype(x.dtype)), activation)
    return y, moments


_Static = tuple[Reduction, float, bool]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _standardize(static: _Static, x: Any, scale: Any, bias: Any, where: Any) -> tuple[jax.Array, Moments]:
    return _standardize_forward(static, x, scale, bias, where)[0]


def _standardize_forward(static: _Static, x: Any, scale: Any, bias: Any, where: Any) -> tuple[Any, Any]:
    over, epsilon, rectify = static
    moments, rest = checkpoint_name(_moments_and_rest(over, x, where), STATISTICS)
    y = elementwise(partial(_normalized, epsilon, rectify), x, moments.mean, rest, moments.var, scale, bias)
    return (y, moments), (x, scale, bias, where, moments, rest, y if rectify else None)


def _total(over: Reduction, function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None) -> jax.Array:
    """`over.total` of function(x, *others), see rows.summed."""
    return over.over_parts(summed(function, over.whole_axes, x, *others))


def _moments_and_rest(over: Reduction, x: jax.Array, where: jax.Array | None) -> tuple[Moments, jax.Array | None]:
    """Moments by two passes over x, and what rounding took from the mean: it is mean + rest exactly.

    The rest is None where it is not known: for inputs below float32, whose own rounding is coarser; for masked
    statistics, of which those in float32 are not computed here; and where the mean is not subtracted.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    count = over.count(x, where, dtype)
    safe_count = jnp.maximum(count, 1)
    if where is not None:
        x = jnp.where(where, x, 0)
    exact = jnp.finfo(x.dtype).bits >= 32 and over.center and where is None
    if exact:
        # Any element near the mean: the sums are then of small numbers.
        shift = lax.stop_gradient(_first(over, x))
        own = checkpoint_name(_total(over, _deviation, x, shift, None) / safe_count, STATISTICS)
        mean = shift + own
        rest = own - (mean - shift)
    else:
        mean = _total(over, lambda x: x.astype(dtype), x) / safe_count if over.center else jnp.zeros_like(safe_count)
        # Here too, for the variance is differentiated through it.
        mean, rest = checkpoint_name(mean, STATISTICS), None
    squares = _total(over, _squared_deviation, x, mean, rest, where)
    return Moments(mean, squares / safe_count, count), rest


def _first(over: Reduction, x: jax.Array) -> jax.Array:
    """Returns the first element of each part, broadcastable to x; 0 where it is not finite."""
    parts = dict(over.parts)
    for axis in over.axes:
        size = x.shape[axis] // parts.get(axis, 1)
        x = lax.slice_in_dim(x, 0, None, size, axis)
        x = jnp.repeat(x, size, axis) if axis in parts else x
    return jnp.where(jnp.isfinite(x), x, 0)


def _deviation(x: jax.Array, mean: jax.Array, rest: jax.Array | None) -> jax.Array:
    deviation = x.astype(mean.dtype) - mean
    return deviation if rest is None else deviation - rest


def _squared_deviation(x: Any, mean: Any, rest: Any, where: Any = None) -> jax.Array:
    squared = lax.square(_deviation(x, mean, rest))
    return squared if where is None else jnp.where(where, squared, 0)


def _normalized(
    epsilon: float, rectify: bool, x: Any, mean: Any, rest: Any, var: Any, scale: Any, bias: Any
) -> jax.Array:
    zero = jnp.zeros((), mean.dtype)
    y = normalize(_deviation(x, mean, rest), zero, var, scale=scale, bias=bias, epsilon=epsilon)
    return (jnp.maximum(y, 0) if rectify else y).astype(x.dtype)


def _standardize_backward(static: _Static, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    """With d = x - mean and r = 1 / sqrt(var + epsilon), so y = d r scale + bias:

    d_mean = -sum(dy scale r), d_var = -sum(dy scale d) r^3 / 2, and, as the deviations sum to zero,
    dx = dy scale r + (d_mean + 2 d d_var) / count, the second part at the elements that count.
    """
    over, epsilon, _ = static
    x, scale, bias, where, moments, rest, rectified = residuals
    dy, d_moments = cotangents
    dtype = moments.mean.dtype
    factor = lax.rsqrt(moments.var + epsilon)
    # One pass over x and dy sums along the axes on which neither the statistics nor scale and bias vary; all that
    # is needed follows from these small sums.
    affine = [array for array in (scale, bias) if array is not None]
    common = tuple(axis for axis in over.whole_axes if all(array.shape[axis] == 1 for array in affine))
    sum_dy = summed(partial(passed, dtype), common, dy, rectified)
    sum_dy_deviation = summed(_times_deviation, common, x, dy, rectified, moments.mean, rest)
    weight = factor if scale is None else factor * scale.astype(dtype)
    count = jnp.maximum(moments.count, 1)
    d_mean = over.total(d_moments.mean) - over.total(weight * sum_dy) if over.center else 0.0
    d_var = over.total(d_moments.var) - 0.5 * lax.square(factor) * over.total(weight * sum_dy_deviation)
    per_count, per_deviation = d_mean / count, 2 * d_var / count
    dx = elementwise(_input_gradient, x, dy, rectified, moments.mean, rest, where, weight, per_count, per_deviation)
    d_scale = None if scale is None else _sum_to(sum_dy_deviation * factor, scale)
    d_bias = None if bias is None else _sum_to(sum_dy, bias)
    return dx, d_scale, d_bias, None


_standardize.defvjp(_standardize_forward, _standardize_backward)


def _times_deviation(x: Any, dy: Any, rectified: Any, mean: Any, rest: Any) -> jax.Array:
    return passed(mean.dtype, dy, rectified) * _deviation(x, mean, rest)


def _input_gradient(
    x: Any, dy: Any, rectified: Any, mean: Any, rest: Any, where: Any, weight: Any, per_count: Any, per_deviation: Any
) -> jax.Array:
    """The deviation is taken anew rather than kept from the sums."""
    of_statistics = per_count + _deviation(x, mean, rest) * per_deviation
    if where is not None:
        of_statistics = jnp.where(where, of_statistics, 0)
    return (passed(mean.dtype, dy, rectified) * weight + of_statistics).astype(x.dtype)


def _sum_to(values: jax.Array, like: jax.Array) -> jax.Array:
    """Sums `values` to the shape of `like`, which broadcasts to it, in its dtype."""
    axes = tuple(axis for axis, size in enumerate(like.shape) if size == 1)
    return jnp.sum(values, axes, keepdims=True).astype(like.dtype)
