"""What equations of JAX and norms are called."""

import math
from typing import Any

import flax.linen as nn
import jax

from normres import layers, norms

LAYERS = (layers.Conv, nn.Conv, nn.ConvTranspose, nn.ConvLocal, nn.Dense, nn.DenseGeneral, nn.Einsum)

# Kind and text of an operation (watch.Op) by the name of the equation.
PRIMITIVES = {
    "conv_general_dilated": ("conv", "conv"),
    "dot_general": ("dense", "dense"),
    "add": ("add", "+"),
    "add_any": ("add", "+"),
    "sub": ("other", "−"),
    "concatenate": ("add", "∥"),
    "mul": ("gate", "×"),
    "div": ("other", "/"),
    "max": ("activation", "ReLU"),
    "logistic": ("activation", "sigmoid"),
    "tanh": ("activation", "tanh"),
    "reduce_window_max": ("pool", "max pool"),
    "reduce_window_sum": ("pool", "average pool"),
    "reduce_max": ("average", "global max"),
    "reduce_sum": ("average", "global average"),
    "slice": ("pad", "subsample"),
    "gather": ("pad", "subsample"),
    "pad": ("pad", "pad zeros"),
}


def equation_name(equation: Any) -> tuple[str, str, int]:
    """Returns an equation's kind and text, "" if it has none, and its multiply-adds."""
    params, primitive = equation.params, equation.primitive.name
    kind, text = PRIMITIVES.get(primitive, ("", ""))
    shapes, shape = [var.aval.shape for var in equation.invars], equation.outvars[0].aval.shape
    if primitive == "jit" and hasattr(jax.nn, params["name"]):
        return "activation", {"relu": "ReLU"}.get(params["name"], params["name"]), 0
    if kind == "conv":
        size = [shapes[1][axis] for axis in params["dimension_numbers"].rhs_spec[1:]]
        groups = params["feature_group_count"]
        text = _windowed("conv", size[1:], params["window_strides"]) + f", {groups} groups" * (groups > 1)
        return kind, text, math.prod(shape) * math.prod(size)
    if kind == "dense":
        return kind, text, math.prod(shape) * math.prod(shapes[0][axis] for axis in params["dimension_numbers"][0][0])
    if kind == "pool":
        return kind, _windowed(text, params["window_dimensions"][1:-1], params["window_strides"]), 0
    return ("", "", 0) if kind == "pad" and shape == shapes[0] else (kind, text, 0)


def _windowed(text: str, window: Any, strides: Any) -> str:
    """Returns "3×3 conv / 2"."""
    return f"{'×'.join(map(str, window))} {text}" + f" / {max(strides)}" * (max(strides) > 1)


def norm_name(module: Any, activation: str) -> str:
    """Returns "batch norm", "norm over NHC", ..., of a norm that is asked to apply `activation`."""
    if not isinstance(module, layers.Norm):
        return f"{type(module).__name__.removesuffix('Norm').lower()} norm"
    spec = module.spec
    rows = (row for row in norms.TABLE if norms.find_spec(row, spec.groups, spec.sub_batches, spec.epsilon) == spec)
    name = next(rows, f"norm over {' and '.join(spec.reductions)}").replace("_", " ")
    own = " with own nonlinearity" if spec.activation and activation != "identity" else ""
    return name + " norm" * ("norm" not in name) + own


def reductions(module: Any) -> tuple[tuple[str, ...], ...]:
    """Returns for each mean that a norm takes the axes that it goes over: (("N", "H", "W"),), (("H", "W", "C/8"),).

    "C/8": over each of 8 groups of channels.  "N/4": over each of 4 parts of the batch.  Of another library's norm
    they are not known, which is ().
    """
    if not isinstance(module, layers.Norm):
        return ()
    groups, parts = module.spec.groups, module.spec.sub_batches
    split = {"N": f"N/{parts}" if parts > 1 else "N", "C": f"C/{groups}" if groups > 1 else "C"}
    words = [over.replace("S", "HW") for over in module.spec.reductions]
    return tuple(tuple(split.get(axis, axis) for axis in "NHWC" if axis in word) for word in words if word)
