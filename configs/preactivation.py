"""Pre-activation: the original block and full pre-activation against depth (He et al. 2016, table 3).

    normres sweep  --config=preactivation:demo --workdir=runs/preactivation
    normres report --experiment=preactivation --workdir=runs/preactivation

Sizes: `demo` (depths 8, 20 and 56, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (ResNet-110 and the
bottleneck ResNet-164, 3,200 steps) and `paper` (those and ResNet-1001, 64,000 steps; add --seeds=5).  The last two need
a GPU and the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.  ResNet-1001 may also need
--config.model.remat=block.  For CIFAR-100, run the same command again with --config.data.name=cifar100 and its path.
Both data sets may share one --workdir; the report keeps them apart.  Expected: from depth 110 on, pre-activation has
the lower error, and the gap grows with depth.  The original order is worse at 1001 layers than at 164.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/preactivation.py"
SHORT: list[dict[str, Any]] = [{"model.depth": 110}, {"model.depth": 164, "model.block": "bottleneck"}]
NETWORKS: dict[str, list[dict[str, Any]]] = {
    "demo": [{"model.depth": 8}, {"model.depth": 20}, {"model.depth": 56}],
    "short": SHORT,
    "paper": [*SHORT, {"model.depth": 1001, "model.block": "bottleneck"}],
}
VARIANTS = {"original": {"model.order": "post"}, "full pre-activation": {"model.order": "pre"}}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: both orders in each network, from shallow to deep."""
    networks = sizes.at(NETWORKS, size, FILE)
    return [{**fields, **network} for network in networks for fields in VARIANTS.values()]
