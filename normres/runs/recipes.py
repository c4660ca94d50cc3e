"""Training recipes by name.  A recipe is a row: the fields of configs/base.py that it sets.

`he2015` is exact: batch 128, SGD with momentum 0.9, weight decay 1e-4, rate 0.1 divided by 10 at 32k and 48k of
64k iterations, pad 4 + random crop + flip, per-pixel mean subtracted, and for depth 110 and more a rate of 0.01
until the training error is below 80 % (He, Zhang, Ren, Sun 2015, arXiv 1512.03385, section 4.2).
`budget` is a tenth of it in proportion.  `demo` is what a laptop bears in minutes: 400 steps, with a batch of 64 for
more of them from the same images, a warm-up instead of the hold, annealing instead of steps, because a fraction of 400
steps is too short a tail to settle in, and no augmentation, because what it shows is how well a network can be
optimized, and ten passes over the images leave no time to learn them in every position.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError, nearest

_HE2015: dict[str, Any] = {
    "train.steps": 64_000,
    "train.batch_size": 128,
    "train.log_every": 100,
    "train.eval_every": 2_000,
    "train.checkpoint_every": 2_000,
    "optim.learning_rate": 0.1,
    "optim.momentum": 0.9,
    "optim.nesterov": False,
    "optim.weight_decay": 1e-4,
    "optim.decay_norms": True,
    "optim.schedule": "step",
    "optim.boundaries": (32_000, 48_000),
    "optim.decay_factor": 0.1,
    "optim.warmup_steps": 0,
    "optim.hold_learning_rate": 0.01,
    "optim.hold_until_error": 0.8,
    "optim.hold_from_depth": 110,
    "data.augmentation": "crop_flip",
    "data.preprocess": "pixel_mean",
    "data.padding": "zero",
    "data.cutout": 0,
    "data.mixup": 0.0,
    "data.cutmix": 0.0,
    "data.cutmix_probability": 1.0,
}

RECIPES: dict[str, dict[str, Any]] = {
    "he2015": _HE2015,
    "budget": _HE2015
    | {
        "train.steps": 6_400,
        "train.eval_every": 800,
        "train.checkpoint_every": 400,
        "optim.boundaries": (3_200, 4_800),
    },
    "demo": _HE2015
    | {
        "train.steps": 400,
        "train.batch_size": 64,
        "train.log_every": 10,
        "train.eval_every": 100,
        "train.checkpoint_every": 50,
        "optim.schedule": "cosine",
        "optim.boundaries": (),
        "optim.warmup_steps": 120,
        "optim.hold_from_depth": 0,
        "data.augmentation": "none",
    },
}


def apply_recipe(config: ConfigDict, name: str) -> None:
    """Sets the fields of `config` that the recipe `name` lists, and `config.recipe`.

    Raises:
      UserError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise UserError(f"config.recipe={name!r} does not exist; {nearest(name, RECIPES)}")
    config.recipe = name
    for field, value in RECIPES[name].items():
        section, key = field.split(".")
        config[section][key] = value
