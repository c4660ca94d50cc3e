"""`normres bench norms`: the time of forward and backward of each norm, beside Flax's module, in one process."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from normres import norms
from normres.bench import output
from normres.bench.step.flax_network import MODULES, norm_of
from normres.errors import UserError

NORMS = tuple(MODULES)  # that Flax has
GROUPS = 4  # or what divides the channels
SAMPLE_SECONDS = 0.03  # one sample calls often enough to last this long

# What contenders may differ by, relative to the largest number of an output.  In float32 Flax loses some of the
# variance as E[x^2] - E[x]^2, and gradients of parameters are sums that cancel.
TOLERANCE = {"float32": 5e-4, "bfloat16": 2e-2, "float16": 4e-3}

HEADER = f"""\
The training step of one norm (output, gradients of the input, the scale and the bias), {{dtype}}.
normres and flax.linen ({flax.__version__}) in this process, under the same settings, called in turns.
  time   milliseconds, median of {{repeats}} samples of {SAMPLE_SECONDS:g} s and more, after a warm-up
  ratio  normres / Flax, pair by pair: median (lower–upper quartile); below 1 normres is faster
JAX {jax.__version__} on {{device}}; XLA_FLAGS={{flags}}"""


def prepared(norm: str, shape: tuple[int, ...], dtype: str) -> dict[str, Callable[[], Any]]:
    """Returns a call of the compiled training step on the same arrays for "normres" and "flax", see check_same."""
    random = np.random.default_rng(0)
    x, dy = (jnp.asarray(0.5 + random.standard_normal(shape), dtype) for _ in range(2))
    groups = math.gcd(GROUPS, shape[-1])
    spec = norms.find_spec(norm, groups)
    # Not ones and zeros, under which a forgotten scale or bias would not show.
    params = {name: jnp.asarray(1 + random.random(shape[-1]), jnp.float32) for name in spec.affine}
    layer = norm_of({"norm": norm, "groups": groups, "dtype": dtype, "epsilon": spec.epsilon, "kept": 0.9})()
    variables = layer.init(jax.random.key(0), x)

    def in_normres(params: Any, x: jax.Array) -> jax.Array:
        return norms.normalization(x, spec, params)[0]

    def in_flax(params: Any, x: jax.Array) -> jax.Array:
        return layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    def step(apply: Callable[..., jax.Array], params: Any, x: jax.Array, dy: jax.Array) -> Any:
        y, backward = jax.vjp(apply, params, x)
        return y, backward(dy)

    ours, theirs = (partial(jax.jit(partial(step, apply)), params, x, dy) for apply in (in_normres, in_flax))
    check_same(f"{norm} on {shape}", ours(), theirs())
    return {"normres": ours, "flax": theirs}


def check_same(what: str, one: Any, other: Any) -> None:
    """Raises a UserError if two trees' arrays differ by more than TOLERANCE, or in number, shape or dtype."""
    if jax.tree.map(jax.typeof, one) != jax.tree.map(jax.typeof, other):
        raise UserError(f"{what}: the contenders return different things, so their times say nothing")
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        wide, other_wide = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(wide - other_wide).max() / max(np.abs(wide).max(), 1e-30)
        if not error <= TOLERANCE[str(a.dtype)]:
            place = jax.tree_util.keystr(path)
            raise UserError(f"{what}: the contenders differ by {error:.1e} at {place}, so their times say nothing")


def timed(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds per call of each function, sampled in turns."""
    samplers = {}
    for name, function in functions.items():
        seconds = min(_sample(function, 1) for _ in range(4))  # the first one compiles
        samplers[name] = partial(_sample, function, max(1, round(SAMPLE_SECONDS / seconds)))
    return output.in_turns(samplers, repeats)


def _sample(function: Callable[[], Any], calls: int) -> float:
    """Returns the seconds per call of `calls` calls."""
    # An accelerator works off a queue while the next call is prepared; on a CPU queued calls compete for its cores.
    queued = jax.default_backend() != "cpu"
    began = time.perf_counter()
    for _ in range(calls):
        result = function() if queued else jax.block_until_ready(function())
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / calls


def run(names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtype: str, repeats: int, json: Path | None) -> None:
    """Checks that the contenders agree, measures, and prints; `json` is a file for the same numbers."""
    flags = os.environ.get("XLA_FLAGS", "")
    settings = {"dtype": dtype, "repeats": repeats, "device": output.device_name(), "flags": flags}
    print(HEADER.format(**settings), flush=True)
    rows, lines = [], []
    for shape, norm in product(shapes, names):
        seconds = timed(prepared(norm, shape, dtype), repeats)
        rows.append({"norm": norm, "shape": shape} | {f"{name}_seconds": each for name, each in seconds.items()})
        medians = (f"{1e3 * np.median(each):.3f}" for each in seconds.values())
        lines.append((norm, "x".join(map(str, shape)), *medians, output.spread(output.quartiles(*seconds.values()), 2)))
    print(f"\n{output.table(('norm', 'shape', 'normres (ms)', 'Flax (ms)', 'ratio'), lines, text_columns=2)}")
    output.write(json, settings | {"timings": rows})
