"""ResNets of PyTorch and variables of resnet.py, both ways: whole state dicts, by the names of a table; VGGs one way.

What a state dict does not tell is the config's: where the stride is (torchvision: "3x3"), the order ("post"), on which
side shortcut A pads, epsilon; and `norm_unbiased=True` with norm_momentum = 1 - PyTorch's trains on as PyTorch does.

Both functions raise ValueError, one line: a name is missing or unexpected, an array has a wrong shape, the config's
network has what PyTorch's ResNets do not, or there is no such naming.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normres.errors import nearest
from normres.interop.modules import (
    BIAS,
    KERNEL,
    KERNEL_SCALE,
    KERNELS,
    MEAN,
    NORM,
    UPDATES,
    Arrays,
    as_array,
    check_names,
    check_shapes,
    kernel_to_torch,
    leaf_from_torch,
    leaf_to_torch,
    norm_to_torch,
)
from normres.models.resnet import ResNet, ResNetConfig
from normres.models.variants import BRANCHES
from normres.models.vgg import DEPTHS, VGGConfig
from normres.norms import forms


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


class _Leaf(NamedTuple):
    """What a key of PyTorch is here: what a module holds there, our variable ("" for a count that we do not hold)."""

    place: str
    variable: str
    block: int | None  # its number in the stack of a scanned stage


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
    weight_norm = "weight_g" if any(key.endswith(".weight_g") for key in state) else "parametrization"
    by_naming = [_leaves(config, shapes, name, weight_norm) for name in ([naming] if naming else NAMINGS)]
    leaves = max(by_naming, key=lambda leaves: len(leaves.keys() & state.keys()))
    zeros = {name: np.zeros(shape, np.int8) for name, shape in shapes.items()}
    wanted = {key: leaf_to_torch(leaf.place, _own(leaf, zeros)).shape for key, leaf in leaves.items()}
    check_names(state, wanted, [key for key, leaf in leaves.items() if leaf.variable])
    check_shapes(state, wanted)
    variables: dict[str, list[np.ndarray]] = {}
    for key, leaf in leaves.items():
        if leaf.variable:
            array = leaf_from_torch(leaf.place, as_array(key, state[key]))
            variables.setdefault(leaf.variable, []).append(array)
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
    leaves = _leaves(config, shapes, naming)
    check_names(arrays, shapes, shapes)
    check_shapes(arrays, shapes)
    state_dict = {}
    for key, leaf in leaves.items():
        counted = num_batches_tracked is not None and leaf.place == UPDATES
        state_dict[key] = leaf_to_torch(leaf.place, np.array(num_batches_tracked if counted else _own(leaf, arrays)))
    return state_dict


def vgg_to_torch(
    variables: Mapping[str, Any], config: VGGConfig, *, num_batches_tracked: int | None = None
) -> dict[str, np.ndarray]:
    """Converts the variables of VGG(config) to a state dict: the keys of torchvision's vgg11_bn to vgg19_bn.

    Without norms, or with folded ones, they are those of vgg11 to vgg19.  PyTorch's convolutions have a bias, which is
    zero or a folded norm's.  The classifier is "classifier", as Kuang Liu's pytorch-cifar has it.
    `num_batches_tracked` is as of network_to_torch.
    """

    def of(name: str) -> dict[str, Any]:
        return {collection: modules[name] for collection, modules in variables.items() if name in modules}

    state: dict[str, np.ndarray] = {}
    index, normalized = 0, config.norm_spec.form is not forms.identity
    for stage, convolutions in enumerate(DEPTHS[config.depth], start=1):
        for number in range(1, convolutions + 1):
            norm = of(f"stage{stage}_norm{number}")
            state |= kernel_to_torch(of(f"stage{stage}_conv{number}"), f"features.{index}")
            channels = len(state[f"features.{index}.weight"])
            bias = np.zeros(channels, np.float32) if normalized or not norm else norm["params"]["bias"]
            state[f"features.{index}.bias"] = np.array(bias)
            index += 1
            if normalized:
                state |= norm_to_torch(norm, f"features.{index}", num_batches_tracked=num_batches_tracked)
                index += 1
            index += 1  # the ReLU
        index += 1  # the pooling
    return state | kernel_to_torch(of("classifier"), "classifier")


def _shapes(config: ResNetConfig, kernel: Any, axis: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the network's variables by name; `axis` of the first kernel, if it has one, is colours."""
    channels = np.shape(kernel)[axis] if np.ndim(kernel) == 4 else 3
    images = jnp.zeros((1, 32, 32, channels))  # of any size
    variables = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}


def _own(leaf: _Leaf, arrays: Arrays) -> Any:
    """Returns a leaf's array, out of its stack; 0 for a count that we do not hold."""
    if not leaf.variable:
        return np.zeros((), np.int64)
    return arrays[leaf.variable] if leaf.block is None else arrays[leaf.variable][leaf.block]


def _leaves(
    config: ResNetConfig, shapes: Mapping[str, Any], naming: str, weight_norm: str = "parametrization"
) -> dict[str, _Leaf]:
    """Returns what each key of PyTorch is here, in PyTorch's order."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} does not exist; {nearest(naming, NAMINGS)}")
    # A kernel's scale is PyTorch's weight norm only in the row "l2".
    places = [KERNEL, *NORM] + ([KERNEL_SCALE] if config.weights == "l2" else [])
    leaves: dict[str, _Leaf] = {}
    module = ""
    for start, path, index in _paths(config):
        names = {place: place.replace("/", f"/{path}/") for place in places}
        own = {place: name for place, name in names.items() if name in shapes}
        if own.keys() != {BIAS}:  # what folding left of a norm, which goes to the convolution before it
            module = start + NAMINGS[naming].of(path.rpartition("/")[2])
        keys = NORM
        if KERNEL in own:
            keys = KERNELS[weight_norm if KERNEL_SCALE in own else "plain"] | {BIAS: "bias"}
        if MEAN in own:
            own.setdefault(UPDATES, "")
        leaves |= {f"{module}.{key}": _Leaf(place, own[place], index) for place, key in keys.items() if place in own}
    known = {leaf.variable for leaf in leaves.values()}
    for variable in shapes:
        if variable not in known:
            name = variable.partition("/")[2]
            raise ValueError(f"the config's network has {name!r}, which PyTorch's ResNets have not")
    return leaves


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
