"""State dicts of PyTorch and variables of normres or Flax, both ways: norms, convolutions, linear layers, weight norm.

Pure functions from a mapping of arrays to a dict of NumPy arrays, which are copies in the dtype they had.  PyTorch is
not needed: a state dict is any mapping of what `np.asarray` reads, such as tensors on the CPU, and comes out as arrays
that `torch.from_numpy` takes.  Channels are last here and first there, and averages differ (`average_from_torch`).

Everywhere `prefix` is the module's path in the state dict, such as "layer1.0.bn1"; "" if it is the module's own.  Keys
of other modules are not looked at; of the module's own each must be known.  Errors are one line that names the key.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normres.errors import nearest
from normres.norms import Average

Arrays = Mapping[str, Any]
Variables = dict[str, dict[str, np.ndarray]]

# What PyTorch calls what a norm holds: scale, bias, mean, variance and count, in its order.
NORM = {
    "weight": "params/scale",
    "bias": "params/bias",
    "running_mean": "batch_stats/mean",
    "running_var": "batch_stats/var",
    "num_batches_tracked": "batch_stats/updates",
}
_ORIGINAL = "parametrizations.weight.original"
# How a state dict may hold a kernel: as it is, or as weight norm's length and direction, new style and old.
KERNELS = {
    "plain": {"weight": "params/kernel"},
    "parametrization": {_ORIGINAL + "0": "params/kernel_scale", _ORIGINAL + "1": "params/kernel"},
    "weight_g": {"weight_g": "params/kernel_scale", "weight_v": "params/kernel"},
}


FEW = 5  # names in one message: a model has hundreds


def average_from_torch(momentum: float | None = 0.1) -> Average:
    """Returns the Average with which layers.Norm goes on training as PyTorch does.

    PyTorch's momentum is the share of the NEW value, and it averages the UNBIASED variance, count / (count - 1) times
    the one it normalizes with.  `flax.linen.BatchNorm` does neither: with momentum 1 - `momentum` its running mean
    follows PyTorch's, its running variance does not.

    Args:
      momentum: the module's.  None is the cumulative average, in batch norms; a torch.nn.InstanceNorm with None never
        updates, which is 0 here.

    Raises:
      ValueError: a momentum outside of 0 to 1.
    """
    if momentum is None:
        return Average("cumulative", unbiased=True)
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum} is not between 0 and 1")
    return Average("exponential", momentum, torch_momentum=True, unbiased=True)


def norm_from_torch(
    state_dict: Arrays, prefix: str = "", *, average: Average | None = None, channel_axis: int | None = None
) -> Variables:
    """Converts torch.nn.BatchNorm*, SyncBatchNorm, InstanceNorm*, LayerNorm, GroupNorm or RMSNorm.

    The result fits the modules in layers.py and `flax.linen`; give them the module's `eps`, which is not in a state
    dict (of an RMSNorm with eps=None it is that of the input's dtype, 2^-23 for float32).  An InstanceNorm with
    running statistics is Norm(TABLE["ghost_batch"], sub_batches=N), N the batch size: own statistics per example in
    training, in evaluation their averages.  `running_var` averages unbiased variances: see average_from_torch.

    Args:
      state_dict: of the module, or of one that contains it at `prefix`.
      prefix: see the module's docstring.
      average: what the Norm has; if it counts its updates, `updates` is made of num_batches_tracked.
      channel_axis: of a weight with several axes, the one with the channels, which becomes the last: 0 for a
        LayerNorm((C, H, W)), -1 where they are last or, as in LayerNorm((H, W)), absent.  Only then it is needed.

    Returns:
      {"params": {"scale", "bias"}, "batch_stats": {"mean", "var", "updates"}}, without what the norm has not.

    Raises:
      ValueError: a key is missing or unexpected (num_batches_tracked, which old checkpoints lack, is missing only if
        `average` needs it), a shape is wrong, no key begins with `prefix`, or there is no `channel_axis`.
    """
    start = _start(prefix)
    arrays = _taken(state_dict, start, NORM)
    counted = average is not None and average.kind != "exponential"
    _check_norm(arrays, start, list(NORM), counted)
    count = arrays.pop("num_batches_tracked", None)
    variables = {NORM[key]: _moved(start + key, array, channel_axis) for key, array in arrays.items()}
    if count is not None and counted:
        variables["batch_stats/updates"] = count.astype(np.float32)
    return _nested(variables)


def norm_to_torch(
    variables: Mapping[str, Arrays],
    prefix: str = "",
    *,
    num_batches_tracked: Any = None,
    channel_axis: int | None = None,
) -> dict[str, np.ndarray]:
    """Converts a norm's variables to the state dict of PyTorch's, with the keys that load_state_dict wants.

    Running averages are passed on as they are: PyTorch evaluates as normres does, and trains on as it did if the
    average was that of average_from_torch.

    Args:
      variables: {"params": {"scale", "bias"}, "batch_stats": {"mean", "var", "updates"}}, or what there is of them.
      prefix: put before the keys; "" for none.
      num_batches_tracked: a number, written beside running averages; None takes `updates`, or 0 if there is none.
      channel_axis: where the last axis of a scale with several axes goes; see norm_from_torch.

    Raises:
      ValueError: a variable is missing (a bias alone: PyTorch has no such norm) or unexpected, a shape is wrong, or
        there is no `channel_axis`.
    """
    start = _start(prefix)
    arrays = _taken(flatten_dict(variables, sep="/"), "", NORM.values())
    _check_norm(arrays, "", list(NORM.values()))
    running = "batch_stats/mean" in arrays
    count = arrays.pop("batch_stats/updates", 0) if num_batches_tracked is None else num_batches_tracked
    state_dict = {
        start + key: _moved(place, arrays[place], channel_axis, back=True)
        for key, place in list(NORM.items())[:4]
        if place in arrays
    }
    if running:
        state_dict[start + "num_batches_tracked"] = np.asarray(count).astype(np.int64)
    return state_dict


def kernel_from_torch(state_dict: Arrays, prefix: str = "") -> Variables:
    """Converts torch.nn.Linear, Conv1d, 2d or 3d, with or without groups: (O, I / groups, ...) -> (..., I / groups, O).

    The result fits layers.Conv, which has no bias, and `flax.linen.Conv` and `Dense`.  Weight norm of dim 0, PyTorch's
    default (torch.nn.utils.parametrizations.weight_norm and the older torch.nn.utils.weight_norm), becomes what
    layers.Conv(weights="l2") stores.  A transposed convolution has other axes, which no key tells: do not bring it.

    Args:
      state_dict: of the module, or of one that contains it at `prefix`.
      prefix: see the module's docstring.

    Returns:
      {"params": {"kernel", "kernel_scale", "bias"}}, without what the layer has not; the last two are (O,).

    Raises:
      ValueError: a key is missing or unexpected, a shape is wrong, or no key begins with `prefix`.
    """
    start = _start(prefix)
    # Keys of a second form, beside those of the first, are unexpected: which kernel would be meant?
    forms = [keys for keys in KERNELS.values() if any(start + key in state_dict for key in keys)]
    keys = (forms or [KERNELS["plain"]])[0]
    places = keys | {"bias": "params/bias"}
    arrays = _taken(state_dict, start, places, keys)
    kernel_key = [*keys][-1]
    kernel = arrays[kernel_key]
    _expect(2 <= kernel.ndim <= 5, start + kernel_key, kernel, "from 2 to 5 axes")
    outputs = kernel.shape[0]
    for key in arrays.keys() - {kernel_key}:
        shape = (outputs,) if key == "bias" else (outputs,) + (1,) * (kernel.ndim - 1)
        _expect(arrays[key].shape == shape, start + key, arrays[key], str(shape))
        arrays[key] = arrays[key].reshape(outputs)
    # Only the spatial axes keep their order.
    arrays[kernel_key] = np.moveaxis(kernel, (1, 0), (-2, -1)).copy()
    return _nested({places[key]: array for key, array in arrays.items()})


def kernel_to_torch(
    variables: Mapping[str, Arrays], prefix: str = "", *, weight_norm: str = "parametrization"
) -> dict[str, np.ndarray]:
    """Converts a layer's variables to the state dict of torch.nn.Linear or Conv*: the reverse of kernel_from_torch.

    Args:
      variables: {"params": {"kernel", "kernel_scale", "bias"}}, or what there is of them.
      prefix: put before the keys; "" for none.
      weight_norm: the keys of a kernel with a scale: "parametrization", or "weight_g" for the older ones.

    Raises:
      ValueError: a variable is missing or unexpected, a shape is wrong, or `weight_norm` is neither.
    """
    if weight_norm not in (weight_norms := ["parametrization", "weight_g"]):
        raise ValueError(f"weight_norm={weight_norm!r} does not exist; {nearest(weight_norm, weight_norms)}")
    places = ["params/kernel", "params/kernel_scale", "params/bias"]
    arrays = _taken(flatten_dict(variables, sep="/"), "", places, places[:1])
    kernel = arrays["params/kernel"]
    _expect(2 <= kernel.ndim <= 5, "params/kernel", kernel, "from 2 to 5 axes")
    for place in arrays.keys() - {"params/kernel"}:
        _expect(arrays[place].shape == kernel.shape[-1:], place, arrays[place], str(kernel.shape[-1:]))
    keys = KERNELS[weight_norm if "params/kernel_scale" in arrays else "plain"] | {"bias": "params/bias"}
    arrays["params/kernel"] = np.moveaxis(kernel, (-2, -1), (1, 0)).copy()
    if "params/kernel_scale" in arrays:
        arrays["params/kernel_scale"] = arrays["params/kernel_scale"].reshape((-1,) + (1,) * (kernel.ndim - 1))
    return {_start(prefix) + key: arrays[place] for key, place in keys.items() if place in arrays}


def check_names(names: Collection[str], allowed: Collection[str], needed: Iterable[str] = ()) -> None:
    """Raises ValueError if a needed name is missing or a name is not allowed."""
    choices, present = set(allowed), set(names)
    for name in needed:
        if name not in present:
            few, more = near(name, names)
            raise ValueError(f"{name!r} is missing; there are: {', '.join(map(repr, few)) or 'none'}{more}")
    for name in names:
        if name not in choices:
            few, more = near(name, allowed)
            raise ValueError(f"{name!r} is unexpected; {nearest(name, few or ['none'])}{more}")


def check_shapes(arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError if an array has another shape than `shapes` says."""
    for name, array in arrays.items():
        if np.shape(array) != shapes[name]:
            raise ValueError(f"{name!r} has shape {np.shape(array)}, expected {shapes[name]}")


def near(name: str, choices: Collection[str]) -> tuple[list[str], str]:
    """Returns the FEW choices that are nearest to a name, and ", ..." if there are more."""
    if len(choices) <= FEW:
        return list(choices), ""
    return difflib.get_close_matches(name, choices, n=FEW, cutoff=0), ", ..."


def _start(prefix: str) -> str:
    """Returns what the module's keys begin with; PyTorch writes prefixes with the last dot, people without."""
    return prefix.rstrip(".") + "." if prefix else ""


def _taken(arrays: Arrays, start: str, choices: Iterable[str], needed: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Returns copies of the arrays whose keys begin with `start`, by the rest of the key, which is one of `choices`."""
    own = {key: array for key, array in arrays.items() if key.startswith(start)}
    if start and not own:
        few, more = near(start[:-1], sorted({key.rpartition(".")[0] for key in arrays}))
        raise ValueError(f"no key begins with {start!r}; {nearest(start[:-1], few or ['none'])}{more}")
    check_names(own, [start + choice for choice in choices], [start + key for key in needed])
    return {key.removeprefix(start): _array(key, array) for key, array in own.items()}


def _array(key: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError) as error:  # a tensor that is on a GPU, in bfloat16, or wants a gradient
        raise ValueError(f"{key!r} is not readable as an array: {' '.join(str(error).split())}") from error
    return array.copy()  # a tensor shares its memory, and its owner may train on


def _expect(condition: bool, key: str, array: np.ndarray, expected: str) -> None:
    if not condition:
        raise ValueError(f"{key!r} has shape {array.shape}, expected {expected}")


def _moved(key: str, array: np.ndarray, channel_axis: int | None, back: bool = False) -> np.ndarray:
    """Moves the channels of a norm's parameter from `channel_axis` to the end, or `back`; a vector is channels only."""
    _expect(array.ndim > 0, key, array, "an axis or more")
    if array.ndim == 1:
        return array
    if channel_axis is None or not -array.ndim <= channel_axis < array.ndim:
        raise ValueError(f"{key!r} has shape {array.shape}: channel_axis={channel_axis} must be one of its axes, or -1")
    return np.moveaxis(array, *((-1, channel_axis) if back else (channel_axis, -1))).copy()


def _check_norm(arrays: Mapping[str, np.ndarray], start: str, names: Sequence[str], counted: bool = False) -> None:
    """Checks what a norm holds by `names`, those of scale, bias, mean, variance and count; all have one shape."""
    scale, bias, mean, variance, count = names
    needed = [scale] if bias in arrays else []  # PyTorch has no norm with a bias alone
    if arrays.keys() & {mean, variance, count}:
        needed += [mean, variance, *([count] if counted else [])]
    present = [start + name for name in arrays]
    check_names(present, present, [start + name for name in needed])
    if count in arrays:
        _expect(arrays[count].ndim == 0, start + count, arrays[count], "()")
    sized = [name for name in arrays if name != count]
    for name in sized:
        array, shape = arrays[name], arrays[sized[0]].shape
        _expect(array.ndim == 1 or name not in (mean, variance), start + name, array, "one axis")
        _expect(array.shape == shape, start + name, array, f"{shape} as {start + sized[0]!r}")


def _nested(flat: Mapping[str, np.ndarray]) -> Variables:
    nested: Variables = unflatten_dict(flat, sep="/")
    return nested
