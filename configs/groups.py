"""Groups: error against the number of groups, from layer norm (one group) to instance norm (one channel a group).

    normres sweep  --config=groups:demo --seeds=3 --workdir=runs/groups
    normres report --experiment=groups --workdir=runs/groups

Sizes: `demo` (depth 8, width 16, 2,560 embedded images, 400 steps), `short` (depth 20, 3,200 steps) and `paper` (depth
20, 64,000 steps).  The last two need the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.
Wider stages have the same number of groups, and so more channels in each.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/groups.py"
VARIANTS: dict[str, dict[str, Any]] = {
    "layer norm": {"model.norm": "layer"},
    **{f"{groups} groups": {"model.norm": "group", "model.norm_groups": groups} for groups in (2, 4, 8)},
    "instance norm": {"model.norm": "instance"},
    "batch norm": {"model.norm": "batch"},
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.model.width = 16
    config.model.depth = 8 if size == "demo" else 20
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: the same network with each number of groups, and with batch norm beside them."""
    sizes.check(size, FILE)
    return list(VARIANTS.values())
