"""Exact population statistics in place of running averages, layer by layer.

Running averages lag behind the weights and see each batch once; small batches, large momenta and augmentation make
them worse.  A layer's population statistics depend on those of the layers before it, so they are measured in passes
over the data in evaluation mode until none changes: after k passes the first k layers are exact.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Path = tuple[str, ...]


def recalibrate(
    module: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Any, ...]],
    *,
    tolerance: float = 1e-5,
    max_passes: int = 1_000,
) -> dict[str, Any]:
    """Returns `variables` with the population's mean and biased variance as the averages of each layers.Norm.

    Args:
      module: in evaluation mode (its norms use running averages).
      variables: with `params` and `batch_stats`.
      batches: the positional arguments of each call, such as (images_NHWC,); iterated once per pass, so a list or an
        object that begins anew each time.  Batches may differ in size.
      tolerance: ends the passes when no statistic moves by more, relative to its layer's deviation and variance.
      max_passes: ends them in any case, with a warning; as many as there are norms in sequence are enough.

    Raises:
      ValueError: no norm keeps running averages, or there is no batch.
    """
    stats = {path: np.asarray(leaf) for path, leaf in flatten_dict(variables.get("batch_stats", {})).items()}
    rest = {name: value for name, value in variables.items() if name not in ("batch_stats", "moments")}

    @jax.jit
    def measure(stats: dict[Path, Any], arguments: tuple[Any, ...]) -> Any:
        held = {**rest, "batch_stats": unflatten_dict(stats)}
        return module.apply(held, *arguments, mutable=["moments"])[1].get("moments", {})

    for _ in range(max_passes):
        population = _population(measure(stats, arguments) for arguments in batches)
        moved = 0.0
        for layer in population:
            # As they are stored: against what float32 rounds away the passes would never end.
            mean, var = (np.asarray(value, np.float32) for value in population[layer][:2])
            moved = max(moved, _moved(stats[(*layer, "mean")], stats[(*layer, "var")], mean, var))
            held = {"mean": mean, "var": np.broadcast_to(var, mean.shape)}
            stats |= {(*layer, name): value for name, value in held.items()}
        if moved <= tolerance:
            break
    else:
        warnings.warn(f"recalibrate: pass {max_passes} of {max_passes} moved a statistic by {moved:.2g}", stacklevel=2)
    return {**rest, "batch_stats": unflatten_dict(stats)}


def _population(measured: Iterable[Any]) -> dict[Path, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Merges the batches' moments by (count, mean, M2) in float64 (Chan, Golub, LeVeque 1979)."""
    total: dict[Path, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for tree in measured:
        for path, moments in flatten_dict(tree).items():
            mean, var, count = (np.asarray(value, np.float64) for value in moments)
            layer = path[:-1]
            if layer in total:
                old_mean, old_var, old_count = total[layer]
                whole = np.maximum(old_count + count, 1)
                difference = mean - old_mean
                mean = old_mean + difference * count / whole
                between = difference**2 * old_count * count / whole
                if var.shape != between.shape:
                    between = between.mean(-1, keepdims=True)  # a variance of all channels together
                squares = old_var * old_count + var * count + between
                var, count = squares / whole, old_count + count
            total[layer] = (mean, var, count)
    if not total:
        raise ValueError("no norm of this module keeps running averages, or there is no batch to measure")
    return total


def _moved(running_mean: Any, running_var: Any, mean: Any, var: Any) -> float:
    """Returns abs(running mean - mean) / sqrt(var) or abs(log(running var / var)), the larger, at the worst channel."""
    tiny = np.finfo(np.float32).tiny
    off = np.abs(np.asarray(running_mean, np.float64) - mean) / np.sqrt(np.maximum(var, tiny))
    ratio = np.maximum(np.asarray(running_var, np.float64), tiny) / np.maximum(np.asarray(var, np.float64), tiny)
    return float(max(np.max(off), np.max(np.abs(np.log(ratio)))))
