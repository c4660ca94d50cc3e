"""Style: a network that gives photographs the style of a picture, by norm, with one style and with several.

    normres sweep  --config=style:demo --seeds=4 --workdir=runs/style
    normres report --experiment=style --workdir=runs/style

Sizes: `demo` (64 pixels, width 8, 6 + 2 x 2 convolutions, 800 steps: most of a minute an arm), `short` (width 16, 16
convolutions, 3,200 steps) and `paper` (128 pixels, width 32, 40,000 steps).  Photographs and pictures come with
scikit-image: pip install 'normres[style]'.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import base, sizes

FILE = "configs/style.py"
SIDES = {"demo": 64, "short": 64, "paper": 128}
WIDTHS = {"demo": 8, "short": 16, "paper": 32}
DEPTHS = {"demo": 10, "short": 16, "paper": 16}
STEPS = {"demo": 800, "short": 3_200, "paper": 40_000}
ONE, SEVERAL = ("cells",), ("cells", "retina", "stars", "gravel")
# The last three have instance norms.
VARIANTS: dict[str, dict[str, Any]] = {
    "batch norm": {"model.norm": "batch", "model.condition": "none", "data.styles": ONE},
    "instance norm": {"model.norm": "instance", "model.condition": "none", "data.styles": ONE},
    "style not told": {"model.norm": "instance", "model.condition": "none", "data.styles": SEVERAL},
    "conditional": {"model.norm": "instance", "model.condition": "label", "data.styles": SEVERAL},
    "adaptive (AdaIN)": {"model.norm": "instance", "model.condition": "picture", "data.styles": SEVERAL},
}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    sizes.check(size, FILE)
    config = base.get_config("johnson2016")
    config.model.family = "stylizer"
    config.model.width, config.model.depth = WIDTHS[size], DEPTHS[size]
    config.data.name = config.data.source = "photographs"
    config.data.image_size = SIDES[size]
    config.train.eval_batch_size = 32
    config.train.steps = STEPS[size]
    config.train.log_every, config.train.eval_every = STEPS[size] // 60, STEPS[size] // 12
    config.train.checkpoint_every = STEPS[size] // 4
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms."""
    sizes.check(size, FILE)
    # As text, which is shorter in the names of runs.
    return [{**fields, "data.styles": ",".join(fields["data.styles"])} for fields in VARIANTS.values()]
