"""Shortcuts: what may stand beside the branch of ResNet-110 (He et al. 2016, table 1), options A, B, C among them.

    normres sweep  --config=configs/shortcuts.py:demo --workdir=runs/shortcuts
    normres report --experiment=experiments/shortcuts.py --workdir=runs/shortcuts

Sizes: `demo` (depth 20, width 8, 2,560 embedded images, 400 steps: for CPUs), `budget` (depth 110, 6,400 steps) and
`paper` (depth 110, 64,000 steps; add --seeds=5); the last two want a GPU and the full CIFAR-10, by
--config.data.source=binary --config.data.path=DIR_OR_TAR.  Expected at depth 110: the identity has the lowest error;
without a shortcut, with dropout on it, halved, or gated half shut, the network fails or comes far behind.  Depth 20
is too shallow to show that; there it is to be seen that A, B and C all beat the plain net.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes
from normres.models.variants import SHORTCUTS

FILE = "configs/shortcuts.py"
DEPTHS = {"demo": 20, "budget": 110, "paper": 110}
# Initial bias of the gate g(x) on the branch; the shortcut is multiplied by 1 - g(x), so at -6 it is nearly open.
BIASES = {"exclusive_gate": (0.0, -5.0, -6.0, -7.0), "shortcut_gate": (0.0, -6.0)}
DEMO_BIASES = (0.0, -6.0)


def gated(shortcut: str, bias: float) -> str:
    """Returns the name of a gated variant: "exclusive gating, bias −6"."""
    return f"{SHORTCUTS[shortcut].title}, bias {f'{bias:g}'.replace('-', '−')}"


def variants(size: str) -> dict[str, dict[str, Any]]:
    """Returns the fields of each variant by its name, in the order of SHORTCUTS, the identity first."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(SHORTCUTS, key=lambda name: name != "A"):
        if not SHORTCUTS[name].gate:
            rows[SHORTCUTS[name].title] = {"model.shortcut": name}
            continue
        for bias in BIASES.get(name, DEMO_BIASES):
            if size != "demo" or bias in DEMO_BIASES:
                rows[gated(name, bias)] = {"model.shortcut": name, "model.gate_bias": bias}
    return rows


def get_config(size: str = "demo") -> ConfigDict:
    """Returns what the arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = DEPTHS[size]
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: every shortcut, those with a gate once for each initial bias."""
    sizes.check(size, FILE)
    return list(variants(size).values())
