"""Signals: activations and gradients layer by layer, before and along training, by norm, plain and residual.

    normres sweep  --config=signals:demo --workdir=runs/signals
    normres report --experiment=signals --workdir=runs/signals

Sizes: `demo` (depths 8 and 20, width 8, 2,560 embedded images, 400 steps), `short` (depths 20 and 56, 3,200 steps) and
`paper` (depths 20, 56 and 110, 64,000 steps).  The last two need the full CIFAR-10, by --config.data.source=binary
--config.data.path=DIR_OR_TAR.  Add --seeds=3.  All arms have one recipe: some without norms may diverge, which does
not touch what is measured before training.  `normres probe` measures a network of any depth before training alone.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/signals.py"
DEPTHS = {"demo": (8, 20), "short": (20, 56), "paper": (20, 56, 110)}
NORMS = ("batch", "group", "layer", "instance", "none")
FORMS = {"plain": {"model.shortcut": "none"}, "residual": {"model.shortcut": "A"}}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{form}, {norm}": {"model.norm": norm, **fields} for form, fields in FORMS.items() for norm in NORMS
}
TIMES = 4  # after the first measurement


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.train.probe_every = config.train.steps // TIMES
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every norm in both forms at each depth, from shallow to deep."""
    return [
        sizes.with_groups({**fields, "model.depth": depth}, size)
        for depth in sizes.at(DEPTHS, size, FILE)
        for fields in VARIANTS.values()
    ]
