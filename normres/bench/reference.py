"""What a norm and its gradient are, in NumPy and float64: independent of JAX, and what errors are measured against."""

import numpy as np
from numpy.typing import NDArray

from normres.norms import NormSpec

Array = NDArray[np.float64]


def reference(x: Array, dy: Array, spec: NormSpec, epsilon: float) -> tuple[Array, Array, Array]:
    """Returns what a NormSpec without a form computes; x and dy are (N, ..., C), and so is each result.

    y = r (x - mean) with the gain r = 1 / sqrt(var + epsilon), the gradient of sum(y dy) wrt x, which is
    dx = r (dy - mean(dy) - y mean(dy y)), and r.  Without the means of x and dy if the norm does not center.
    Statistics of 24-bit numbers in float64 are exact to 29 bits and more.
    """
    # Axes: sub-batches, their examples, spatial ones, groups, their channels.
    examples, channels = x.shape[0] // spec.sub_batches, x.shape[-1] // spec.groups
    split = (spec.sub_batches, examples, *x.shape[1:-1], spec.groups, channels)
    places = {"N": (1,), "S": tuple(range(2, x.ndim)), "C": (x.ndim + 1,)}
    axes = tuple(axis for letter in spec.over for axis in places[letter])

    def mean(values: Array) -> Array:
        return np.asarray(values.mean(axes, keepdims=True))

    # An infinity makes its own statistic NaN, and that is the right answer.
    with np.errstate(invalid="ignore", over="ignore"):
        values, gradient = x.reshape(split), dy.reshape(split)
        deviation = values - mean(values) if spec.center else values
        gain = 1 / np.sqrt(mean(deviation**2) + epsilon)
        y = deviation * gain
        dx = gradient - y * mean(gradient * y)
        dx = gain * (dx - mean(gradient) if spec.center else dx)
    return y.reshape(x.shape), dx.reshape(x.shape), np.broadcast_to(gain, split).reshape(x.shape)
