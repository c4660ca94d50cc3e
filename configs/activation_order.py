"""Activation order: where norm and ReLU stand around the addition (He et al. 2016, table 2).

    normres sweep  --config=activation_order:demo --workdir=runs/activation_order
    normres report --experiment=activation_order --workdir=runs/activation_order

Sizes: `demo` (depths 8 and 38, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (ResNet-110 and the
bottleneck ResNet-164, 3,200 steps) and `paper` (the same networks, 64,000 steps; add --seeds=5).  The last two need a
GPU and the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected at depth 110 and
164: full pre-activation has the lowest error, a norm after the addition the highest.  The demo is too shallow to
decide that.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/activation_order.py"
NETWORKS: dict[str, list[dict[str, Any]]] = {
    "demo": [{"model.depth": 8}, {"model.depth": 38}],
    "short": [{"model.depth": 110}, {"model.depth": 164, "model.block": "bottleneck"}],
    "paper": [{"model.depth": 110}, {"model.depth": 164, "model.block": "bottleneck"}],
}
VARIANTS = {
    "original": {"model.order": "post"},
    "norm after addition": {"model.order": "norm_after_addition"},
    "ReLU before addition": {"model.order": "relu_before_addition"},
    "ReLU-only pre-activation": {"model.order": "relu_only_pre"},
    "full pre-activation": {"model.order": "pre"},
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every order in each network, from shallow to deep."""
    networks = sizes.at(NETWORKS, size, FILE)
    return [{**fields, **network} for network in networks for fields in VARIANTS.values()]
