"""Batch size: error of batch and group norm against images per batch, at equal numbers of images (Wu, He 2018).

    normres sweep  --config=batch_size:demo --seeds=3 --workdir=runs/batch_size
    normres report --experiment=batch_size --workdir=runs/batch_size

Sizes: `demo` (depth 8, width 8, 25,600 embedded images), `short` (depth 20, 200,000 images) and `paper` (depth 20,
8,192,000 images).  The last two need the full CIFAR-10, by --config.data.source=binary --config.data.path=DIR_OR_TAR.
The learning rate is in proportion to the batch; it falls after equal numbers of images.
"""

from typing import Any

from ml_collections import ConfigDict

from normres.configs import sizes

FILE = "configs/batch_size.py"
IMAGES = {"demo": 25_600, "short": 200_000, "paper": 8_192_000}
BATCHES = {"demo": (2, 8, 64), "short": (4, 16, 64, 128), "paper": (2, 4, 8, 16, 32, 64, 128)}
REFERENCE = {"demo": 64, "short": 128, "paper": 128}  # the batch of the recipe's learning rate, 0.1
VARIANTS = {"batch norm": {"model.norm": "batch"}, "group norm": {"model.norm": "group"}}


def get_config(size: str = "demo") -> ConfigDict:
    """Returns the fields that all arms share."""
    config = sizes.get_config(size, FILE)
    config.model.depth = 8 if size == "demo" else 20
    return config


def sweep(size: str = "demo") -> list[dict[str, Any]]:
    """Returns the arms: each norm at each batch size, from large to small."""
    images = sizes.at(IMAGES, size, FILE)
    return [
        sizes.with_groups({**fields, **_batch(size, batch, images // batch)}, size)
        for batch in reversed(BATCHES[size])
        for fields in VARIANTS.values()
    ]


def _batch(size: str, batch: int, steps: int) -> dict[str, Any]:
    """Returns the fields that follow from the batch size."""
    schedule = (
        {"optim.warmup_steps": steps * 3 // 10}
        if size == "demo"
        else {"optim.boundaries": (steps // 2, steps * 3 // 4)}
    )
    every = {f"train.{name}_every": max(1, steps // 8) for name in ("eval", "checkpoint")}
    return {
        "train.batch_size": batch,
        "train.steps": steps,
        "optim.learning_rate": 0.1 * batch / REFERENCE[size],
        **schedule,
        **every,
        "train.log_every": max(1, steps // 40),
    }
