"""ResNets of PyTorch and variables of resnet.py, both ways: whole state dicts, by the names of a table.

What a state dict does not tell is the config's: where the stride is (torchvision: "3x3"), the order ("post"), on which
side shortcut A pads, epsilon; and `norm_unbiased=True` with norm_momentum = 1 - PyTorch's trains on as PyTorch does.

Both functions raise ValueError, one line: a name is missing or unexpected, an array has a wrong shape, the config's
network has what PyTorch's ResNets do not, or there is no such naming.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normres.errors import nearest
from normres.interop.modules import (
    BIAS,
    KERNEL,
    KERNEL_SCALE,
    NORM,
    UPDATES,
    Arrays,
    check_names,
    check_shapes,
    kernel_from_torch,
    kernel_to_torch,
    norm_from_torch,
    norm_to_torch,
)
from normres.models.resnet import ResNet, ResNetConfig
from normres.models.variants import BRANCHES
from normres.norms import Average


@dataclass(frozen=True)
class Naming:
    """What PyTorch code calls the modules; convolution k of block b, from 0, of a stage is layer{stage}.{b}.conv{k}.

    Attributes:
      shortcut: of a projection, whose convolution and norm are numbers 0 and 1 of it.
      head: of the classifier.
    """

    shortcut: str = "downsample"
    head: str = "fc"

    def of(self, name: str) -> str:
        """Returns PyTorch's name of a module of resnet.py, within its block."""
        names = {"shortcut_conv": f"{self.shortcut}.0", "shortcut_norm": f"{self.shortcut}.1", "classifier": self.head}
        # torchvision has neither: a norm after the addition, and pre-activation's after the last block.
        names |= {"after_norm1": "bn_after", "head_norm1": "bn_head"}
        return names.get(name) or name.removeprefix("stem_").replace("norm", "bn")


# To add a naming, add a row.  Shortcut A has no parameters, so with it only the classifier's name matters.
NAMINGS: dict[str, Naming] = {
    "torchvision": Naming(),  # and the CIFAR ResNets that follow it
    "pytorch_cifar": Naming("shortcut", "linear"),  # Kuang Liu's pytorch-cifar, Yerlan Idelbayev's ResNets
    "shortcut_fc": Naming(shortcut="shortcut"),
    "downsample_linear": Naming(head="linear"),
}


@dataclass(frozen=True)
class _Module:
    """Names of a module's variables by place, and its index where these are stacks of a scanned stage."""

    variables: dict[str, str]
    index: int | None

    def own(self, arrays: Arrays) -> dict[str, Any]:
        """Returns the module's arrays by place."""
        own = {place: arrays[variable] for place, variable in self.variables.items()}
        return own if self.index is None else {place: stack[self.index] for place, stack in own.items()}

    def to_torch(
        self, arrays: Arrays, name: str, count: int | None = None, weight_norm: str = "parametrization"
    ) -> dict[str, np.ndarray]:
        """Returns the module's part of the state dict."""
        own = unflatten_dict(self.own(arrays), sep="/")
        if KERNEL in self.variables:
            return kernel_to_torch(own, name, weight_norm=weight_norm)
        return norm_to_torch(own, name, num_batches_tracked=count)

    def from_torch(self, state: Arrays, name: str, config: ResNetConfig) -> dict[str, np.ndarray]:
        """Returns the module's arrays by the names of its variables."""
        if KERNEL in self.variables:
            nested = kernel_from_torch(state, name)
        else:
            average = Average(config.norm_average) if UPDATES in self.variables else None
            nested = norm_from_torch(state, name, average=average)
        return {self.variables[place]: array for place, array in flatten_dict(nested, sep="/").items()}


def network_from_torch(state_dict: Arrays, config: ResNetConfig, naming: str | None = None) -> dict[str, Any]:
    """Converts a ResNet's state dict to the variables of ResNet(config), arrays in the dtype they had.

    A stage's first block stands alone, the others are stacked along a leading axis.  Where all keys begin with
    "module.", as torch.nn.DataParallel writes them, that is dropped.  `num_batches_tracked` may be missing, and is
    kept only if the config's average counts its updates.

    Args:
      state_dict: all of the network's, and nothing else.
      config: of the same structure, see the module's docstring.
      naming: a row of NAMINGS; None takes the one that fits the most keys.

    Returns:
      {"params": ..., "batch_stats": ...} of NumPy arrays, the latter only if the norm has running averages.
    """
    state = dict(state_dict)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): array for key, array in state.items()}
    shapes = _shapes(config, state.get("conv1.weight"), axis=1)
    by_naming = {name: _modules(config, shapes, name) for name in ([naming] if naming else NAMINGS)}
    modules = max(by_naming.values(), key=lambda modules: sum(key.rpartition(".")[0] in modules for key in state))
    form = "weight_g" if any(key.endswith(".weight_g") for key in state) else "parametrization"
    zeros = {name: np.zeros(shape, np.int8) for name, shape in shapes.items()}
    wanted: dict[str, tuple[int, ...]] = {}
    for name, module in modules.items():
        wanted |= {key: zero.shape for key, zero in module.to_torch(zeros, name, weight_norm=form).items()}
    check_names(state, wanted, [key for key in wanted if not key.endswith("num_batches_tracked")])
    check_shapes(state, wanted)
    variables: dict[str, list[np.ndarray]] = {}
    for name, module in modules.items():
        for variable, array in module.from_torch(state, name, config).items():
            variables.setdefault(variable, []).append(array)
    # A scanned stage may have one block in its stack, so the number of arrays does not tell.
    return unflatten_dict(
        {name: np.stack(arrays) if "_rest/" in name else arrays[0] for name, arrays in variables.items()}, sep="/"
    )


def network_to_torch(
    variables: Mapping[str, Any],
    config: ResNetConfig,
    naming: str = "torchvision",
    *,
    num_batches_tracked: int | None = None,
) -> dict[str, np.ndarray]:
    """Converts the variables of ResNet(config) to a state dict with the keys that load_state_dict wants, in order.

    Of a folded network (folding.py) the convolutions have biases and there are no norms.

    Args:
      variables: {"params": ..., "batch_stats": ...}, as network_from_torch or ResNet.init returns them.
      config: the network's.
      naming: a row of NAMINGS.
      num_batches_tracked: a number, written beside running averages; None takes the count of an average that counts,
        or else 0.
    """
    arrays = flatten_dict(variables, sep="/")
    shapes = _shapes(config, arrays.get("params/stem_conv1/kernel"), axis=2)
    modules = _modules(config, shapes, naming)
    check_names(arrays, shapes, shapes)
    check_shapes(arrays, shapes)
    state_dict: dict[str, np.ndarray] = {}
    before = ""
    for name, module in modules.items():
        if module.variables.keys() == {BIAS}:  # what folding left of a norm; its convolution comes before it
            state_dict[f"{before}.bias"] = np.array(module.own(arrays)[BIAS])
        else:
            state_dict |= module.to_torch(arrays, name, num_batches_tracked)
        before = name
    return state_dict


def _shapes(config: ResNetConfig, kernel: Any, axis: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the network's variables by name; `axis` of the first kernel, if it has one, is colours."""
    channels = np.shape(kernel)[axis] if np.ndim(kernel) == 4 else 3
    images = jnp.zeros((1, 32, 32, channels))  # of any size
    variables = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}


def _modules(config: ResNetConfig, shapes: Mapping[str, Any], naming: str) -> dict[str, _Module]:
    """Returns the network's modules by PyTorch's names, in PyTorch's order."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} does not exist; {nearest(naming, NAMINGS)}")
    # A kernel's scale is PyTorch's weight norm only in the row "l2".
    places = {KERNEL, *NORM} | ({KERNEL_SCALE} if config.weights == "l2" else set())
    by_path: dict[str, dict[str, str]] = {path: {} for _, path, _ in _paths(config)}
    for variable in shapes:
        collection, _, name = variable.partition("/")
        path, _, leaf = name.rpartition("/")
        if path not in by_path or f"{collection}/{leaf}" not in places:
            raise ValueError(f"the config's network has {name!r}, which PyTorch's ResNets have not")
        by_path[path][f"{collection}/{leaf}"] = variable
    return {
        start + NAMINGS[naming].of(path.rpartition("/")[2]): _Module(by_path[path], index)
        for start, path, index in _paths(config)
        if by_path[path]
    }


def _paths(config: ResNetConfig) -> list[tuple[str, str, int | None]]:
    """Returns of each module how PyTorch's name begins, our path, and the index in a stack."""
    kinds = [f"{kind}{k + 1}" for k in range(len(BRANCHES[config.block].kernels)) for kind in ("conv", "norm")]
    paths: list[tuple[str, str, int | None]] = [("", "stem_conv1", None), ("", "stem_norm1", None)]
    for stage, blocks in enumerate(config.blocks, start=1):
        for number in range(blocks):
            block, index = (f"stage{stage}_rest", number - 1) if number else (f"stage{stage}_first", None)
            for kind in [*kinds, "after_norm1", "shortcut_conv", "shortcut_norm"]:
                paths.append((f"layer{stage}.{number}.", f"{block}/{kind}", index))
    return [*paths, ("", "head_norm1", None), ("", "classifier", None)]
