"""What a network's parts cost: shapes, parameters, multiply-adds and activations, counted on the network itself.

Nothing is computed and nothing allocated: the network is traced with abstract arrays.  Linen is here, against the
rule of the design, because counting is watching its modules being called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.layers import Conv, Norm
from normres.models.resnet import Block, ResNet, count_parameters
from normres.models.variants import ResNetConfig

# Examples in the traced batch.  A prime that is no width of a network, so that what grows with the batch shows.
EXAMPLES = 10_007


@dataclass(frozen=True)
class Part:
    """The stem, a stage or the classifier.

    Attributes:
      name: "stem", "stage 1", ..., "classifier".
      blocks: number of residual blocks; 0 for stem and classifier.
      output: (height, width, channels) of its output for one image; (classes,) of the classifier's.
      normalized: (height, width) at its last norm; None if it has none.
      parameters: learned scalars.
      multiply_adds: of convolutions and fully connected layers, forward, for one image.  Norms, ReLUs, additions and
        pooling are left out, as the papers do, and so is the arithmetic on kernels, which is done once per batch.
      kept_bytes: activations that the backward pass needs, for one image in the config's dtype.  It is what automatic
        differentiation keeps, to which a compiler may add its workspace, and of which it may compute some anew.
    """

    name: str
    blocks: int
    output: tuple[int, ...]
    normalized: tuple[int, int] | None
    parameters: int
    multiply_adds: int
    kept_bytes: int


def parts(config: ResNetConfig, image_shape: tuple[int, int, int] = (32, 32, 3)) -> tuple[Part, ...]:
    """Returns the parts in the order in which an image of `image_shape` (H, W, C) passes them.

    An auxiliary classifier belongs to the stage it follows.
    """
    # Merging statistics over devices changes no count, and there are no devices here.
    config = replace(config, axis_name=None)
    variables, watched = _watch(config, image_shape)
    names = ["stem", *(f"stage{stage + 1}" for stage in range(len(config.blocks))), "classifier"]
    blocks = dict(zip(names[1:-1], config.blocks, strict=True))
    kept = [_kept(config, image_shape, variables, names[index:]) for index in range(len(names))]
    # A part keeps what training it and all after it keeps, less what training only those after it does.
    own = [more - less for more, less in zip(kept, [*kept[1:], 0], strict=True)]
    found = []
    for name, bytes_kept in zip(names, own, strict=True):
        params = {module: tree for module, tree in variables["params"].items() if _part(module) == name}
        work = 0
        for path, count in watched.multiply_adds.items():
            if _part(path[0]) == name:
                work += count * (blocks[name] - 1 if path[0].endswith("_rest") else 1)
        title = f"stage {name[5:]}" if name in blocks else name
        shapes = watched.outputs[name], watched.normalized.get(name)
        found.append(Part(title, blocks.get(name, 0), *shapes, count_parameters(params), work, bytes_kept))
    return tuple(found)


def _part(module: str) -> str:
    """Returns the part that a module of the network belongs to: stem_conv1, stage2_rest, auxiliary1, head_norm1, ..."""
    if module.startswith("auxiliary"):
        return f"stage{module.removeprefix('auxiliary')}"
    first = module.partition("_")[0]
    return first if first == "stem" or first.startswith("stage") else "classifier"


@dataclass(frozen=True)
class _Watched:
    """What modules did: multiply-adds by module path (a scanned module's once), shapes by part."""

    multiply_adds: dict[tuple[str, ...], int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    normalized: dict[str, tuple[int, int]] = field(default_factory=dict)


def _watch(config: ResNetConfig, image_shape: Sequence[int]) -> tuple[Any, _Watched]:
    """Returns the abstract variables, and what the modules did while they were made."""
    watched = _Watched()

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__":
            return result
        # By path, because a scan traces its body more than once.
        match module:
            case Conv():
                inputs = module.kernel_size**2 * args[0].shape[-1] // module.groups
                watched.multiply_adds[module.path] = math.prod(result.shape[1:]) * inputs
            case nn.Dense():
                watched.multiply_adds[module.path] = math.prod(result.shape[1:]) * args[0].shape[-1]
            case Norm():
                watched.normalized[_part(module.path[0])] = result.shape[1:3]
            case Block():
                watched.outputs.setdefault("stem", args[0].shape[1:])
                watched.outputs[_part(module.path[0])] = result.shape[1:]
            case ResNet():
                watched.outputs["classifier"] = result.shape[1:]
        return result

    with nn.intercept_methods(watch):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        variables = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    return variables, watched


def _kept(config: ResNetConfig, image_shape: Sequence[int], variables: Any, names: Sequence[str]) -> int:
    """Returns the bytes per image that the backward pass needs if the parts called `names` are trained."""
    params = variables["params"]
    trained = {module: tree for module, tree in params.items() if _part(module) in names}
    batch = EXAMPLES * (config.norm_sub_batches if config.norm_spec.sub_batches > 1 else 1)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    def forward(trained: Any, variables: Any, images: jax.Array, key: jax.Array) -> Any:
        everything = {**variables, "params": {**variables["params"], **trained}}
        network = ResNet(config, train=True)
        logits, changed = network.apply(everything, images, mutable=["batch_stats", "auxiliary"], rngs={"dropout": key})
        return logits, changed.get("auxiliary")

    def residuals(trained: Any, variables: Any, images: jax.Array, key: jax.Array) -> Any:
        return jax.vjp(lambda trained: forward(trained, variables, images, key), trained)[1]

    jaxpr = jax.make_jaxpr(residuals)(trained, variables, images, jax.random.key(0)).jaxpr
    grown = _depend_on_input(jaxpr, [True] * len(jaxpr.invars))
    # An array that is kept for two reasons is kept once; constants, such as a ReLU's zeros, are not kept at all.
    kept: dict[int, Any] = {id(var): var.aval for var, needed in zip(jaxpr.outvars, grown, strict=True) if needed}
    sizes = (aval.size * aval.dtype.itemsize for aval in kept.values() if any(n % EXAMPLES == 0 for n in aval.shape))
    return sum(sizes) // batch


def _depend_on_input(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    """Returns for each output whether it depends on an input that does so itself; the others are constants."""
    depends = {id(var): value for var, value in zip(jaxpr.invars, inputs, strict=True)}
    for equation in jaxpr.eqns:
        given = [depends.get(id(var), False) for var in equation.invars]
        found = [any(given)] * len(equation.outvars)
        if equation.primitive.name == "jit":
            found = _depend_on_input(equation.params["jaxpr"].jaxpr, given)
        depends |= {id(var): value for var, value in zip(equation.outvars, found, strict=True)}
    return [depends.get(id(var), False) for var in jaxpr.outvars]
