"""ResNets of PyTorch and variables of resnet.py, both ways: whole state dicts, by the names of a table.

What a state dict does not tell is the config's: where the stride is (torchvision: "3x3"), the order ("post"), on which
side shortcut A pads, epsilon; and `norm_unbiased=True` with norm_momentum = 1 - PyTorch's trains on as PyTorch does.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normres.errors import nearest
from normres.interop.modules import (
    AFFINE,
    COUNT,
    KERNELS,
    RUNNING,
    Arrays,
    kernel_from_torch,
    kernel_to_torch,
    norm_from_torch,
    norm_to_torch,
)
from normres.models.resnet import ResNet, ResNetConfig
from normres.models.variants import BRANCHES
from normres.norms import Average

Path = tuple[str, ...]


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

    def of(self, name: str) -> str | None:
        """Returns PyTorch's name of a module of resnet.py, within its block; None if there is none."""
        names = {"shortcut_conv": f"{self.shortcut}.0", "shortcut_norm": f"{self.shortcut}.1", "classifier": self.head}
        kind, number = name.rstrip("0123456789").removeprefix("stem_"), name[-1:]
        return names.get(name) or {"conv": f"conv{number}", "norm": f"bn{number}"}.get(kind)


# To add a naming, add a row.  Shortcut A has no parameters, so with it only the classifier's name matters.
NAMINGS: dict[str, Naming] = {
    "torchvision": Naming(users="torchvision, and the CIFAR ResNets that follow it"),
    "pytorch_cifar": Naming("shortcut", "linear", users="Kuang Liu's pytorch-cifar, Yerlan Idelbayev's ResNets"),
    "shortcut_fc": Naming(shortcut="shortcut"),
    "downsample_linear": Naming(head="linear"),
}

# What a module may hold, as "collection/name"; a kernel's scale is PyTorch's weight norm only in the row "l2".
LEAVES = {"params/kernel", *AFFINE.values(), *RUNNING.values(), *COUNT.values()}
KEYS = [AFFINE, RUNNING, COUNT, *KERNELS.values()]


@dataclass(frozen=True)
class _Module:
    """A module: its path in the variables, its index in the stack of a scanned stage, its leaves' shapes by place."""

    path: Path
    index: int | None
    shapes: dict[str, tuple[int, ...]]

    def shape_in_torch(self, place: str) -> tuple[int, ...]:
        """Returns the shape of a leaf as PyTorch has it, without weight norm's axes of size 1."""
        shape = self.shapes[place]
        return (shape[-1], shape[-2], *shape[:-2]) if place == "params/kernel" else shape


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
    modules = max(by_naming.values(), key=lambda modules: sum(_owner(key, modules) is not None for key in state))
    groups = _grouped(state, modules)
    leaves: dict[Path, list[np.ndarray]] = {}
    for name, module in modules.items():
        for place, array in _module_from_torch(groups[name], name, module, config).items():
            collection, leaf = place.split("/")
            leaves.setdefault((collection, *module.path, leaf), []).append(array)
    # A scanned stage may have one block in its stack, so the path decides, not the number.
    stacked = {module.path for module in modules.values() if module.index is not None}
    return _nested({path: np.stack(a) if path[1:-1] in stacked else a[0] for path, a in leaves.items()})


def network_to_torch(
    variables: Mapping[str, Any],
    config: ResNetConfig,
    naming: str = "torchvision",
    *,
    num_batches_tracked: int | None = None,
) -> dict[str, np.ndarray]:
    """Converts the variables of ResNet(config) to a state dict with the keys that load_state_dict wants, in order.

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
    arrays = _flat(variables)
    kernel = np.shape(arrays.get(("params", "stem_conv1", "kernel"), ()))
    shapes = _shapes(config, channels=kernel[2] if len(kernel) == 4 else 3)
    modules = _modules(config, shapes, naming)
    _same_names(["/".join(path) for path in arrays], ["/".join(path) for path in shapes])
    for path, expected in shapes.items():
        if np.shape(arrays[path]) != expected:
            raise ValueError(f"{'/'.join(path)!r} has shape {np.shape(arrays[path])}, expected {expected}")
    state_dict: dict[str, np.ndarray] = {}
    for name, module in modules.items():
        own: dict[str, dict[str, Any]] = {}
        for place in module.shapes:
            collection, leaf = place.split("/")
            stack = arrays[(collection, *module.path, leaf)]
            own.setdefault(collection, {})[leaf] = stack if module.index is None else stack[module.index]
        if "params/kernel" in module.shapes:
            state_dict |= kernel_to_torch(own, name)
        else:
            state_dict |= norm_to_torch(own, name, num_batches_tracked=num_batches_tracked)
    return state_dict


def _shapes(config: ResNetConfig, channels: int) -> dict[Path, tuple[int, ...]]:
    """Returns the shapes of the network's variables by path; the images' size does not matter."""
    images = jnp.zeros((1, 32, 32, channels))
    return {
        path: leaf.shape for path, leaf in _flat(jax.eval_shape(ResNet(config).init, jax.random.key(0), images)).items()
    }


def _modules(config: ResNetConfig, shapes: Mapping[Path, tuple[int, ...]], naming: str) -> dict[str, _Module]:
    """Returns the network's modules by PyTorch's names, in PyTorch's order."""
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r} does not exist; {nearest(naming, NAMINGS)}")
    row = NAMINGS[naming]
    leaves = LEAVES | ({"params/kernel_scale"} if config.weights == "l2" else set())
    held: dict[Path, dict[str, tuple[int, ...]]] = {}
    for (collection, *path, leaf), shape in shapes.items():
        place = f"{collection}/{leaf}"
        if not path or place not in leaves or row.of(path[-1]) is None:
            raise ValueError(f"the config's network has {'/'.join([*path, leaf])!r}, which PyTorch's ResNets have not")
        held.setdefault(tuple(path), {})[place] = shape
    branch = [f"{kind}{k + 1}" for k in range(len(BRANCHES[config.block].kernels)) for kind in ("conv", "norm")]
    modules: dict[str, _Module] = {}

    def add(start: str, path: Path, index: int | None) -> None:
        if path in held:
            each = {place: shape if index is None else shape[1:] for place, shape in held[path].items()}
            modules[f"{start}{row.of(path[-1])}"] = _Module(path, index, each)

    add("", ("stem_conv1",), None)
    add("", ("stem_norm1",), None)
    for stage, blocks in enumerate(config.blocks, start=1):
        for number in range(blocks):
            block = f"stage{stage}_rest" if number else f"stage{stage}_first"
            for name in [*branch, "shortcut_conv", "shortcut_norm"]:
                add(f"layer{stage}.{number}.", (block, name), number - 1 if number else None)
    add("", ("classifier",), None)
    strangers = held.keys() - {module.path for module in modules.values()}
    if strangers:
        raise ValueError(f"the config's network has {'/'.join(min(strangers))!r}, which PyTorch's ResNets have not")
    return modules


def _module_from_torch(group: Arrays, name: str, module: _Module, config: ResNetConfig) -> dict[str, np.ndarray]:
    """Converts one module, and checks that it has the network's leaves in the network's shapes."""
    places = module.shapes
    if "params/kernel" in places:
        variables = kernel_from_torch(group, name, bias="params/bias" in places)
    else:
        affine = [place.removeprefix("params/") for place in places if place.startswith("params/")]
        average = Average(config.norm_average) if "batch_stats/updates" in places else None
        running = "batch_stats/mean" in places
        variables = norm_from_torch(group, name, average=average, affine=affine, running=running)
    leaves = {f"{collection}/{leaf}": array for collection, own in variables.items() for leaf, array in own.items()}
    keys = {place: f"{name}.{key}" for row in KEYS for key, place in row.items() if f"{name}.{key}" in group}
    keys["params/bias"] = f"{name}.bias"
    for place in places:
        if place not in leaves:
            raise ValueError(f"{name + '.weight_g'!r} is missing: a network of weights={config.weights!r} has lengths")
    for place, array in leaves.items():
        if place not in places:
            raise ValueError(f"{keys[place]!r} is unexpected: a network of weights={config.weights!r} has no lengths")
        if array.shape != places[place]:
            expected = module.shape_in_torch(place)
            raise ValueError(f"{keys[place]!r} has shape {np.shape(group[keys[place]])}, expected {expected}")
    return leaves


def _owner(key: str, modules: Collection[str]) -> str | None:
    """Returns the module that a key belongs to; weight norm's keys have more than one word after it."""
    words = key.split(".")
    return next((name for n in range(len(words) - 1, 0, -1) if (name := ".".join(words[:n])) in modules), None)


def _grouped(state: Arrays, modules: Collection[str]) -> dict[str, dict[str, Any]]:
    """Returns the keys of each module; all keys have one, and all modules have keys."""
    groups: dict[str, dict[str, Any]] = {}
    for key, array in state.items():
        owner = _owner(key, modules)
        if owner is None:
            near = difflib.get_close_matches(key.rpartition(".")[0], modules, n=5, cutoff=0)
            raise ValueError(f"{key!r} is unexpected; {nearest(key.rpartition('.')[0], near)}, ...")
        groups.setdefault(owner, {})[key] = array
    for name in modules:
        if name not in groups:
            near = difflib.get_close_matches(name, groups, n=5, cutoff=0)
            raise ValueError(f"no key begins with {name + '.'!r}; {nearest(name, near or ['none'])}, ...")
    return groups


def _same_names(names_there: Iterable[str], expected: Iterable[str]) -> None:
    names_there, expected = list(names_there), list(expected)
    for names, others, what in ((names_there, expected, "unexpected"), (expected, names_there, "missing")):
        known = set(others)
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, others, n=3, cutoff=0)
                raise ValueError(f"{name!r} is {what}; {nearest(name, near or ['none'])}, ...")


def _flat(tree: Any) -> dict[Path, Any]:
    return {tuple(str(entry.key) for entry in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _nested(flat: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, array in flat.items():
        inner = nested
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = array
    return nested
