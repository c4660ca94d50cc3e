"""State dicts of PyTorch and variables of normres or Flax, both ways: norms, convolutions, linear layers, weight norm.

Pure functions from a mapping of arrays to a dict of NumPy arrays, which are copies in the dtype they had.  PyTorch is
not needed: a state dict is any mapping of what `np.asarray` reads, such as tensors on the CPU, and comes out as arrays
that `torch.from_numpy` takes.  Channels are last here and first there.  Averages differ: PyTorch's momentum is the
share of the new value, and it averages the unbiased variance.  `Average(momentum=0.1, torch_momentum=True,
unbiased=True)` trains on as PyTorch's default does, `Average("cumulative", unbiased=True)` as its momentum None.

Everywhere `prefix` is the module's path in the state dict, such as "layer1.0.bn1"; "" if it is the module's own.  Keys
of other modules are not looked at; of the module's own each must be known.  All functions raise ValueError, one line
that names the key: it is missing or unexpected, its array has a wrong shape, or no key begins with `prefix`.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normres.errors import nearest
from normres.norms import Average

Arrays = Mapping[str, Any]
Variables = dict[str, dict[str, np.ndarray]]

# The places of variables, and what PyTorch calls what a norm holds there, in its order.
SCALE, BIAS, KERNEL, KERNEL_SCALE = "params/scale", "params/bias", "params/kernel", "params/kernel_scale"
MEAN, VAR, UPDATES = "batch_stats/mean", "batch_stats/var", "batch_stats/updates"
NORM = {SCALE: "weight", BIAS: "bias", MEAN: "running_mean", VAR: "running_var", UPDATES: "num_batches_tracked"}
_ORIGINAL = "parametrizations.weight.original"
# How a state dict may hold a kernel: as it is, or as weight norm's length and direction, new style and old.
KERNELS = {
    "plain": {KERNEL: "weight"},
    "parametrization": {KERNEL_SCALE: _ORIGINAL + "0", KERNEL: _ORIGINAL + "1"},
    "weight_g": {KERNEL_SCALE: "weight_g", KERNEL: "weight_v"},
}
FEW = 5  # names in one message: a model has hundreds


def norm_from_torch(state_dict: Arrays, prefix: str = "", *, average: Average | None = None) -> Variables:
    """Converts torch.nn.BatchNorm*, SyncBatchNorm, InstanceNorm*, LayerNorm, GroupNorm or RMSNorm over channels.

    The result fits the modules in layers.py and `flax.linen`; give them the module's `eps`, which is not in a state
    dict (of an RMSNorm with eps=None it is that of the input's dtype, 2^-23 for float32).  An InstanceNorm with
    running statistics is Norm(TABLE["ghost_batch"], sub_batches=N), N the batch size: own statistics per example in
    training, in evaluation their averages.

    Args:
      state_dict: of the module, or of one that contains it at `prefix`.
      prefix: see above.
      average: what the Norm has; one that counts its updates needs num_batches_tracked, which old checkpoints lack.

    Returns:
      {"params": {"scale", "bias"}, "batch_stats": {"mean", "var", "updates"}}, without what the norm has not.
    """
    counted = average is not None and average.kind != "exponential"
    arrays = _norm_arrays(state_dict, _names(NORM, prefix), prefix, counted)
    if not counted:
        arrays.pop(UPDATES, None)
    return unflatten_dict({place: leaf_from_torch(place, array) for place, array in arrays.items()}, sep="/")


def norm_to_torch(variables: Mapping[str, Arrays], prefix: str = "") -> dict[str, np.ndarray]:
    """Converts a norm's variables, as of norm_from_torch, to PyTorch's, with the keys that load_state_dict wants.

    Running averages are passed on as they are, beside `num_batches_tracked`: `updates`, or 0 if there is none.  A bias
    without a scale is refused: PyTorch has no such norm.
    """
    arrays = _norm_arrays(flatten_dict(variables, sep="/"), {place: place for place in NORM})
    if MEAN in arrays:
        arrays.setdefault(UPDATES, np.asarray(0))
    names = _names(NORM, prefix)
    return {names[place]: leaf_to_torch(place, array) for place, array in arrays.items()}


def kernel_from_torch(state_dict: Arrays, prefix: str = "") -> Variables:
    """Converts torch.nn.Linear, Conv1d, 2d or 3d, with or without groups: (O, I / groups, ...) -> (..., I / groups, O).

    The result fits layers.Conv, which has no bias, and `flax.linen.Conv` and `Dense`.  Weight norm of dim 0, PyTorch's
    default (torch.nn.utils.parametrizations.weight_norm and the older torch.nn.utils.weight_norm), becomes what
    layers.Conv(weights="l2") stores.  A transposed convolution has other axes, which no key tells: do not bring it.

    Returns:
      {"params": {"kernel", "kernel_scale", "bias"}}, without what the layer has not; the last two are (O,).
    """
    # Keys of a second form, beside those of the first, are unexpected: which kernel would be meant?
    forms = [keys for keys in KERNELS.values() if any(name in state_dict for name in _names(keys, prefix).values())]
    keys = (forms or [KERNELS["plain"]])[0]
    names = _names(keys | {BIAS: "bias"}, prefix)
    arrays = _arrays(state_dict, names, keys, prefix)
    kernel = arrays[KERNEL]
    _expect(2 <= kernel.ndim <= 5, names[KERNEL], kernel, "from 2 to 5 axes")
    shapes = {BIAS: kernel.shape[:1], KERNEL_SCALE: kernel.shape[:1] + (1,) * (kernel.ndim - 1), KERNEL: kernel.shape}
    check_shapes({names[place]: array for place, array in arrays.items()}, {names[p]: shapes[p] for p in names})
    return unflatten_dict({place: leaf_from_torch(place, array) for place, array in arrays.items()}, sep="/")


def kernel_to_torch(variables: Mapping[str, Arrays], prefix: str = "") -> dict[str, np.ndarray]:
    """Converts a layer's variables to the state dict of torch.nn.Linear or Conv*: the reverse of kernel_from_torch.

    A kernel with a scale has the keys of torch.nn.utils.parametrizations.weight_norm.
    """
    places = {place: place for place in (KERNEL, KERNEL_SCALE, BIAS)}
    arrays = _arrays(flatten_dict(variables, sep="/"), places, [KERNEL])
    kernel = arrays[KERNEL]
    _expect(2 <= kernel.ndim <= 5, KERNEL, kernel, "from 2 to 5 axes")
    check_shapes(arrays, {KERNEL: kernel.shape} | dict.fromkeys((KERNEL_SCALE, BIAS), kernel.shape[-1:]))
    keys = KERNELS["parametrization" if KERNEL_SCALE in arrays else "plain"] | {BIAS: "bias"}
    names = _names(keys, prefix)
    return {name: leaf_to_torch(place, arrays[place], kernel.ndim) for place, name in names.items() if place in arrays}


def leaf_from_torch(place: str, array: np.ndarray) -> np.ndarray:
    """Returns what PyTorch holds at a place as normres does; of a kernel only the spatial axes keep their order."""
    if place == KERNEL:
        return np.moveaxis(array, (1, 0), (-2, -1)).copy()
    return array.astype(np.float32) if place == UPDATES else array.ravel()


def leaf_to_torch(place: str, array: np.ndarray, axes: int = 4) -> np.ndarray:
    """Returns what normres holds at a place as PyTorch does; `axes` has the kernel that a scale belongs to."""
    if place == KERNEL:
        return np.moveaxis(array, (-2, -1), (1, 0)).copy()
    if place == KERNEL_SCALE:
        return array.reshape((-1,) + (1,) * (axes - 1))
    return array.astype(np.int64) if place == UPDATES else array


def check_names(names: Collection[str], allowed: Collection[str], needed: Collection[str] = ()) -> None:
    """Raises ValueError if a needed name is missing or a name is not allowed."""
    for name in needed:
        if name not in names:
            raise ValueError(f"{name!r} is missing; there are: {', '.join(_few(name, names))}")
    choices = set(allowed)
    for name in names:
        if name not in choices:
            raise ValueError(f"{name!r} is unexpected; {nearest(name, _few(name, allowed))}")


def check_shapes(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError if an array has another shape than `shapes` says."""
    for name, array in arrays.items():
        _expect(np.shape(array) == shapes[name], name, array, str(shapes[name]))


def as_array(key: str, value: Any) -> np.ndarray:
    """Returns a copy of what a state dict has at a key: a tensor shares its memory, and its owner may train on."""
    try:
        return np.asarray(value).copy()
    except (TypeError, RuntimeError) as error:  # a tensor that is on a GPU, in bfloat16, or wants a gradient
        raise ValueError(f"{key!r} is not readable as an array: {' '.join(str(error).split())}") from error


def _few(name: str, choices: Collection[str]) -> list[str]:
    """Returns the FEW choices that are nearest to a name, and "..." if there are more."""
    if len(choices) <= FEW:
        return [*choices] or ["none"]
    return [*difflib.get_close_matches(name, choices, n=FEW, cutoff=0), "..."]


def _names(keys: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Returns what a module's keys are called at a prefix, which ends in a dot in PyTorch and in none elsewhere."""
    return {place: f"{prefix.rstrip('.')}.{key}".lstrip(".") for place, key in keys.items()}


def _arrays(
    arrays: Arrays, names: Mapping[str, str], needed: Collection[str], prefix: str = ""
) -> dict[str, np.ndarray]:
    """Returns copies of a module's arrays by place; `names` has what they are called, and none is called otherwise."""
    prefix = prefix.rstrip(".")
    own = [key for key in arrays if not prefix or key.startswith(f"{prefix}.")]
    if prefix and not own:
        modules = sorted({key.rpartition(".")[0] for key in arrays})
        raise ValueError(f"no key begins with {prefix + '.'!r}; {nearest(prefix, _few(prefix, modules))}")
    check_names(own, names.values(), [names[place] for place in needed])
    return {place: as_array(name, arrays[name]) for place, name in names.items() if name in arrays}


def _norm_arrays(arrays: Arrays, names: Mapping[str, str], prefix: str = "", counted: bool = False) -> Any:
    """Returns copies of what a norm holds, by place, all of one axis and of one length but the count."""
    present = {place for place, name in names.items() if name in arrays}
    needed = [SCALE] if BIAS in present else []  # PyTorch has no norm with a bias alone
    if present & {MEAN, VAR, UPDATES}:
        needed += [MEAN, VAR, UPDATES] if counted else [MEAN, VAR]
    held = _arrays(arrays, names, needed, prefix)
    channels = next((array.shape[:1] for place, array in held.items() if place != UPDATES), ())
    for place, array in held.items():
        expected = () if place == UPDATES else channels or (1,)
        _expect(array.shape == expected, names[place], array, str(expected))
    return held


def _expect(condition: bool, key: str, array: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"{key!r} has shape {np.shape(array)}, expected {expected}")
