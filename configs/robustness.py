"""Robustness: the error under corruptions of the test images, by norm (Pan et al. 2018; Hendrycks, Dietterich 2019).

    normres sweep  --config=robustness:demo --seeds=3 --workdir=runs/robustness
    normres report --experiment=robustness --workdir=runs/robustness

Sizes: `demo` (depth 8, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (depth 20, 3,200 steps) and
`paper` (depth 56, 64,000 steps).  The last two need the full CIFAR-10, by --config.data.source=binary
--config.data.path=DIR_OR_TAR.  Every finished run is measured on 25 corrupted test sets.  Expected: under contrast and
color cast the error of instance norm rises less than that of batch norm, from a higher clean error.  It also rises less
under blur and noise, so the invariance is not the whole reason.  The demo takes 7 minutes on 2 cores with four seeds.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/robustness.py"
DEPTHS = {"demo": 8, "short": 20, "paper": 56}
CORRUPTIONS = ("contrast", "brightness", "color_cast", "gaussian_blur", "gaussian_noise")
VARIANTS = {
    "batch norm": {"model.norm": "batch"},
    "instance norm": {"model.norm": "instance"},
    "layer norm": {"model.norm": "layer"},
    "group norm": {"model.norm": "group"},
    "batch-instance norm": {"model.norm": "batch_instance"},
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = DEPTHS[size]
    config.data.corruptions = CORRUPTIONS
    # One colour is subtracted from every pixel.  A mean image would stay at full strength in an image that has lost
    # its contrast, and no norm could remove it.
    config.data.preprocess = "channel_mean"
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: the same network with each norm."""
    sizes.check(size, FILE)
    return [sizes.with_groups(fields, size) for fields in VARIANTS.values()]
