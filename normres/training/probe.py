"""What normalization and shortcuts do to signals with depth: activations and gradients, layer by layer.

Measured on one batch by one forward and one backward pass in training mode, in plain JAX and float32 but for the
convolutions, which are the run's: in loops, XLA's are far slower on a CPU.  Every array is reduced where it
arises, inside the loops over blocks, so that a network of 1,202 layers takes no more memory than its training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from normres.data import preprocess
from normres.data.seeds import step_key
from normres.layers import PLAIN, Norm
from normres.models import Block, ResNet
from normres.training.step import TrainState
from normres.training.tasks import loss_of

EXAMPLES = 32  # images at most; they are the same in all runs

# What is measured, in words for tables and figures; "layer" or "block" says what the numbers of a list belong to.
QUANTITIES: dict[str, tuple[str, str]] = {
    "response": ("standard deviation of the layers’ responses", "layer"),
    "gradient": ("gradient norm of the kernels", "layer"),
    "mean": ("mean of the residual stream", "block"),
    "variance": ("variance of the residual stream", "block"),
    "similarity": ("cosine similarity of different images", "block"),
}


def deviation(x: jax.Array) -> jax.Array:
    """Returns the standard deviation of each channel of x (N, ..., C) over all else, mean over the channels, ()."""
    return jnp.mean(jnp.std(x.astype(jnp.float32), axis=tuple(range(x.ndim - 1))))


def similarity(x: jax.Array) -> jax.Array:
    """Returns the mean cosine of the angle between x[i] and x[j], flattened, over all pairs i != j of x (N, ...), ().

    With unit vectors u_i it is (|sum u_i|^2 - sum |u_i|^2) / (N (N - 1)); NaN for one example.
    """
    rows_ND = x.astype(jnp.float32).reshape(len(x), -1)
    largest = jnp.max(jnp.abs(rows_ND), axis=1, keepdims=True)
    rows_ND = rows_ND / jnp.where(largest > 0, largest, 1.0)  # so that no square over- or underflows
    units_ND = rows_ND / jnp.maximum(jnp.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)
    pairs = len(x) * (len(x) - 1)
    return (jnp.sum(jnp.sum(units_ND, axis=0) ** 2) - jnp.sum(units_ND**2)) / (pairs or jnp.nan)


def length(kernel: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of each kernel (..., K, K, I, O), also of one whose squares would underflow."""
    axes = (-4, -3, -2, -1)
    largest = jnp.max(jnp.abs(kernel), axis=axes, keepdims=True)
    scaled = kernel / jnp.where(largest > 0, largest, 1.0)
    return jnp.squeeze(largest, axes) * jnp.sqrt(jnp.sum(scaled**2, axis=axes))


def examples(network: nn.Module, batch_size: int) -> int:
    """Returns how many images a network is probed with: at most EXAMPLES and a batch, but whole sub-batches."""
    parts = network.config.norm_spec.sub_batches if isinstance(network, ResNet) else 1
    return max(min(batch_size, EXAMPLES) // parts, 1) * parts


def probe(config: ConfigDict, network: nn.Module, state: TrainState, data: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns what is measured of a ResNet in one state, pure; see QUANTITIES.

    `data` has "images", uint8 (N, H, W, C), "labels", int32 (N,), and what preprocessing reads.  Nothing is augmented.

    Returns:
      float32, in the order of depth; there are L convolutions on the main path and B blocks.
      "response": a number for each norm of the main path (also for one that does nothing), after it and before the
        nonlinearity, see `deviation`; He, Zhang, Ren, Sun 2015, arXiv 1512.03385, figure 7.
      "gradient" (L,): norm of the gradient of the mean loss (no auxiliary loss) w.r.t. each kernel.
      "mean", "variance" (B,): of the sum of shortcut and branch, before the nonlinearity after it, over N, H, W, C.
        Without a shortcut it is the branch's end.
      "similarity" (B,): of what the block hands on, see `similarity`; Lubana, Dick, Tanaka 2021, arXiv 2106.05956.
    """
    if not isinstance(network, ResNet):
        raise TypeError(f"no ResNet but a {type(network).__name__}: nothing says what its layers are")
    images = preprocess.preprocess(config.data.preprocess, data["images"], dict(data))
    # Every device measures the whole batch.  Of a loop, the backward pass keeps nothing but the blocks' inputs.
    plain = replace(network.config, dtype=jnp.float32, axis_name=None, remat="block", unrolled=False)
    responses: list[jax.Array] = []
    ops = PLAIN._replace(conv=network.ops.conv, normalization=_noting(responses))
    measured = network.clone(config=plain, train=True, ops=ops)
    # One draw for all steps, so that what changes is the network.
    rngs = {"dropout": step_key(config, "dropout", jnp.zeros((), jnp.int32))}

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        with nn.intercept_methods(partial(_reduce, responses)):
            logits, changed = measured.apply(variables, images, mutable=["batch_stats", "intermediates"], rngs=rngs)
        return jnp.mean(loss_of(config)(logits, data["labels"])), changed["intermediates"]

    gradients, notes = jax.grad(loss, has_aux=True)(state.params)
    moments = _by_depth(notes, lambda block: [block["sum"][0]])
    return {
        "response": _by_depth(notes, lambda layers: [layers[name]["response"][0] for name in _main(layers, "norm")]),
        "gradient": _by_depth(gradients, lambda layers: [length(layers[n]["kernel"]) for n in _main(layers, "conv")]),
        "mean": moments[:, 0],
        "variance": moments[:, 1],
        "similarity": _by_depth(notes, lambda block: [block["output"][0]]),
    }


def _noting(responses: list[jax.Array]) -> Callable[..., Any]:
    """The operation `normalization`, which also appends the deviation of what it gives the nonlinearity."""

    def normalization(x: jax.Array, spec: Any, params: Any, *, activation: str = "identity", **options: Any) -> Any:
        linear = {name: value for name, value in params.items() if name not in spec.activation}
        responses.append(deviation(PLAIN.normalization(x, spec, linear, **options)[0]))
        return PLAIN.normalization(x, spec, params, activation=activation, **options)

    return normalization


def _reduce(responses: list[jax.Array], call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Flax calls this in place of each method: it notes numbers where a network would note whole activations."""
    module, method = context.module, context.method_name
    if method == "note":
        collection, name, value = args
        wide = value.astype(jnp.float32)
        return call(collection, name, jnp.stack([jnp.mean(wide), jnp.var(wide)]))
    result = call(*args, **kwargs)
    if method == "__call__" and isinstance(module, Norm):
        module.sow("intermediates", "response", responses.pop())
    elif method == "__call__" and isinstance(module, Block):
        module.sow("intermediates", "output", similarity(result))
    return result


def _main(layers: Mapping[str, Any], kind: str) -> list[str]:
    """Returns the names of the convolutions or norms on the main path of a block, as they follow each other."""
    names = [name for name in layers if name.removeprefix("after_").rstrip("0123456789") == kind]
    return sorted(names, key=lambda name: (name.startswith("after_"), name))


def _by_depth(tree: Mapping[str, Any], of: Callable[[Mapping[str, Any]], Sequence[jax.Array]]) -> jax.Array:
    """Returns what `of` lists of the stem, of each block and of the head, (numbers, ...), in the order of depth.

    A stage's blocks after the first are one, whose arrays have a leading axis of depth.
    """
    outside: dict[str, dict[str, Any]] = {"stem": {}, "head": {}}
    for name, value in tree.items():
        part, _, layer = name.partition("_")
        if part in outside and layer:
            outside[part][layer] = value
    stages = sorted(name for name in tree if name.endswith(("_first", "_rest")))
    numbers = []
    for name, layers in [("", outside["stem"]), *((name, tree[name]) for name in stages), ("", outside["head"])]:
        try:
            values = of(layers)
        except KeyError:
            continue  # there are blocks only
        if values:
            stacked = jnp.stack(values, axis=1 if name.endswith("_rest") else 0)
            numbers.append(stacked.reshape(-1, *stacked.shape[2:]) if name.endswith("_rest") else stacked)
    return jnp.concatenate(numbers)
