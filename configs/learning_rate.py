"""Learning rate: error of each norm against the learning rate, on images set aside from the training set.

    normres sweep  --config=learning_rate:demo --workdir=runs/learning_rate
    normres report --experiment=learning_rate --workdir=runs/learning_rate

Sizes: `demo` (depth 8, width 8, 2,048 + 512 embedded images, 400 steps), `short` (depth 20, 3,200 steps) and `paper`
(depth 20, 64,000 steps).  The last two need the full CIFAR-10, by --config.data.source=binary
--config.data.path=DIR_OR_TAR.  The rate of a norm is chosen on the validation set; the test set is not looked at.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/learning_rate.py"
VALIDATION = {"demo": 512, "short": 5_000, "paper": 5_000}
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
VARIANTS = {f"{norm} norm": {"model.norm": norm} for norm in ("batch", "group", "layer", "instance")}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = 8 if size == "demo" else 20
    config.data.validation = VALIDATION[size]
    config.data.evaluate_on = "validation"
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: each norm at each rate."""
    sizes.check(size, FILE)
    return [
        sizes.with_groups({**fields, "optim.learning_rate": rate}, size)
        for rate in RATES
        for fields in VARIANTS.values()
    ]
