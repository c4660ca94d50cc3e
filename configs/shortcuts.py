"""Shortcuts: what may stand beside the branch of ResNet-110 (He et al. 2016, table 1), options A, B, C among them.

    normres sweep  --config=shortcuts:demo --workdir=runs/shortcuts
    normres report --experiment=shortcuts --workdir=runs/shortcuts

Sizes: `demo` (depth 20, width 8, 2,560 embedded images, 400 steps: for CPUs), `short` (depth 110, 3,200 steps) and
`paper` (depth 110, 64,000 steps; add --seeds=5).  The last two need a GPU and the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected at depth 110: the identity has the lowest error.
Without a shortcut, or with one that is halved, dropped out or half closed by a gate, the network fails or has a far
higher error.  Depth 20 is too shallow to show that; it shows that A, B and C all beat the plain network.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/shortcuts.py"
DEPTHS = {"demo": 20, "short": 110, "paper": 110}
# The bias is the gate's initial one.  The gate g(x) multiplies the branch and 1 - g(x) the shortcut: at -6 the shortcut
# is nearly open.
VARIANTS: dict[str, dict[str, Any]] = {
    "identity, zero padding (A)": {"model.shortcut": "A"},
    "none (plain)": {"model.shortcut": "none"},
    "projection where needed (B)": {"model.shortcut": "B"},
    "projection always (C), 1x1 convolution": {"model.shortcut": "C"},
    "constant 0.5 on the shortcut": {"model.shortcut": "constant"},
    "constant 0.5 on shortcut and branch": {"model.shortcut": "constant_both"},
    "exclusive gating, bias 0": {"model.shortcut": "exclusive_gate", "model.gate_bias": 0.0},
    "exclusive gating, bias −5": {"model.shortcut": "exclusive_gate", "model.gate_bias": -5.0},
    "exclusive gating, bias −6": {"model.shortcut": "exclusive_gate", "model.gate_bias": -6.0},
    "exclusive gating, bias −7": {"model.shortcut": "exclusive_gate", "model.gate_bias": -7.0},
    "shortcut-only gating, bias 0": {"model.shortcut": "shortcut_gate", "model.gate_bias": 0.0},
    "shortcut-only gating, bias −6": {"model.shortcut": "shortcut_gate", "model.gate_bias": -6.0},
    "dropout 0.5 on the shortcut": {"model.shortcut": "dropout"},
}
NOT_IN_DEMO = ("exclusive gating, bias −5", "exclusive gating, bias −7")


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = DEPTHS[size]
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every shortcut, with a gate once for each initial bias."""
    sizes.check(size, FILE)
    return [fields for name, fields in VARIANTS.items() if size != "demo" or name not in NOT_IN_DEMO]
