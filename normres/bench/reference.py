"""What a norm and its gradient are, in NumPy and float64: independent of JAX, and what errors are measured against."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normres.norms import NormSpec

Array = NDArray[np.float64]


class Reference(NamedTuple):
    """The true values, each in the shape of x.

    Attributes:
      y: (x - mean) / sqrt(var + epsilon).
      dx: the gradient of sum(y dy).
      gain: 1 / sqrt(var + epsilon), the size of dx per dy where the statistics are held fixed.
    """

    y: Array
    dx: Array
    gain: Array


def reference(x: Array, dy: Array, spec: NormSpec, epsilon: float) -> Reference:
    """Returns y, its gradient wrt x and the gain of a NormSpec without a form; x and dy are (N, ..., C).

    With r = 1 / sqrt(var + epsilon):  dx = r (dy - mean(dy) - y mean(dy y)), without mean(dy) if the norm does not
    center.  Statistics of 24-bit numbers in float64 are exact to 29 bits and more.
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
    return Reference(y.reshape(x.shape), dx.reshape(x.shape), np.broadcast_to(gain, split).reshape(x.shape))
