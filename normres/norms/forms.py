"""Forms: functions from the input and its moments to the output.  `standardized` is that of most norms.

A form is a pure function of one `Terms`.  It computes in at least float32; `normalization` casts the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from normres.errors import nearest
from normres.norms.moments import Deviation, Moments

RENORM_SCALE_LIMIT = 3.0  # r is clipped to [1/3, 3] and d to [-5, 5]: where Ioffe 2017 ends its schedule
RENORM_SHIFT_LIMIT = 5.0

# Krizhevsky, Sutskever, Hinton 2012, section 3.3: five neighbouring channels.
RESPONSE_OFFSET, RESPONSE_RADIUS, RESPONSE_ALPHA, RESPONSE_BETA = 2.0, 2, 1e-4, 0.75

# What may follow a norm or an addition.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"identity": lambda x: x, "relu": jax.nn.relu}


def activated(x: jax.Array, name: str = "relu") -> jax.Array:
    """Applies a row of ACTIVATIONS; one that does not exist is a ValueError that names the nearest."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} does not exist; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name](x)


@dataclass(frozen=True)
class Terms:
    """The terms of a formula: what a form may use.

    Attributes:
      x: the input, in at least float32.
      deviations: x - mean for each of the spec's reductions, in its order.
      moments: of each reduction; in evaluation the running averages replace those over N.
      running: the running averages, also while they are not used, or None.
      parameters: "scale", "bias" and the spec's own, each broadcastable to x.
      epsilon: added to variances.
      channel_axis: not negative.
      where: True for the elements that count, or None.
    """

    x: jax.Array
    deviations: tuple[Deviation, ...]
    moments: tuple[Moments, ...]
    running: Moments | None
    parameters: Mapping[str, jax.Array]
    epsilon: float
    channel_axis: int
    where: jax.Array | None

    def affine(self, y: jax.Array) -> jax.Array:
        """Applies scale and bias, where there are any."""
        if "scale" in self.parameters:
            y = y * self.parameters["scale"]
        return y + self.parameters["bias"] if "bias" in self.parameters else y

    def standardized(self, number: int = 0, scale: jax.Array | None = None, bias: jax.Array | None = None) -> jax.Array:
        """(x - mean) / sqrt(var + epsilon) * scale + bias, by the moments of reduction `number`.

        Where the statistics have the shape of scale and bias, as batch norm's, it is computed as shifted * factor +
        addend: the gradients then need only the sums of dy and of dy * shifted.  Elsewhere the addend would be an
        array of its own for each example.
        """
        shifted, rest = self.deviations[number]
        factor = lax.rsqrt(self.moments[number].var + self.epsilon)
        alike = all(each.shape == factor.shape for each in (scale, bias) if each is not None)
        factor = factor if scale is None else factor * scale
        addend = 0 if bias is None else bias
        return shifted * factor + (addend - rest * factor) if alike else (shifted - rest) * factor + addend

    def std(self, moments: Moments) -> jax.Array:
        """sqrt(var + epsilon)."""
        return jnp.sqrt(moments.var + self.epsilon)


Form = Callable[[Terms], jax.Array]


def standardized(terms: Terms) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias: the form of most norms."""
    return terms.standardized(0, terms.parameters.get("scale"), terms.parameters.get("bias"))


def identity(terms: Terms) -> jax.Array:
    """Returns x, scaled and shifted where there are scale and bias."""
    return terms.affine(terms.x)


def batch_renorm(terms: Terms) -> jax.Array:
    """x̂ r + d, r = clip(std / running std), d = clip((mean - running mean) / running std), both without gradient.

    Ioffe 2017, algorithm 1.
    """
    (batch,) = terms.moments
    y = terms.standardized()
    if terms.running is not None:
        running_std = terms.std(terms.running)
        r = jnp.clip(terms.std(batch) / running_std, 1 / RENORM_SCALE_LIMIT, RENORM_SCALE_LIMIT)
        d = jnp.clip((batch.mean - terms.running.mean) / running_std, -RENORM_SHIFT_LIMIT, RENORM_SHIFT_LIMIT)
        y = y * lax.stop_gradient(r) + lax.stop_gradient(d)
    return terms.affine(y)


def filter_response(terms: Terms) -> jax.Array:
    """max(y, threshold), the thresholded linear unit, where there is a threshold."""
    y = terms.affine(terms.standardized())
    return jnp.maximum(y, terms.parameters["threshold"]) if "threshold" in terms.parameters else y


def evonorm_s0(terms: Terms) -> jax.Array:
    """EvoNorm-S0: x sigmoid(v x) / sqrt(var + epsilon); without its nonlinearity, x / sqrt(var + epsilon)."""
    x = terms.x * jax.nn.sigmoid(terms.parameters["v"] * terms.x) if "v" in terms.parameters else terms.x
    return terms.affine(x / terms.std(terms.moments[0]))


def evonorm_b0(terms: Terms) -> jax.Array:
    """EvoNorm-B0: x / max(batch std, v x + instance std), std = sqrt(var + epsilon); without v, x / batch std."""
    batch, instance = terms.moments
    std = terms.std(batch)
    if "v" in terms.parameters:
        std = jnp.maximum(std, terms.parameters["v"] * terms.x + terms.std(instance))
    return terms.affine(terms.x / std)


def batch_instance(terms: Terms) -> jax.Array:
    """gate times batch-standardized plus (1 - gate) times instance-standardized x, the gate clipped to [0, 1]."""
    gate = terms.parameters["gate"]
    # Straight-through: a gate that an update has put outside [0, 1] can return (the paper clips it at the update).
    gate = lax.stop_gradient(jnp.clip(gate, 0, 1) - gate) + gate
    return terms.affine(gate * terms.standardized(0) + (1 - gate) * terms.standardized(1))


def switchable(terms: Terms) -> jax.Array:
    """(x - sum of w_k mean_k) / sqrt(sum of v_k var_k + epsilon), w = softmax(mean_logits), v = softmax(var_logits)."""
    weights = [jax.nn.softmax(terms.parameters[name].reshape(-1)) for name in ("mean_logits", "var_logits")]
    # The weights sum to 1, so this is x minus the weighted mean.
    deviation = sum(weight * each.whole() for weight, each in zip(weights[0], terms.deviations, strict=True))
    var = sum(weight * moments.var for weight, moments in zip(weights[1], terms.moments, strict=True))
    return terms.affine(deviation * lax.rsqrt(jnp.asarray(var) + terms.epsilon))


def local_response(terms: Terms) -> jax.Array:
    """Returns x / (2 + 1e-4 * sum of x^2 over the channel and two neighbours on each side) ^ 0.75."""
    squares = jnp.square(terms.x if terms.where is None else jnp.where(terms.where, terms.x, 0))
    window = [1] * squares.ndim
    window[terms.channel_axis] = 2 * RESPONSE_RADIUS + 1
    summed = lax.reduce_window(squares, np.zeros((), squares.dtype), lax.add, window, [1] * squares.ndim, "SAME")
    return terms.affine(terms.x / (RESPONSE_OFFSET + RESPONSE_ALPHA * summed) ** RESPONSE_BETA)
