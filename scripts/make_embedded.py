"""Writes the embedded CIFAR-10 subset, normres/data/embedded/, from the official binary files.

    python scripts/make_embedded.py CIFAR10 [--out FOLDER]

CIFAR10 is what `data.path` takes: the folder cifar-10-batches-bin, its parent, or cifar-10-binary.tar.gz.
The subset is the first 256 training images of each class (data_batch_1..5 in order) and the first 64
test images of each class, so anyone can make it again and get the same pixels.  Takes a few seconds.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from normres.data.builtin import COLUMNS, TILE
from normres.data.dataset import sha256
from normres.data.official import load_official
from normres.errors import UserError

PER_CLASS = {"train": 256, "test": 64}
PROVENANCE = (
    "CIFAR-10 (Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, "
    "https://www.cs.toronto.edu/~kriz/cifar.html): the first 256 training images of each class "
    "(data_batch_1..5 in order) and the first 64 test images of each class, pixels unchanged; "
    "written by scripts/make_embedded.py from files with the official md5"
)
ORDER = (
    "class-major: class k fills tile rows k*R to k*R+R-1, R = per_class / columns; in a class the official "
    "order, left to right, then down; labels are therefore 0 (per_class times), 1, ..."
)


def to_mosaic(images_NHWC: np.ndarray) -> np.ndarray:
    """Returns the uint8 mosaic (N / COLUMNS * TILE, COLUMNS * TILE, 3); N must fill whole rows of tiles."""
    rows = len(images_NHWC) // COLUMNS
    tiles = images_NHWC.reshape(rows, COLUMNS, TILE, TILE, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * TILE, COLUMNS * TILE, 3)


def first_of_each_class(images: np.ndarray, labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Returns the first `count` images of every class, class-major, in the order they have in `images`."""
    return np.concatenate([images[np.flatnonzero(labels == k)[:count]] for k in range(classes)])


def main(arguments: list[str]) -> int:
    """Writes the two mosaics and labels.json; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cifar10", help="cifar-10-batches-bin or cifar-10-binary.tar.gz")
    default = Path(__file__).resolve().parent.parent / "normres" / "data" / "embedded"
    parser.add_argument("--out", type=Path, default=default, help="the folder to write")
    options = parser.parse_args(arguments)
    try:
        dataset = load_official("binary", "cifar10", options.cifar10)
    except UserError as error:
        print(f"make_embedded: {error}", file=sys.stderr)
        return 2

    options.out.mkdir(parents=True, exist_ok=True)
    classes = len(dataset.class_names)
    digests = {}
    splits = {
        "train": (dataset.train_images, dataset.train_labels),
        "test": (dataset.test_images, dataset.test_labels),
    }
    for split, (images, labels) in splits.items():
        chosen = first_of_each_class(images, labels, classes, PER_CLASS[split])
        Image.fromarray(to_mosaic(chosen)).save(options.out / f"{split}.png", optimize=True)
        digests[f"{split}_images"] = sha256([chosen])
        digests[f"{split}_labels"] = sha256([np.repeat(np.arange(classes, dtype=np.uint8), PER_CLASS[split])])
    layout = {
        "name": dataset.name,
        "provenance": PROVENANCE,
        "class_names": dataset.class_names,
        "per_class": PER_CLASS,
        "grid": {"tile": TILE, "columns": COLUMNS, "order": ORDER},
        "sha256_of": "the decoded arrays, C order: images uint8 (N, 32, 32, 3) RGB, labels uint8 (N,)",
        "sha256": digests,
    }
    (options.out / "labels.json").write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"wrote {options.out}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
