"""Norm x depth x order, plain and residual: the table that no paper has for CIFAR.

    normres sweep  --config=norm_depth:demo --workdir=runs/norm_depth
    normres report --experiment=norm_depth --workdir=runs/norm_depth

Sizes: `demo` (depths 8 and 20, width 8, 2,560 embedded images, 400 steps), `short` (depths 20 and 56, 3,200 steps;
residual networks with each norm, pre-activation with batch and group norm) and `paper` (depths 20, 56 and 110, 64,000
steps).  The last two need the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.  Add
--seeds=3.  All norms have one recipe.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/norm_depth.py"
DEPTHS = {"demo": (8, 20), "short": (20, 56), "paper": (20, 56, 110)}
NORMS = ("batch", "group", "layer", "instance")
FORMS = {
    "residual": {"model.order": "post", "model.shortcut": "A"},
    "pre-activation": {"model.order": "pre", "model.shortcut": "A"},
    "plain": {"model.order": "post", "model.shortcut": "none"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{norm}, {form}": {"model.norm": norm, **fields} for form, fields in FORMS.items() for norm in NORMS
}
SHORT = (*(f"{norm}, residual" for norm in NORMS), "batch, pre-activation", "group, pre-activation")


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    return sizes.get_config(size, FILE)


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every norm in every form at each depth, from shallow to deep."""
    names = SHORT if size == "short" else VARIANTS
    return [
        sizes.with_groups({**VARIANTS[name], "model.depth": depth}, size)
        for depth in sizes.at(DEPTHS, size, FILE)
        for name in names
    ]
