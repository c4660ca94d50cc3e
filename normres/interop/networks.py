"""ResNets of PyTorch and variables of resnet.py, both ways: whole state dicts, by the names of a table.

What a state dict does not tell is the config's: where the stride is (torchvision: "3x3"), the order ("post"), on which
side shortcut A pads, epsilon; and `norm_unbiased=True` with norm_momentum = 1 - PyTorch's trains on as PyTorch does.
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
    NORM,
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

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Naming:
    """What PyTorch code calls the modules; convolution k of block b, from 0, of a stage is layer{stage}.{b}.conv{k}.

    Attributes:
      shortcut: of a projection, whose convolution and norm are numbers 0 and 1 of it.
      head: of the classifier.
      users: whose names they are.
    """

    shortcut: str = "downsample"
    head: str = "fc"
    users: str = ""

    def of(self, name: str) -> str:
        """Returns PyTorch's name of a module of resnet.py, within its block."""
        names = {"shortcut_conv": f"{self.shortcut}.0", "shortcut_norm": f"{self.shortcut}.1", "classifier": self.head}
        # torchvision has neither: a norm after the addition, and pre-activation's after the last block.
        names |= {"after_norm1": "bn_after", "head_norm1": "bn_head"}
        kind, number = name.rstrip("0123456789").removeprefix("stem_"), name[-1:]
        return names.get(name) or {"conv": "conv", "norm": "bn"}[kind] + number


# To add a naming, add a row.  Shortcut A has no parameters, so with it only the classifier's name matters.
NAMINGS: dict[str, Naming] = {
    "torchvision": Naming(users="torchvision, and the CIFAR ResNets that follow it"),
    "pytorch_cifar": Naming("shortcut", "linear", users="Kuang Liu's pytorch-cifar, Yerlan Idelbayev's ResNets"),
    "shortcut_fc": Naming(shortcut="shortcut"),
    "downsample_linear": Naming(head="linear"),
}

# What a module may hold, as "collection/name"; a kernel's scale is PyTorch's weight norm only in the row "l2".
LEAVES = {"params/kernel", *NORM.values()}


@dataclass(frozen=True)
class _Module:
    """Names of a module's variables by place, and its index where these are stacks of a scanned stage."""

    variables: dict[str, str]
    index: int | None

    def to_torch(
        self, arrays: Arrays, name: str, count: int | None = None, weight_norm: str = "parametrization"
    ) -> Any:
        """Returns the module's part of the state dict."""
        own = self.own(arrays)
        nested = unflatten_dict(own, sep="/")
        if "params/kernel" in own:
            return kernel_to_torch(nested, name, weight_norm=weight_norm)
        return norm_to_torch(nested, name, num_batches_tracked=count)

    def own(self, arrays: Arrays) -> dict[str, Any]:
        """Returns the module's arrays by place."""
        own = {place: arrays[variable] for place, variable in self.variables.items()}
        return own if self.index is None else {place: stack[self.index] for place, stack in own.items()}

    def from_torch(self, state: Arrays, name: str, config: ResNetConfig) -> dict[str, np.ndarray]:
        """Returns the module's arrays by the names of its variables."""
        if "params/kernel" in self.variables:
            nested = kernel_from_torch(state, name)
        else:
            counts = "batch_stats/updates" in self.variables
            nested = norm_from_torch(state, name, average=Average(config.norm_average) if counts else None)
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

    Raises:
      ValueError: a key is missing or unexpected, an array has a wrong shape, the config's network has what PyTorch's
        ResNets do not, or there is no such naming.
    """
    state = dict(state_dict)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): array for key, array in state.items()}
    shape = np.shape(state.get("conv1.weight", ()))
    shapes = _shapes(config, channels=shape[1] if len(shape) == 4 else 3)
    by_naming = {name: _modules(config, shapes, name) for name in ([naming] if naming else NAMINGS)}
    modules = max(by_naming.values(), key=lambda modules: sum(key.rpartition(".")[0] in modules for key in state))
    form = "weight_g" if any(key.endswith(".weight_g") for key in state) else "parametrization"
    zeros = {name: np.zeros(shape, np.int8) for name, shape in shapes.items()}
    expected = {name: module.to_torch(zeros, name, weight_norm=form) for name, module in modules.items()}
    wanted = {key: np.shape(zero) for own in expected.values() for key, zero in own.items()}
    check_names(state, wanted, [key for key in wanted if not key.endswith("num_batches_tracked")])
    check_shapes(state, wanted)
    variables: dict[str, list[np.ndarray]] = {}
    for name, module in modules.items():
        own = {key: state[key] for key in expected[name] if key in state}
        for variable, array in module.from_torch(own, name, config).items():
            variables.setdefault(variable, []).append(array)
    # A scanned stage may have one block in its stack, so the number of arrays does not tell.
    stacked = {v for module in modules.values() if module.index is not None for v in module.variables.values()}
    nested: dict[str, Any] = unflatten_dict(
        {name: np.stack(arrays) if name in stacked else arrays[0] for name, arrays in variables.items()}, sep="/"
    )
    return nested


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

    Raises:
      ValueError: a variable is missing or unexpected, a shape is wrong, the config's network has what PyTorch's
        ResNets do not, or there is no such naming.
    """
    arrays = flatten_dict(variables, sep="/")
    kernel = np.shape(arrays.get("params/stem_conv1/kernel", ()))
    shapes = _shapes(config, channels=kernel[2] if len(kernel) == 4 else 3)
    modules = _modules(config, shapes, naming)
    check_names(arrays, shapes, shapes)
    check_shapes(arrays, shapes)
    state_dict: dict[str, np.ndarray] = {}
    before = ""
    for name, module in modules.items():
        if module.variables.keys() == {"params/bias"}:  # what folding left of a norm; its convolution comes before it
            state_dict[f"{before}.bias"] = np.array(module.own(arrays)["params/bias"])
        else:
            state_dict |= module.to_torch(arrays, name, num_batches_tracked)
        before = name
    return state_dict


def _shapes(config: ResNetConfig, channels: int) -> Shapes:
    """Returns the shapes of the network's variables by name; the images' size does not matter."""
    images = jnp.zeros((1, 32, 32, channels))
    variables = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}


def _modules(config: ResNetConfig, shapes: Shapes, naming: str) -> dict[str, _Module]:
    """Returns the network's modules by PyTorch's names, in PyTorch's order."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} does not exist; {nearest(naming, NAMINGS)}")
    row = NAMINGS[naming]
    kinds = [f"{kind}{k + 1}" for k in range(len(BRANCHES[config.block].kernels)) for kind in ("conv", "norm")]
    places: list[tuple[str, str, int | None]] = [("", "stem_conv1", None), ("", "stem_norm1", None)]
    for stage, blocks in enumerate(config.blocks, start=1):
        for number in range(blocks):
            block = f"stage{stage}_rest" if number else f"stage{stage}_first"
            for kind in [*kinds, "after_norm1", "shortcut_conv", "shortcut_norm"]:
                places.append((f"layer{stage}.{number}.", f"{block}/{kind}", number - 1 if number else None))
    places += [("", "head_norm1", None), ("", "classifier", None)]
    leaves = LEAVES | ({"params/kernel_scale"} if config.weights == "l2" else set())
    by_path: dict[str, dict[str, str]] = {path: {} for _, path, _ in places}
    for variable in shapes:
        collection, _, name = variable.partition("/")
        path, _, leaf = name.rpartition("/")
        if path not in by_path or f"{collection}/{leaf}" not in leaves:
            raise ValueError(f"the config's network has {name!r}, which PyTorch's ResNets have not")
        by_path[path][f"{collection}/{leaf}"] = variable
    return {
        f"{start}{row.of(path.rpartition('/')[2])}": _Module(by_path[path], index)
        for start, path, index in places
        if by_path[path]
    }
