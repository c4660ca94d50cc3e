"""What equations and norms are called."""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import Literal

from normres import layers, norms
from normres.norms import find_spec

LAYERS = (layers.Conv, nn.Conv, nn.ConvTranspose, nn.ConvLocal, nn.Dense, nn.DenseGeneral, nn.Einsum)
# Equations that hand on a value in another form.
TRANSPARENT = ("broadcast_in_dim", "convert_element_type", "copy", "name", "reshape", "squeeze", "stop_gradient")
ACTIVATIONS = {"logistic": "sigmoid", "tanh": "tanh", "max": "ReLU"}


@dataclass(frozen=True)
class Name:
    """What an equation is: kind and text of an Op, both "" for one that has no name; and sizes.

    Attributes:
      kind, text: see watch.Op.
      shape: of the output for one image.
      multiply_adds: for the whole batch.
      unchanged: whether it cannot change its input, such as padding by nothing.
    """

    kind: str
    text: str
    shape: tuple[int, ...]
    multiply_adds: int = 0
    unchanged: bool = False


def equation_name(equation: Any) -> Name:
    """Returns what an equation is."""
    params, primitive = equation.params, equation.primitive.name
    shapes = [var.aval.shape for var in equation.invars]
    shape = equation.outvars[0].aval.shape
    kind, text, work = "", primitive, 0
    match primitive:
        case "conv_general_dilated":
            numbers = params["dimension_numbers"]
            kernel = [shapes[1][axis] for axis in numbers.rhs_spec]
            work = math.prod(shape) * math.prod(kernel[1:])
            stride, groups = max(params["window_strides"]), params["feature_group_count"]
            kind, text = "conv", "×".join(map(str, kernel[2:])) + f" conv{_step(stride)}"
            text += f", {groups} groups" if groups > 1 else ""
        case "dot_general":
            work = math.prod(shape) * math.prod(shapes[0][axis] for axis in params["dimension_numbers"][0][0])
            kind, text = "dense", "dense"
        case "add" | "add_any" | "sub" | "concatenate":
            kind, text = "add", {"sub": "−", "concatenate": "concatenate"}.get(primitive, "+")
        case "mul" | "div":
            kind, text = "gate", "×" if primitive == "mul" else "/"
        case "reduce_window_max" | "reduce_window_sum":
            window, stride = params["window_dimensions"][1:-1], max(params["window_strides"])
            what = "max pool" if primitive.endswith("max") else "average pool"
            kind, text = "pool", "×".join(map(str, window)) + f" {what}{_step(stride)}"
        case "reduce_sum" | "reduce_max":
            kind, text = "average", "global average" if primitive == "reduce_sum" else "global max"
        case "slice" | "gather" | "pad":
            kind, text = "pad", "pad zeros" if primitive == "pad" else "subsample"
        case "logistic" | "tanh" | "max":
            kind, text = "activation", ACTIVATIONS[primitive]
        case "jit":
            name = params["name"].removeprefix("jvp(").removesuffix(")")
            if hasattr(jax.nn, name):
                kind, text = "activation", {"relu": "ReLU", "silu": "SiLU", "gelu": "GELU"}.get(name, name)
    unchanged = kind == "pad" and shape == shapes[0]
    return Name(kind, text, shape[1:], work, unchanged)


def _step(stride: int) -> str:
    return f" / {stride}" if stride > 1 else ""


def norm_name(module: Any, activation: str = "identity") -> str:
    """Returns "batch norm", "norm over NHC", ..., of a norm that is asked to apply `activation`."""
    if not isinstance(module, layers.Norm):
        return f"{type(module).__name__.removesuffix('Norm').lower()} norm"
    spec = module.spec
    same = (name for name in norms.TABLE if find_spec(name, spec.groups, spec.sub_batches, spec.epsilon) == spec)
    name = next(same, f"norm over {' and '.join(spec.reductions)}").replace("_", " ")
    name = name if "norm" in name else f"{name} norm"
    return f"{name} with own nonlinearity" if spec.activation and activation != "identity" else name


def reductions(module: Any) -> tuple[tuple[str, ...], ...]:
    """Returns for each mean that a norm takes the axes it goes over: (("N", "H", "W"),), (("H", "W", "C/8"),), ...

    "C/8": over each of 8 groups of channels.  "N/4": over each of 4 parts of the batch.  Of another library's norm,
    (N, H, W, C) is its input, and () is returned if its axes are not known.
    """
    name, axes = type(module).__name__, getattr(module, "reduction_axes", None)
    groups, parts, words = 1, 1, ""
    if isinstance(module, layers.Norm):
        groups, parts = module.spec.groups, module.spec.sub_batches
        words = " ".join(module.spec.reductions).replace("S", "HW")
    elif isinstance(axes, int | tuple):
        words = "".join("NHWC"[axis] for axis in ((axes,) if isinstance(axes, int) else axes))
    elif name in ("BatchNorm", "InstanceNorm"):
        words = "NHW" if name == "BatchNorm" else "HW"
    elif name == "GroupNorm":
        groups, words = module.num_groups or f"(C/{module.group_size})", "HWC"
    split = {"N": f"N/{parts}" if parts > 1 else "N", "C": f"C/{groups}" if groups != 1 else "C"}
    return tuple(tuple(split.get(axis, axis) for axis in "NHWC" if axis in word) for word in words.split())
