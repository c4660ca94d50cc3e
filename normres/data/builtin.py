"""The sources that need no files: `embedded` and `synthetic`.

`embedded` is a class-balanced CIFAR-10 subset that comes with the package, as PNG mosaics: the folder `embedded/` holds
`train.png` and `test.png`, which any image viewer opens, and `labels.json`; `scripts/make_embedded.py` writes it.
A mosaic is a grid of 32x32-pixel tiles; each class fills consecutive tile rows, in class order, and within a
class the examples run left to right, then down.  So the arrays are CLASS-MAJOR (all airplanes first): whoever
takes batches from them has to shuffle.
"""

import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data.dataset import CLASSES, Dataset, of_ones_own, sha256
from normres.data.files import must_fit, one_line
from normres.errors import UserError

TILE = 32  # pixels, height and width
COLUMNS = 32  # tiles in one row of a mosaic
SYNTHETIC = {"train": 1_000, "test": 500}  # examples, multiples of 100, so that the classes are balanced
FOLDER: Traversable = resources.files("normres.data") / "embedded"


def load_embedded(name: str, path: str = "") -> Dataset:
    """Returns the embedded subset: 2,560 training and 640 test images of CIFAR-10, class-major.

    Raises `UserError` for another data set than "cifar10", for a `path` (there is none to read), and for
    files that are missing or damaged.
    """
    if name != "cifar10" or path:
        # Left alone, the full data set that a path means would silently be 2,560 images.
        wrong = f"data.path={path}" if path else f"data.name={name}"
        raise UserError(
            f"{wrong}: the source 'embedded' has only cifar10 and reads no path; "
            "set data.source=binary and data.path to the official files"
        )
    file = FOLDER / "labels.json"
    arrays: dict[str, np.ndarray] = {}
    try:
        layout = json.loads(file.read_text(encoding="utf-8"))
        names = tuple(layout["class_names"])
        for split in ("train", "test"):
            file = FOLDER / f"{split}.png"
            with file.open("rb") as stream, Image.open(stream, formats=["PNG"]) as picture:
                tiles = np.asarray(picture).reshape(-1, TILE, COLUMNS, TILE, 3).swapaxes(1, 2)
            arrays[f"{split}_images"] = tiles.reshape(-1, TILE, TILE, 3)
            arrays[f"{split}_labels"] = np.repeat(np.arange(len(names), dtype=np.uint8), layout["per_class"][split])
            for kind in (f"{split}_images", f"{split}_labels"):
                if sha256([arrays[kind]]) != layout["sha256"][kind]:
                    raise ValueError(f"the sha256 of {kind} is wrong")
    except Exception as error:  # whatever a damaged file makes Pillow and json raise
        raise UserError(
            f"{file}: cannot be read ({one_line(error)}); the installed package is damaged, install normres again"
        ) from error
    return of_ones_own(name, "embedded", Path(str(FOLDER)), arrays, names)


def load_synthetic(name: str, path: str = "", image_size: int = 32) -> Dataset:
    """Returns random pixels in the shape of `name`: uint8 (N, image_size, image_size, 3), the classes in turn.

    They are for tests of shapes and speed: there is nothing in them to learn.  The same call gives the same bytes
    everywhere; `path` is not read.
    """
    must_fit(sum(SYNTHETIC.values()), (image_size, image_size, 3), f"data.image_size={image_size}")
    arrays: dict[str, Any] = {}
    for number, (split, count) in enumerate(SYNTHETIC.items()):
        random = np.random.default_rng([0, number])
        arrays[f"{split}_images"] = random.integers(0, 256, (count, image_size, image_size, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % CLASSES[name]
    return of_ones_own(name, "synthetic", Path(), arrays)
