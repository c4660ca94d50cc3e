"""Robustness: the error under corruptions of the test images, by norm (Pan et al. 2018; Hendrycks, Dietterich 2019).

    normres sweep  --config=configs/robustness.py:demo --seeds=3 --workdir=runs/robustness
    normres report --experiment=experiments/robustness.py --workdir=runs/robustness

Sizes: `demo` (depth 8, width 8, 2,560 embedded images, 400 steps: for CPUs), `budget` (depth 20, 6,400 steps) and
`paper` (depth 56, 64,000 steps); the last two want a GPU and the full CIFAR-10, by --config.data.source=binary
--config.data.path=DIR_OR_TAR.  Every finished run is measured on 25 corrupted test sets.  Expected: under
contrast and color cast the error of instance norm rises less than that of batch norm, from a higher clean error.  In
the demo (3 seeds, 7 minutes on 2 cores) it rises by 5 instead of 23 points under contrast and by 7 instead of 13 under
color cast, from 63 instead of 52 %; under brightness the two cannot be told apart, and as instance norm's also rises
less under blur and noise, the reason is not settled there.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes
from normres.data.corruptions import CORRUPTIONS

FILE = "configs/robustness.py"
DEPTHS = {"demo": 8, "budget": 20, "paper": 56}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name.replace('_', '-')} norm": {"model.norm": name}
    for name in ("batch", "instance", "layer", "group", "batch_instance")
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = DEPTHS[size]
    config.data.corruptions = tuple(CORRUPTIONS)
    # One colour is subtracted from every pixel.  A mean image would stay behind, at full strength, where an image has
    # lost its contrast, and no norm could take it out.
    config.data.preprocess = "channel_mean"
    if size == "demo":
        config.model.norm_groups = 4  # at width 8, groups of one channel would make group norm an instance norm
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: the same network with each norm."""
    sizes.check(size, FILE)
    return list(VARIANTS.values())
