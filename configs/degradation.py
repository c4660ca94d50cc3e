"""Degradation: training and test error against depth, for plain and for residual networks (He et al. 2015, figure 6).

    normres sweep  --config=configs/degradation.py:demo --workdir=runs/demo
    normres report --experiment=experiments/degradation.py --workdir=runs/demo

Sizes: `demo` (width 8, 2,560 embedded images, 400 steps; minutes on 2 CPU cores), `budget` (width 16, 6,400 steps; give
it the full CIFAR-10 with --config.data.source=binary --config.data.path=DIR_OR_TAR) and `paper` (64,000 steps, depths
to 110).  Expected: the plain networks' training error rises with depth and the residual ones' does not.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import base
from normres.errors import UserError, nearest

DEPTHS = {"demo": (8, 20, 56), "budget": (20, 32, 44, 56), "paper": (20, 32, 44, 56, 110)}
RECIPES = {"demo": "demo", "budget": "budget", "paper": "he2015"}


def _check(size: str) -> None:
    if size not in DEPTHS:
        raise UserError(f"configs/degradation.py:{size} is no size; {nearest(size, DEPTHS)}")


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    _check(size)
    config = base.get_config(RECIPES[size])
    if size == "demo":
        config.model.width = 8
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: plain and residual (shortcut A) at each depth, the quick ones first."""
    _check(size)
    return [{"model.shortcut": shortcut, "model.depth": depth} for depth in DEPTHS[size] for shortcut in ("none", "A")]
