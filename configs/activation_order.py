"""Activation order: where norm and ReLU stand around the addition (He et al. 2016, table 2).

    normres sweep  --config=configs/activation_order.py:demo --workdir=runs/activation_order
    normres report --experiment=experiments/activation_order.py --workdir=runs/activation_order

Sizes: `demo` (depths 8 and 38, width 8, 2,560 embedded images, 400 steps: for CPUs), `budget` (ResNet-110 and the
bottleneck ResNet-164, 6,400 steps) and `paper` (the same, 64,000 steps; add --seeds=5); the last two want a GPU and
the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected at depth 110 and 164: full
pre-activation has the lowest error, a norm after the addition the highest.  The demo is too shallow to decide that.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes
from normres.models.variants import ORDERS

FILE = "configs/activation_order.py"
_PAPER: tuple[dict[str, Any], ...] = ({"model.depth": 110}, {"model.depth": 164, "model.block": "bottleneck"})
NETWORKS = {"demo": ({"model.depth": 8}, {"model.depth": 38}), "budget": _PAPER, "paper": _PAPER}
VARIANTS = {row.title: {"model.order": name} for name, row in ORDERS.items()}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every order in each network, the quick ones first."""
    sizes.check(size, FILE)
    return [{**fields, **network} for network in NETWORKS[size] for fields in VARIANTS.values()]
