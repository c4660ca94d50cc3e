"""Networks as they are evaluated: kernels as they are applied, batch norms folded into the convolutions before them.

In evaluation a batch norm is y = (x - mean) / sqrt(var + epsilon) * scale + bias per channel, with constants, so a
convolution with kernel W scale / sqrt(var + epsilon) and a bias does the work of both.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normres.models import BRANCHES, ORDERS, NetworkConfig, ResNetConfig
from normres.norms import NormSpec, forms, kernels, reduction_axes

# What is left of a folded norm: the bias, one per channel.
FOLDED = NormSpec(over=(), affine=("bias",), form=forms.identity)


def as_evaluated(config: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns config and variables of a network without normalized kernels and auxiliary classifiers.

    Its logits in evaluation are those of `config`, a NetworkConfig, with {"params", "batch_stats"} of its module.
    """
    arrays = flatten_dict(variables, sep="/")
    apply = jax.jit(lambda kernel, scale, state: kernels.TABLE[config.weights].apply(kernel, scale, state)[0])
    for name, kernel in list(arrays.items()):
        path, _, leaf = name.removeprefix("params/").rpartition("/")
        stacked = "_rest/" in name
        if path.startswith("auxiliary"):
            del arrays[name]
        elif leaf == "kernel" and np.ndim(kernel) - stacked == 4:
            scale, state = arrays.pop(f"params/{path}/kernel_scale", None), arrays.pop(f"batch_stats/{path}/u", None)
            arrays[name] = np.asarray((jax.vmap(apply) if stacked else apply)(kernel, scale, state))
    others = {"auxiliary": ()} if hasattr(config, "auxiliary") else {}
    return replace(config, weights="plain", **others), _nested(arrays)


def fold(config: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns config and variables of a network whose batch norms are folded into the convolutions before them.

    Its norms only add a bias.  Its logits in evaluation are those of `config`, a NetworkConfig, with {"params",
    "batch_stats"} of its module, within rounding.

    Raises:
      ValueError: not every norm can be folded; the message begins with the name of a field.
    """
    if reason := why_not(config):
        raise ValueError(reason)
    config, variables = as_evaluated(config, variables)
    arrays = flatten_dict(variables, sep="/")
    folded = {name: array for name, array in arrays.items() if name.startswith("params/")}
    for name in arrays:
        if not name.endswith("/mean"):
            continue
        norm = "params" + name.removeprefix("batch_stats").removesuffix("/mean")
        before, _, own = norm.rpartition("/")
        kernel = f"{before}/{own.replace('norm', 'conv')}/kernel"
        mean, var = (np.asarray(arrays[name[:-4] + leaf], np.float64) for leaf in ("mean", "var"))
        factor = folded.pop(f"{norm}/scale", 1.0) / np.sqrt(var + config.norm_spec.epsilon)
        folded[f"{norm}/bias"] = np.asarray(folded.get(f"{norm}/bias", 0.0) - mean * factor, np.float32)
        # (..., O) to (..., 1, 1, 1, O): a stage's blocks are stacked.
        factor = np.expand_dims(factor, (-4, -3, -2))
        folded[kernel] = np.asarray(folded[kernel] * factor, np.float32)
    return replace(config, norm=FOLDED), _nested(folded)


def why_not(config: NetworkConfig) -> str:
    """Returns why the norms of a network cannot be folded, beginning with the name of a field; "" if they can."""
    spec, name = config.norm_spec, f"norm={config.norm!r}"
    if not spec.running:
        return f"{name} has no running statistics: it measures each input anew and cannot be folded into a convolution"
    alike = spec.form in (forms.standardized, forms.batch_renorm) and not spec.parameters
    if not alike or any(reduction_axes(over, ndim=4) != (0, 1, 2) for over in spec.reductions):
        return f"{name} is more than one factor and one bias per channel in evaluation and cannot be folded"
    if (condition := getattr(config, "condition", "none")) != "none":
        return f"condition={condition!r}: scale and bias of the norms depend on it and cannot be folded"
    if not isinstance(config, ResNetConfig):
        return ""
    order = ORDERS[config.order]
    words = order.branch(len(BRANCHES[config.block].kernels))
    pairs = [*zip(["", *words], words, strict=False), ("", order.after), ("", order.head)]
    loose = [word for before, word in pairs if "norm" in word and not before.startswith("conv")]
    if loose:
        where = f"in the order {' '.join(words)}{f', + {order.after}' if order.after else ''}"
        return f"order={config.order!r}: {where}, {loose[0]} follows no convolution directly and cannot be folded"
    return ""


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = unflatten_dict(arrays, sep="/")
    return {"params": {}, "batch_stats": {}} | nested
