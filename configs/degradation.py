"""Degradation: training and test error against depth, for plain and residual networks (He et al. 2015, figure 6).

    normres sweep  --config=degradation:demo --seeds=4 --workdir=runs/demo
    normres report --experiment=degradation --workdir=runs/demo

Sizes: `demo` (depths 8 and 32, width 8, 2,560 embedded images, 400 steps: minutes on 2 CPU cores), `short` (depths 20
to 56, 3,200 steps) and `paper` (depths 20 to 110, 64,000 steps).  The last two need the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected: the training error of plain networks rises with
depth.  The training error of residual networks does not rise.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/degradation.py"
DEPTHS = {"demo": (8, 32), "short": (20, 32, 44, 56), "paper": (20, 32, 44, 56, 110)}
VARIANTS = {"plain": {"model.shortcut": "none"}, "residual (A)": {"model.shortcut": "A"}}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: plain and residual at each depth, from shallow to deep."""
    depths = sizes.at(DEPTHS, size, FILE)
    return [{**fields, "model.depth": depth} for depth in depths for fields in VARIANTS.values()]
