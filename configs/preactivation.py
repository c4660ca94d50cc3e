"""Pre-activation: the original block and full pre-activation, over depth (He et al. 2016, table 3).

    normres sweep  --config=configs/preactivation.py:demo --workdir=runs/preactivation
    normres report --experiment=experiments/preactivation.py --workdir=runs/preactivation

Sizes: `demo` (depths 8, 20 and 56, width 8, 2,560 embedded images, 400 steps: for CPUs), `budget` (ResNet-110 and the
bottleneck ResNet-164, 6,400 steps) and `paper` (those and ResNet-1001, 64,000 steps; add --seeds=5); the last two want
a GPU and the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.  ResNet-1001 may also need
--config.model.remat=block.  For CIFAR-100 run the same command again with --config.data.name=cifar100 and its own path,
into the same --workdir: the report keeps the two apart.  Expected: pre-activation has the lower error from depth 110
on, by more the deeper the network is; at 1001 layers the original order is worse than at 164, pre-activation is not.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes
from normres.models.variants import ORDERS

FILE = "configs/preactivation.py"
_BUDGET: tuple[dict[str, Any], ...] = ({"model.depth": 110}, {"model.depth": 164, "model.block": "bottleneck"})
NETWORKS = {
    "demo": ({"model.depth": 8}, {"model.depth": 20}, {"model.depth": 56}),
    "budget": _BUDGET,
    "paper": (*_BUDGET, {"model.depth": 1001, "model.block": "bottleneck"}),
}
VARIANTS = {ORDERS[name].title: {"model.order": name} for name in ("post", "pre")}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: both orders in each network, the quick ones first."""
    sizes.check(size, FILE)
    return [{**fields, **network} for network in NETWORKS[size] for fields in VARIANTS.values()]
