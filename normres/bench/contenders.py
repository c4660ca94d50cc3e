"""Who is compared: one norm and its gradient as normres, Flax and PyTorch compute them, on the same arrays."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from normres import norms
from normres.bench.reference import parts
from normres.errors import UserError
from normres.layers import linen

Pair = tuple[NDArray[Any], NDArray[Any]]  # the output, and the gradient of sum(output * dy) wrt the input

# As normres.linen has modules of these names with the same arguments, one table makes both contenders.
MODULES: dict[str, Callable[[Any, int, Any], nn.Module]] = {
    "batch": lambda library, groups, dtype: library.BatchNorm(use_running_average=False, epsilon=1e-5, dtype=dtype),
    "instance": lambda library, groups, dtype: library.InstanceNorm(epsilon=1e-5, dtype=dtype),
    "layer": lambda library, groups, dtype: library.LayerNorm(reduction_axes=(1, 2, 3), epsilon=1e-5, dtype=dtype),
    "group": lambda library, groups, dtype: library.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=dtype),
    "rms": lambda library, groups, dtype: library.RMSNorm(reduction_axes=(1, 2, 3), epsilon=1e-5, dtype=dtype),
}
LIBRARIES: dict[str, Any] = {"normres": linen, "Flax": nn}
EPSILON = 1e-5  # of every contender

# The cases that one call of PyTorch gets, by name: x and dy of one dtype, and the number of groups.
TorchCases = Mapping[str, tuple[NDArray[Any], NDArray[Any], int]]
TORCH_SCRIPT = Path(__file__).with_name("torch_norms.py")


def module(library: str, norm: str, groups: int, dtype: Any) -> nn.Module:
    """Returns the module of "normres" or "Flax" for a row of MODULES, with epsilon 1e-5 and this output dtype."""
    return MODULES[norm](LIBRARIES[library], groups, dtype)


def train_step(layer: nn.Module) -> Callable[..., Any]:
    """Returns f(variables, x, dy) -> (y, gradients wrt parameters and x, updated running averages), compiled."""

    @jax.jit
    def step(variables: Any, x: jax.Array, dy: jax.Array) -> Any:
        state = {name: value for name, value in variables.items() if name != "params"}

        def apply(parameters: Any, x: jax.Array) -> Any:
            return layer.apply({"params": parameters, **state}, x, mutable=list(state))

        y, backward, updated = jax.vjp(apply, variables["params"], x, has_aux=True)
        return y, backward(dy), updated

    return step


def in_flax(norm: str, x: NDArray[Any], dy: NDArray[Any], groups: int) -> Pair:
    """Applies Flax's stock module, as its users do."""
    step, variables = _flax(norm, groups, x.dtype, x.shape)
    y, (_, dx), _ = step(variables, x, dy)
    return np.asarray(y), np.asarray(dx)


@cache
def _flax(norm: str, groups: int, dtype: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    layer = module("Flax", norm, groups, dtype)
    return train_step(layer), layer.init(jax.random.key(0), jnp.zeros(shape, dtype))


def in_normres(norm: str, x: NDArray[Any], dy: NDArray[Any], groups: int, sub_batches: int) -> Pair:
    """Applies norms.normalization with a scale of 1 and a bias of 0, where the norm has them."""
    y, dx = _normres(norm, groups, sub_batches, x, dy)
    return np.asarray(y), np.asarray(dx)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _normres(norm: str, groups: int, sub_batches: int, x: jax.Array, dy: jax.Array) -> Any:
    spec = norms.TABLE[norm]
    sub_batches, groups = parts(spec, x.shape, groups, sub_batches)
    spec = replace(spec.split(groups, sub_batches), epsilon=EPSILON)
    params = {name: jnp.full(x.shape[-1], name == "scale", jnp.float32) for name in spec.affine}

    def apply(x: jax.Array) -> jax.Array:
        return norms.normalization(x, spec, params)[0]

    y, backward = jax.vjp(apply, x)
    return y, backward(dy)[0]


def find_torch(python: str | None) -> tuple[str, str] | None:
    """Returns (Python, version of its PyTorch): the given one, else this one if it has PyTorch, else None.

    Raises:
      UserError: the given one has no PyTorch.
    """
    if python is None:
        if not importlib.util.find_spec("torch"):
            return None
        python = sys.executable
    return python, _run(python, "-c", "import torch; print(torch.__version__)").strip()


def _run(python: str, *arguments: str) -> str:
    """Runs a Python and returns what it prints; what goes wrong is a UserError."""
    try:
        done = subprocess.run([python, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--torch={python}: {error.strerror or error}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"--torch={python}: {last}")
    return done.stdout


def in_torch(python: str, dtype: str, cases: TorchCases) -> dict[str, Pair]:
    """Applies PyTorch's norms to every case, in one process; returns {NORM/CASE: pair} of those it does not refuse.

    Raises:
      UserError: it fails.
    """
    given: dict[str, Any] = {"dtype": np.array(dtype), "epsilon": np.array(EPSILON)}
    for name, (x, dy, groups) in cases.items():
        given |= {f"{name}/x": np.float32(x), f"{name}/dy": np.float32(dy), f"{name}/groups": np.array(groups)}
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        np.savez(source, **given)
        # -P: the script's own folder has modules that would hide PyTorch's imports.
        _run(python, "-P", str(TORCH_SCRIPT), str(source), str(destination))
        with np.load(destination) as outputs:
            names = [key.removesuffix("/y") for key in outputs.files if key.endswith("/y")]
            return {name: (outputs[f"{name}/y"], outputs[f"{name}/dx"]) for name in names}
