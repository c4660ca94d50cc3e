"""Watches a network: one abstract trace becomes the list of operations that it carries out.

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
from jax.extend.core import Literal

from normres import layers
from normres.show.names import LAYERS, TRANSPARENT, equation_name, norm_name, reductions

# Examples in the traced batch.  A prime that is no width of a network, so that what grows with the batch is seen.
EXAMPLES = 10_007


@dataclass(frozen=True)
class Call:
    """A call of a module.

    Attributes:
      path: of the module, as in the tree of parameters.
      kind: "norm" or "dropout", which are one operation each; "layer" (a convolution or dense layer); "" for others.
      text: what the operation is called.
      activation: the name of the nonlinearity that a norm is asked to apply.
      reductions: of a norm, see names.reductions.
      weights: how the kernel of a convolution is normalized.
    """

    path: tuple[str, ...]
    kind: str
    text: str
    activation: str
    reductions: tuple[tuple[str, ...], ...]
    weights: str


@dataclass(frozen=True)
class Op:
    """An operation on what was made of the image.

    Attributes:
      kind: "conv", "dense", "norm", "activation", "add", "gate", "scale", "dropout", "pool", "average", "pad", "other".
      text: a few words.
      inputs: the operations that it reads, as indices into Record.ops; -1 is the image.
      shape: of its output for one image.
      calls: the modules around it from the network inwards, as indices into Record.calls; without its own.
      path: of the innermost module, its own included.
      times: how often a loop (nn.scan) repeats it.
      multiply_adds: of a convolution or dense layer for one image, each time.
      reductions: of a norm, see names.reductions.
    """

    kind: str
    text: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    calls: tuple[int, ...]
    path: tuple[str, ...]
    times: int = 1
    multiply_adds: int = 0
    reductions: tuple[tuple[str, ...], ...] = ()


@dataclass
class Record:
    """What a network does.

    Attributes:
      image: (H, W, C).
      calls: of modules.
      params: the parameters' shapes.
      ops: in the order in which they run.
      output: the operation that makes the logits.
      kept: the arrays that the backward pass needs, as (the last operation before it is made, bytes for one image).
    """

    image: tuple[int, ...]
    calls: list[Call] = field(default_factory=list)
    params: Any = None
    ops: list[Op] = field(default_factory=list)
    output: int = -1
    kept: list[tuple[int, int]] = field(default_factory=list)

    def shape(self, op: int) -> tuple[int, ...]:
        """Returns the shape of an operation's output for one image."""
        return self.image if op < 0 else self.ops[op].shape

    def ancestors(self, op: int) -> set[int]:
        """Returns the operations that `op` depends on, and itself."""
        reached = {op}
        for number in range(op, -1, -1):
            if number in reached:
                reached.update(self.ops[number].inputs)
        return reached - {-1}


def watch(network: nn.Module, image_shape: Sequence[int]) -> Record:
    """Returns what a network does with a batch of images (H, W, C) in training.

    Args:
      network: images_NHWC -> logits.  If it has a field or an argument `train`, that is True.
      image_shape: (H, W, C).
    """
    record = Record(tuple(image_shape))
    sub_batches = {1}

    def hook(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module = context.module
        if isinstance(module, layers.Norm):
            sub_batches.add(module.spec.sub_batches)
        record.calls.append(_call(module, kwargs))
        with jax.named_scope(f"call{len(record.calls) - 1}_"):
            return call(*args, **kwargs)

    arguments = {"train": True} if "train" in inspect.signature(type(network).__call__).parameters else {}
    network = network.clone(train=True) if hasattr(network, "train") else network
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with nn.intercept_methods(hook):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        variables = jax.eval_shape(lambda images: network.init(keys, images, **arguments), image)
        record.params = variables["params"]
        batch = EXAMPLES * math.lcm(*sub_batches)

        def residuals(params: Any, state: Any, images: jax.Array, key: jax.Array) -> Any:
            def forward(params: Any) -> Any:
                given = {**state, "params": params}
                mutable = [*state, "auxiliary"]
                logits, changed = network.apply(given, images, mutable=mutable, rngs={"dropout": key}, **arguments)
                return logits, changed.get("auxiliary")

            (logits, _), pullback = jax.vjp(forward, params)
            return logits, pullback

        state = {name: tree for name, tree in variables.items() if name != "params"}
        images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
        inputs = record.params, state, images, jax.random.key(0)
        jaxpr = jax.make_jaxpr(residuals)(*inputs).jaxpr
    origins = [["learned"] * len(jax.tree.leaves(tree)) for tree in inputs[:2]]
    walk = _Walk(record, batch)
    logits, *_ = walk.run(jaxpr, [*origins[0], *origins[1], -1, "random"], ())
    record.output = logits
    # An array that is kept for two reasons is kept once; constants, such as a ReLU's zeros, are not kept at all.
    for variable in dict.fromkeys(var for var in jaxpr.outvars[1:] if not isinstance(var, Literal)):
        aval = variable.aval
        if any(size % EXAMPLES == 0 for size in aval.shape) and walk.origins[variable] != "constant":
            record.kept.append((walk.made.get(variable, -1), aval.size * aval.dtype.itemsize // batch))
    return record


def _call(module: nn.Module, kwargs: dict[str, Any]) -> Call:
    kind, text, activation = "", "", kwargs.get("activation", "identity")
    if isinstance(module, LAYERS):
        kind = "layer"
    elif isinstance(module, nn.Dropout):
        kind, text = "dropout", f"dropout {module.rate:g}"
    elif type(module).__name__.endswith("Norm") and not isinstance(module, (layers.WeightNorm, layers.SpectralNorm)):
        kind, text = "norm", norm_name(module, activation)
    axes = reductions(module) if kind == "norm" else ()
    return Call(module.path, kind, text, activation, axes, getattr(module, "weights", "plain"))


# Where the value of a variable is from: the operation that made it, or, if it does not depend on the image, a word.
Origin = int | str
WORDS = ("constant", "learned", "random")


@dataclass
class _Walk:
    """Goes through equations, with the operations met so far in `record`.

    Attributes:
      record: what is filled.
      batch: examples in the traced batch.
      origins: of each variable.
      made: for each variable the last operation that was met before it was made.
      whole: the operation that a call of a norm or of dropout is, by the call.
    """

    record: Record
    batch: int
    origins: dict[Any, Origin] = field(default_factory=dict)
    made: dict[Any, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)

    def run(self, jaxpr: Any, inputs: Sequence[Origin], calls: tuple[int, ...], times: int = 1) -> list[Origin]:
        """Returns the origins of the outputs, for those of the inputs; `calls` and `times` are those of all of it."""
        self.origins |= zip(jaxpr.invars, inputs, strict=True)
        for equation in jaxpr.eqns:
            inside = [int(number) for number in re.findall(r"call(\d+)_", str(equation.source_info.name_stack))]
            around = tuple(dict.fromkeys([*calls, *inside]))
            outputs = self.equation(equation, [self.origin(var) for var in equation.invars], around, times)
            self.origins |= zip(equation.outvars, outputs, strict=True)
            self.made |= dict.fromkeys(equation.outvars, len(self.record.ops) - 1)
        return [self.origin(var) for var in jaxpr.outvars]

    def origin(self, variable: Any) -> Origin:
        """Returns the origin of a variable; constants of the trace have none of their own."""
        return "constant" if isinstance(variable, Literal) else self.origins.get(variable, "constant")

    def equation(self, equation: Any, inputs: list[Origin], calls: tuple[int, ...], times: int) -> list[Origin]:
        """Returns the origins of an equation's outputs, and notes the operation that it is, if it is one."""
        outputs = len(equation.outvars)
        data = tuple(dict.fromkeys(origin for origin in inputs if isinstance(origin, int)))
        words = [origin for origin in inputs if isinstance(origin, str)]
        other = max(words, key=WORDS.index, default="constant")
        if not data:
            return [other] * outputs
        call = self.record.calls[calls[-1]]
        name = equation_name(equation)
        whole = call.kind in ("norm", "dropout")
        applied = name.kind == "activation" and (not whole or equation.params.get("name") == call.activation)
        inner, skipped, repeats = _inner(equation)
        if inner is not None and not applied:
            return self.run(inner, inputs[skipped:], calls, times * repeats)
        if whole and not applied:
            return [self.part(equation, data, calls, times)] * outputs
        kind, text = name.kind, name.text
        if (call.kind == "layer" and kind not in ("conv", "dense")) or name.unchanged:
            return [data[0]] * outputs
        if len(data) == 1 and kind in ("add", "gate"):
            averaged = data[0] >= 0 and self.record.ops[data[0]].kind in ("pool", "average")
            literal = next((var.val for var in equation.invars if isinstance(var, Literal)), None)
            if len(inputs) == 1 or averaged or other == "constant" and (kind == "add" or literal in (None, 1)):
                return [data[0]] * outputs
            value = "learned" if literal is None else f"{float(literal):g}"
            kind, text = ("dropout", f"{text} random") if other == "random" else ("scale", f"{text} {value}")
        if not kind and other == "random":
            kind, text = "dropout", "dropout"
        if not kind and len(data) == 1:
            return [data[0]] * outputs
        if kind == "conv" and call.weights != "plain":
            text += f", {call.weights.replace('_', ' ')}"
        work = name.multiply_adds // self.batch
        return [self.note(Op(kind or "other", text, data, name.shape, (), (), times, work), calls)] * outputs

    def part(self, equation: Any, data: tuple[int, ...], calls: tuple[int, ...], times: int) -> int:
        """Returns the operation that a call is as a whole, noted at its first equation; a residual is added to it."""
        if equation.primitive.name in TRANSPARENT and len(data) == 1:
            return data[0]
        call = self.record.calls[calls[-1]]
        own = self.whole.get(calls[-1])
        if own is None:
            op = Op(call.kind, call.text, data, self.record.shape(data[0]), (), (), times, 0, call.reductions)
            own = self.whole[calls[-1]] = self.note(op, calls)
        residual = [origin for origin in data if origin not in (own, *self.record.ops[own].inputs)]
        if equation.primitive.name == "add" and residual and own in data:
            return self.note(Op("add", "+", (own, residual[0]), self.record.shape(own), (), (), times), calls)
        return own

    def note(self, op: Op, calls: tuple[int, ...]) -> int:
        """Appends an operation, with where it is, and returns its number."""
        path = self.record.calls[calls[-1]].path
        around = calls[:-1] if self.record.calls[calls[-1]].kind else calls
        place = {"calls": around, "path": path}
        self.record.ops.append(Op(**{**vars(op), **place}))
        return len(self.record.ops) - 1


def _inner(equation: Any) -> tuple[Any, int, int]:
    """Returns the equations inside an equation, the inputs that are not theirs, and how often they run."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            return params["jaxpr"].jaxpr, 0, params["length"]
        case "cond":
            return params["branches"][-1].jaxpr, 1, 1
        case "while":
            return params["body_jaxpr"].jaxpr, params["cond_nconsts"], 1
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    fits = inner is not None and len(inner.invars) == len(equation.invars)
    return (inner if fits else None), 0, 1
