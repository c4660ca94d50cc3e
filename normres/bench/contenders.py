"""Who is compared: one norm and its gradient as normres, Flax and PyTorch compute them, on the same arrays."""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from normres import norms
from normres.bench.step.flax_network import MODULES, norm_of
from normres.bench.step.workers import Contender, Worker

Pair = tuple[NDArray[Any], NDArray[Any]]  # the output y, and the gradient of sum(y dy) wrt the input
Step = Callable[..., Any]  # f(params, x, dy) -> y, (gradients wrt params, wrt x)

NORMS = tuple(MODULES)  # that Flax has
EPSILON = 1e-5  # of every contender
GROUPS, SUB_BATCHES = 4, 2  # where the norm has some and they divide the array


def spec(norm: str, shape: tuple[int, ...]) -> norms.NormSpec:
    """Returns a row of norms.TABLE with groups and sub-batches that divide an array of this shape."""
    row = norms.TABLE[norm].split(math.gcd(GROUPS, shape[-1]), math.gcd(SUB_BATCHES, shape[0]))
    return replace(row, epsilon=EPSILON)


@cache
def steps(norm: str, spec: norms.NormSpec, dtype: Any) -> dict[str, Step]:
    """Returns the compiled training steps of the libraries of this process that have the norm, normres's first.

    Params are those of spec.affine; Flax's stock module is at the start of training, and its x is of the dtype.
    """

    def in_normres(params: Any, x: jax.Array) -> jax.Array:
        return norms.normalization(x, spec, params)[0]

    def in_flax(params: Any, x: jax.Array) -> jax.Array:
        described = {"norm": norm, "groups": spec.groups, "dtype": dtype, "epsilon": EPSILON, "kept": 0.9}
        layer = norm_of(described)()
        variables = layer.init(jax.random.key(0), x)
        return layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    def compiled(apply: Callable[..., jax.Array]) -> Step:
        def step(params: Any, x: jax.Array, dy: jax.Array) -> Any:
            y, backward = jax.vjp(apply, params, x)
            return y, backward(dy)

        return jax.jit(step)

    libraries = {"normres": in_normres} | ({"Flax": in_flax} if norm in NORMS else {})
    return {library: compiled(apply) for library, apply in libraries.items()}


def in_torch(torch: Contender, dtype: str, cases: Mapping[str, Pair]) -> dict[str, Pair]:
    """Returns {"NORM/CASE": pair} of PyTorch for every case (x, dy), each (N, H, W, C), without what it refuses.

    float32 holds the narrower dtypes exactly.
    """
    with tempfile.TemporaryDirectory() as folder, Worker(torch, Path(folder)) as worker:
        files = {"source": f"{folder}/inputs.npz", "destination": f"{folder}/outputs.npz"}
        pairs = {name: np.stack(pair).astype(np.float32) for name, pair in cases.items()}
        np.savez(files["source"], allow_pickle=False, **pairs)
        worker.ask("apply_norms", dtype=dtype, epsilon=EPSILON, groups=GROUPS, **files)
        with np.load(files["destination"]) as outputs:
            return {name: (y, dx) for name, (y, dx) in outputs.items()}
