"""Without norms: branches that start at zero, Fixup, and scaled weight standardization with adaptive clipping.

    normres sweep  --config=configs/norm_free.py:demo --workdir=runs/norm_free
    normres report --experiment=experiments/norm_free.py --workdir=runs/norm_free

Sizes: `demo` (depths 8 and 38, width 8, 2,560 embedded images, 400 steps: for CPUs), `budget` (depths 20, 56 and 110,
6,400 steps) and `paper` (the same, 64,000 steps); the last two want a GPU and the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected: the deeper the net, the less it trains without
any norm (in the demo it stays at 90 % training error at depth 38); with one of the replacements it does train (60 to
67 % there), slower than with batch norm (21 %), which keeps the lower test error.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/norm_free.py"
DEPTHS = {"demo": (8, 38), "budget": (20, 56, 110), "paper": (20, 56, 110)}
CLIP_FACTOR = 0.16  # Brock et al. 2021 clip less at small batches than the 0.01 of their batches of 4,096
VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"model.norm": "batch"},
    "no norm": {"model.norm": "none"},
    "SkipInit": {"model.norm": "none", "model.residual_scale": "skipinit"},
    "ReZero": {"model.norm": "none", "model.residual_scale": "rezero"},
    "Fixup": {"model.norm": "none", "model.residual_scale": "fixup"},
    "batch norm, pre-activation": {"model.norm": "batch", "model.order": "pre"},
    "normalizer-free": {
        "model.norm": "none",
        "model.order": "pre",
        "model.weights": "scaled_standardized",
        "model.residual_scale": "skipinit",
        "optim.clip_factor": CLIP_FACTOR,
    },
}
# ReZero's formula is SkipInit's: in these blocks the two are one network, and a second run would only repeat the first.
REPEATED = ("ReZero",)


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: with batch norm, without, and with each replacement, at each depth, the quick ones first."""
    sizes.check(size, FILE)
    kept = {name: fields for name, fields in VARIANTS.items() if name not in REPEATED}
    return [{**fields, "model.depth": depth} for depth in DEPTHS[size] for fields in kept.values()]
