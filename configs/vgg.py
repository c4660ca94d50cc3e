"""VGG: plain networks without residual blocks, by depth and norm (Simonyan, Zisserman 2014, arXiv 1409.1556).

    normres sweep --config=vgg:demo --workdir=runs/vgg

Sizes: `demo` (depth 11, width 8, 2,560 embedded images, 400 steps: minutes on a CPU), `short` (depths 11 to 19, width
64, 3,200 steps) and `paper` (the same, 64,000 steps).  The last two need a GPU and the full CIFAR-10.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/vgg.py"
DEPTHS = {"demo": (11,), "short": (11, 13, 16, 19), "paper": (11, 13, 16, 19)}
NORMS = ("batch", "group", "layer", "none")


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    config = sizes.get_config(size, FILE)
    config.model.family = "vgg"
    config.model.depth = DEPTHS[size][0]
    if size != "demo":
        config.model.width = 64
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: each norm at each depth."""
    depths = sizes.at(DEPTHS, size, FILE)
    return [sizes.with_groups({"model.norm": norm, "model.depth": depth}, size) for depth in depths for norm in NORMS]
