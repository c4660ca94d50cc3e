"""Auxiliary losses: can classifiers on the inner stages replace shortcuts in plain networks (Lee et al. 2015)?

    normres sweep  --config=aux_loss:demo --workdir=runs/aux_loss
    normres report --experiment=aux_loss --workdir=runs/aux_loss

Sizes: `demo` (depths 8, 20 and 38, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (depths 20 to 56,
3,200 steps) and `paper` (depths 20 to 110, 64,000 steps).  The last two need a GPU and the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected: auxiliary losses lower the training error of the
deepest plain network, but it stays above the residual network's.  No paper has a table of this comparison.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/aux_loss.py"
DEPTHS = {"demo": (8, 20, 38), "short": (20, 32, 44, 56), "paper": (20, 32, 44, 56, 110)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"model.shortcut": "none"},
    "plain + auxiliary": {"model.shortcut": "none", "model.auxiliary": (1, 2)},
    "residual (A)": {"model.shortcut": "A"},
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share; optim.auxiliary_weights and auxiliary_decay weigh the losses."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: plain, plain with auxiliary classifiers, residual at each depth, from shallow to deep."""
    depths = sizes.at(DEPTHS, size, FILE)
    return [{**fields, "model.depth": depth} for depth in depths for fields in VARIANTS.values()]
