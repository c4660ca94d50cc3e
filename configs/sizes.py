"""The base configuration in the sizes that every published sweep has.

demo: width 8 and 400 steps with batches of 64, for the embedded images.
short: width 16 and 3,200 steps on the full data, the paper's schedule in proportion.
paper: width 16 and 64,000 steps.
The depths belong to each sweep.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from normres.configs import base
from normres.errors import UserError, nearest

RECIPES = {"demo": "demo", "short": "short", "paper": "he2015"}


def check(size: str, file: str) -> None:
    """Raises UserError if there is no such size; the message names the config file `file` and the nearest size."""
    if size not in RECIPES:
        raise UserError(f"{file}:{size} is no size; {nearest(size, RECIPES)}")


def get_config(size: str, file: str) -> ConfigDict:
    """Returns the base configuration at `size`, for the config file `file`."""
    check(size, file)
    config = base.get_config(RECIPES[size])
    if size == "demo":
        config.model.width = 8
    return config


def at(choices: Mapping[str, Any], size: str, file: str) -> Any:
    """Returns what a sweep has at `size`, for the config file `file`."""
    check(size, file)
    return choices[size]


def with_groups(arm: dict[str, Any], size: str) -> dict[str, Any]:
    """Returns the arm; a demo's group norm has four groups, because eight of eight channels are an instance norm."""
    demo = size == "demo" and arm["model.norm"] == "group"
    return {**arm, "model.norm_groups": 4} if demo else arm
