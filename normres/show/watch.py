"""Watches a network: one abstract trace becomes the list of the operations that it carries out.

Nothing is computed and nothing allocated.  Flax calls a hook before every module; the hook numbers the calls in the
names of JAX's equations, so that each equation tells from which module it comes.  Any Flax module will do.
"""

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from normres import layers, norms

LAYERS = (layers.Conv, nn.Conv, nn.ConvTranspose, nn.ConvLocal, nn.Dense, nn.DenseGeneral, nn.Einsum)

# Kind and text of an operation (Op) by the name of the equation.
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


@dataclass(frozen=True)
class Call:
    """A call of a module."""

    path: tuple[str, ...]  # of the module, as in the tree of parameters
    kind: str = ""  # "norm" or "dropout", which are one operation each; "layer" (a convolution or dense layer)
    text: str = ""  # of a norm or dropout, what the operation is called; of a layer, what it is called besides
    activation: str = ""  # the name of the nonlinearity that a norm is asked to apply
    reductions: tuple[tuple[str, ...], ...] = ()  # of a norm, see reductions()


@dataclass(frozen=True)
class Op:
    """An operation on the image or on what was made of it."""

    # "conv", "dense", "norm", "activation", "add", "gate" (a product of two such arrays), "scale", "dropout", "pool",
    # "average", "pad", "other".
    kind: str
    text: str  # a few words
    inputs: tuple[int, ...]  # the operations that it reads, as indices into Record.ops; -1 is the image
    shape: tuple[int, ...]  # of its output for one image
    calls: tuple[int, ...]  # the modules around it from the network inwards, as indices into Record.calls
    call: Call  # of the innermost module; of a norm, dropout or layer its own
    times: int  # how often a loop (nn.scan) repeats it
    multiply_adds: int = 0  # of a convolution or dense layer for one image, each time


# Where a value is from: the operation that made it, or a word for what does not depend on the image.
Origin = int | str
WORDS = ("constant", "learned", "random")
WHOLE = ("norm", "dropout")  # calls that are one operation each
ENTRY = "entry"  # marks the input of such a call, where its operation stands


@dataclass
class Record:
    """What a network does; see watch()."""

    calls: list[Call] = field(default_factory=list)  # of modules
    params: Any = None  # the parameters' shapes
    ops: list[Op] = field(default_factory=list)  # in the order in which they run
    output: Any = -1  # the operation that makes the logits
    batch: int = 2  # examples in the trace, which the norms' sub-batches divide
    origins: dict[Any, Origin] = field(default_factory=dict)  # of each of JAX's variables

    def origin(self, variable: Any) -> Origin:
        """Returns the origin of a variable or literal."""
        return "constant" if isinstance(variable, Literal) else self.origins.get(variable, "constant")

    def run(self, jaxpr: Any, inputs: Sequence[Origin], calls: tuple[int, ...], times: int = 1) -> list[Origin]:
        """Notes the operations of equations, which run `times` times inside `calls`; returns the outputs' origins."""
        self.origins |= zip(jaxpr.invars, inputs, strict=True)
        for equation in jaxpr.eqns:
            numbers = re.findall(r"call(\d+)_", str(equation.source_info.name_stack))
            around = tuple(dict.fromkeys([*calls, *map(int, numbers)]))
            outputs = self.equation(equation, [self.origin(var) for var in equation.invars], around, times)
            self.origins |= zip(equation.outvars, outputs, strict=True)
        return [self.origin(var) for var in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Origin], calls: tuple[int, ...], times: int) -> list[Origin]:
        """Returns the origins of an equation's outputs, and notes the operation that it is, if it is one."""
        count = len(equation.outvars)
        data = tuple(dict.fromkeys(origin for origin in inputs if isinstance(origin, int)))
        other = max((origin for origin in inputs if isinstance(origin, str)), key=WORDS.index, default="constant")
        if not data:
            return [other] * count
        call = self.calls[calls[-1]]
        kind, text, multiply_adds = equation_name(equation)
        shape = equation.outvars[0].aval.shape[1:]
        if equation.params.get("name") == ENTRY and not any(self.calls[i].kind in WHOLE for i in calls[:-1]):
            return [self.note(call.kind, call.text, data, shape, calls, times)]
        whole = call.kind in WHOLE
        named = kind == "activation" and (not whole or equation.params.get("name") == call.activation)
        inner, skipped, repeats = _inner(equation)
        if inner is not None and not named:
            return self.run(inner, inputs[skipped:], calls, times * repeats)
        residual = kind == "add" and len(data) > 1
        if (whole and not named and not residual) or (call.kind == "layer" and kind not in ("conv", "dense")):
            return [max(data)] * count  # a part of the norm or dropout; a layer's bias
        if len(data) == 1 and kind in ("add", "gate", "other"):
            kind, text = self.scaling(equation, text, data[0], other)
        kind = kind or ("other" if len(data) > 1 else "dropout" if other == "random" else "")
        if not kind:
            return [data[0]] * count
        text = (text or equation.primitive.name) + (call.text if call.kind == "layer" else "")
        return [self.note(kind, text, data, shape, calls, times, multiply_adds // self.batch)] * count

    def scaling(self, equation: Any, text: str, data: int, other: str) -> tuple[str, str]:
        """Returns kind and text of a sum or product of one operation's output and what does not depend on the image."""
        literal = next((var.val for var in equation.invars if isinstance(var, Literal)), None)
        mean = data >= 0 and self.ops[data].kind in ("pool", "average")  # a sum, which is divided by its size
        if len(equation.invars) == 1 or mean or (other == "constant" and (text in "+−∥" or literal in (None, 1))):
            return "", ""
        if other == "random":
            return "dropout", f"{text} random"
        return "scale", f"{text} learned" if literal is None else f"{text} {float(literal):g}"

    def note(
        self, kind: str, text: str, inputs: tuple[int, ...], shape: Any, calls: tuple[int, ...], *cost: int
    ) -> int:
        """Appends an operation, its `cost` being times and multiply-adds, and returns its number."""
        call = self.calls[calls[-1]]
        self.ops.append(Op(kind, text, inputs, shape, calls[:-1] if call.kind else calls, call, *cost))
        return len(self.ops) - 1


def watch(network: nn.Module, image_shape: Sequence[int]) -> Record:
    """Returns what a network, images_NHWC -> logits, does in training with images of `image_shape` (H, W, C)."""
    record = Record()
    train: dict[str, Any] = {"train": True} if "train" in inspect.signature(type(network).__call__).parameters else {}
    network = network.clone(train=True) if hasattr(network, "train") else network
    key = jax.random.key(0)

    def initialize(images: jax.Array) -> Any:
        return network.init({"params": key, "dropout": key}, images, **train)

    def forward(params: Any, state: Any, images: jax.Array, key: jax.Array) -> Any:
        variables, mutable = {**state, "params": params}, [*state, "auxiliary"]
        return network.apply(variables, images, **train, mutable=mutable, rngs={"dropout": key})[0]

    def hook(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        record.calls.append(_call(context.module, kwargs.get("activation", "identity")))
        if isinstance(context.module, layers.Norm):
            record.batch = math.lcm(record.batch, context.module.spec.sub_batches)
        with jax.named_scope(f"call{len(record.calls) - 1}_"):
            if args and record.calls[-1].kind in WHOLE:
                args = (checkpoint_name(args[0], ENTRY), *args[1:])
            return call(*args, **kwargs)

    with nn.intercept_methods(hook):
        state = dict(jax.eval_shape(initialize, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)))
        record.params = state.pop("params")
        images = jax.ShapeDtypeStruct((record.batch, *image_shape), jnp.float32)
        jaxpr = jax.make_jaxpr(forward)(record.params, state, images, key).jaxpr
    learned = ["learned"] * len(jax.tree.leaves((record.params, state)))
    record.output, *_ = record.run(jaxpr, [*learned, -1, "random"], ())
    return record


def _call(module: Any, activation: str) -> Call:
    """Describes a call of a module."""
    if isinstance(module, LAYERS):
        weights = getattr(module, "weights", "plain")
        return Call(module.path, "layer", f", {weights.replace('_', ' ')}" if weights != "plain" else "")
    if isinstance(module, nn.Dropout):
        return Call(module.path, "dropout", f"dropout {module.rate:g}")
    if type(module).__name__.endswith("Norm") and not isinstance(module, (layers.WeightNorm, layers.SpectralNorm)):
        name = norm_name(module, activation)
        if name != "none norm":
            return Call(module.path, "norm", name, activation, reductions(module))
    return Call(module.path)


def _inner(equation: Any) -> tuple[Any, int, int]:
    """Returns the equations inside an equation, how many of its inputs are not theirs, and how often they run."""
    params = equation.params
    if equation.primitive.name == "cond":
        return params["branches"][-1].jaxpr, 1, 1
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    fits = inner is not None and len(inner.invars) == len(equation.invars)
    return (inner if fits else None), 0, params["length"] if equation.primitive.name == "scan" else 1


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
