"""Without norms: branches that start at zero, Fixup, and scaled weight standardization with adaptive clipping.

    normres sweep  --config=norm_free:demo --workdir=runs/norm_free
    normres report --experiment=norm_free --workdir=runs/norm_free

Sizes: `demo` (depths 8 and 38, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (depths 20, 56 and 110,
3,200 steps) and `paper` (the same depths, 64,000 steps).  The last two need a GPU and the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected: a deep network without any norm does not train
(in the demo its training error stays at 90 % at depth 38).  With a replacement it trains (60 to 67 % there), but slower
than with batch norm (21 %), which keeps the lower test error.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/norm_free.py"
DEPTHS = {"demo": (8, 38), "short": (20, 56, 110), "paper": (20, 56, 110)}
VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"model.norm": "batch"},
    "no norm": {"model.norm": "none"},
    "SkipInit": {"model.norm": "none", "model.residual_scale": "skipinit"},
    "Fixup": {"model.norm": "none", "model.residual_scale": "fixup"},
    "batch norm, pre-activation": {"model.norm": "batch", "model.order": "pre"},
    "normalizer-free": {
        "model.norm": "none",
        "model.order": "pre",
        "model.weights": "scaled_standardized",
        "model.residual_scale": "skipinit",
        # Brock et al. 2021 use 0.01 for batches of 4,096 and clip less at small batches.
        "optim.clip_factor": 0.16,
    },
}
# ReZero is no arm: its formula is SkipInit's, so in these blocks both are the same network.


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: batch norm, no norm and each replacement at each depth, from shallow to deep."""
    depths = sizes.at(DEPTHS, size, FILE)
    return [{**fields, "model.depth": depth} for depth in depths for fields in VARIANTS.values()]
