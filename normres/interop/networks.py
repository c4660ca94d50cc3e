"""ResNets of PyTorch and variables of resnet.py, both ways: whole state dicts, by the names of a table; VGGs one way.

What a state dict does not tell is the config's: where the stride is (torchvision: "3x3"), the order ("post"), on which
side shortcut A pads, epsilon; and `norm_unbiased=True` with norm_momentum = 1 - PyTorch's trains on as PyTorch does.

Both functions raise ValueError, one line: a name is missing or unexpected, an array has a wrong shape, the config's
network has what PyTorch's ResNets do not, or there is no such naming.
"""

from collections.abc import Mapping, Sequence
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
from normres.models.network import NetworkConfig
from normres.models.resnet import ResNet, ResNetConfig
from normres.models.variants import BRANCHES, SHORTCUTS
from normres.models.vgg import DEPTHS, VGGConfig
from normres.norms import Average, forms

# What PyTorch code calls a projection on the shortcut, of which the convolution is number 0 and the norm number 1, and
# the classifier; convolution k of block b, from 0, of a stage is layer{stage}.{b}.conv{k}.  To add a naming, add a row.
NAMINGS: dict[str, tuple[str, str]] = {
    "torchvision": ("downsample", "fc"),  # and the CIFAR ResNets that follow it
    "pytorch_cifar": ("shortcut", "linear"),  # Kuang Liu's pytorch-cifar, Yerlan Idelbayev's ResNets
    "shortcut_fc": ("shortcut", "fc"),
    "downsample_linear": ("downsample", "linear"),
}
PLACES = (KERNEL, KERNEL_SCALE, *NORM)


class _Module(NamedTuple):
    """A module by PyTorch's name and by our path, and its number in the stack of a scanned stage."""

    theirs: str
    ours: str
    block: int | None = None


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
    words = {word for key in state for word in key.split(".")}
    naming = naming or max(NAMINGS, key=lambda row: len(words & set(NAMINGS[row])))
    shapes = _shapes(config, state.get("conv1.weight"), axis=1)
    modules = _resnet_modules(config, naming, shapes)
    starts = tuple(f"{module.theirs}." for module in modules)
    check_names([key for key in state if not key.startswith(starts)], starts)
    blocks: dict[str, list[np.ndarray]] = {}
    for theirs, ours, _ in modules:
        names = _names(ours)
        if names[KERNEL] in shapes:
            held = kernel_from_torch(state, theirs)
        else:
            counts = names[UPDATES] in shapes
            held = norm_from_torch(state, theirs, average=Average("cumulative") if counts else None)
        for place, array in flatten_dict(held, sep="/").items():
            blocks.setdefault(names[place], []).append(array)
    # A scanned stage may have one block in its stack, so the number of arrays does not tell.
    variables = {name: np.stack(arrays) if "_rest/" in name else arrays[0] for name, arrays in blocks.items()}
    check_names(variables, shapes, shapes)
    check_shapes(variables, shapes)
    return unflatten_dict(variables, sep="/")


def network_to_torch(
    variables: Mapping[str, Any], config: ResNetConfig, naming: str = "torchvision"
) -> dict[str, np.ndarray]:
    """Converts the variables of ResNet(config) to a state dict with the keys that load_state_dict wants, in order.

    Of a folded network (folding.py) the convolutions have biases and there are no norms.

    Args:
      variables: {"params": ..., "batch_stats": ...}, as network_from_torch or ResNet.init returns them.
      config: the network's.
      naming: a row of NAMINGS.
    """
    check_computed(config)
    arrays = flatten_dict(variables, sep="/")
    shapes = _shapes(config, arrays.get("params/stem_conv1/kernel"), axis=2)
    row = SHORTCUTS[config.shortcut]
    if config.stochastic_depth or (row.factor, row.branch_factor) != (1, 1):
        weights = f"shortcut={config.shortcut!r} and stochastic_depth={config.stochastic_depth}"
        raise ValueError(f"PyTorch's ResNets do not weight shortcuts and branches, as {weights} do")
    modules = _resnet_modules(config, naming, shapes)
    check_names(arrays, shapes, shapes)
    check_shapes(arrays, shapes)
    return _state_dict(modules, arrays)


def vgg_to_torch(variables: Mapping[str, Any], config: VGGConfig) -> dict[str, np.ndarray]:
    """Converts the variables of VGG(config) to a state dict: the keys of torchvision's vgg11_bn to vgg19_bn.

    Without norms, or with folded ones, they are those of vgg11 to vgg19.  PyTorch's convolutions have a bias, which is
    zero or a folded norm's.  The classifier is "classifier", as Kuang Liu's pytorch-cifar has it.
    """
    check_computed(config)
    modules: list[_Module] = []
    index, normalized = 0, config.norm_spec.form is not forms.identity
    for stage, convolutions in enumerate(DEPTHS[config.depth], start=1):
        for number in range(1, convolutions + 1):
            modules.append(_Module(f"features.{index}", f"stage{stage}_conv{number}"))
            modules.append(_Module(f"features.{index + 1}", f"stage{stage}_norm{number}"))
            index += 3 if normalized else 2  # with the ReLU
        index += 1  # the pooling
    modules.append(_Module("classifier", "classifier"))
    arrays = flatten_dict(variables, sep="/")
    places = (KERNEL, *NORM)
    known = {place.replace("/", f"/{ours}/") for _, ours, _ in modules for place in places}
    if strange := sorted(arrays.keys() - known):
        raise ValueError(f"the network has {strange[0].partition('/')[2]!r}, which PyTorch's VGGs have not")
    state_dict: dict[str, np.ndarray] = {}
    for key, array in _state_dict(modules, arrays).items():
        state_dict[key] = array
        if array.ndim == 4:
            state_dict[key.replace("weight", "bias")] = np.zeros(len(array), np.float32)
    return state_dict


def check_computed(config: NetworkConfig) -> None:
    """Raises ValueError if the network computes what its arrays do not show, and PyTorch's would not."""
    if config.weights == "standardized":
        raise ValueError("weights='standardized': PyTorch's networks do not standardize kernels; see as_evaluated")
    if config.norm_spec.form is forms.local_response:
        raise ValueError(f"norm={config.norm!r}: PyTorch's ResNets and VGGs have no such norm")


def _shapes(config: ResNetConfig, kernel: Any, axis: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the network's variables by name; `axis` of the first kernel, if it has one, is colours."""
    channels = np.shape(kernel)[axis] if np.ndim(kernel) == 4 else 3
    images = jnp.zeros((1, 32, 32, channels))  # of any size
    variables = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}


def _names(ours: str) -> dict[str, str]:
    """Returns what a module's variables are called, by place."""
    return {place: place.replace("/", f"/{ours}/") for place in PLACES}


def _resnet_modules(config: ResNetConfig, naming: str, shapes: Mapping[str, Any]) -> list[_Module]:
    """Returns the modules of a ResNet in PyTorch's order."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} does not exist; {nearest(naming, NAMINGS)}")
    shortcut, head = NAMINGS[naming]
    # What is in a block, by our names.  torchvision has no norm after the addition, nor one after the last block.
    inside: dict[str, str] = {}
    for k in range(1, len(BRANCHES[config.block].kernels) + 1):
        inside |= {f"conv{k}": f"conv{k}", f"norm{k}": f"bn{k}"}
    inside |= {"after_norm1": "bn_after", "shortcut_conv": f"{shortcut}.0", "shortcut_norm": f"{shortcut}.1"}
    modules = [_Module("conv1", "stem_conv1"), _Module("bn1", "stem_norm1")]
    for stage, blocks in enumerate(config.blocks, start=1):
        for number in range(blocks):
            block, index = (f"stage{stage}_rest", number - 1) if number else (f"stage{stage}_first", None)
            for ours, theirs in inside.items():
                modules.append(_Module(f"layer{stage}.{number}.{theirs}", f"{block}/{ours}", index))
    modules += [_Module("bn_head", "head_norm1"), _Module(head, "classifier")]
    known = {name: module for module in modules for name in _names(module.ours).values()}
    for name in shapes:
        # A kernel's scale is PyTorch's weight norm only in the row "l2".
        if name not in known or (name.endswith("/kernel_scale") and config.weights != "l2"):
            raise ValueError(f"the config's network has {name.partition('/')[2]!r}, which PyTorch's ResNets have not")
    present = {known[name].ours for name in shapes}
    return [module for module in modules if module.ours in present]


def _state_dict(modules: Sequence[_Module], arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the state dict of a network's modules, each of which may be missing."""
    state_dict: dict[str, np.ndarray] = {}
    convolution = ""
    for theirs, ours, block in modules:
        own = {place: arrays[name] for place, name in _names(ours).items() if name in arrays}
        if block is not None:
            own = {place: array[block] for place, array in own.items()}
        if KERNEL in own:
            state_dict |= kernel_to_torch(unflatten_dict(own, sep="/"), theirs)
            convolution = theirs
        elif own.keys() == {BIAS}:  # what folding left of a norm
            state_dict[f"{convolution}.bias"] = np.array(own[BIAS])
        elif own:
            state_dict |= norm_to_torch(unflatten_dict(own, sep="/"), theirs)
    return state_dict
