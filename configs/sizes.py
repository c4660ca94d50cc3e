"""The base configuration at the three sizes in which every ablation comes.

`demo`: width 8, batches of 64, 400 steps, for the embedded images; `budget`: width 16 and 6,400 steps; `paper`: width
16 and 64,000 steps.  The depths are the ablation's own.
"""

from ml_collections import ConfigDict

from normres.configs import base
from normres.errors import UserError, nearest

RECIPES = {"demo": "demo", "budget": "budget", "paper": "he2015"}


def check(size: str, file: str) -> None:
    """Raises UserError, naming `file` and the nearest size, if there is no such size."""
    if size not in RECIPES:
        raise UserError(f"{file}:{size} is no size; {nearest(size, RECIPES)}")


def get_config(size: str = "demo", file: str = "configs/sizes.py") -> ConfigDict:
    """Returns the base configuration at `size`, for the config file `file`."""
    check(size, file)
    config = base.get_config(RECIPES[size])
    if size == "demo":
        config.model.width = 8
    return config
