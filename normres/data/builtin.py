"""The sources that need no files: `embedded` and `synthetic`.

`embedded` is a class-balanced CIFAR-10 subset in the package, two PNG mosaics that any image viewer opens;
`scripts/make_embedded.py` writes them, and labels.json, which says where they come from.  A mosaic is a grid of tiles
of 32x32 pixels.  Each class fills consecutive rows of tiles, in class order, so the arrays are CLASS-MAJOR (all
airplanes first): whoever takes batches from them has to shuffle.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from normres.data.dataset import CLASSES, Dataset, of_ones_own
from normres.data.files import must_fit
from normres.errors import UserError

TILE = 32  # pixels, height and width
COLUMNS = 32  # tiles in one row of a mosaic
SYNTHETIC = {"train": 1_000, "test": 500}  # examples, multiples of 100, so that the classes are balanced
FOLDER = Path(__file__).with_name("embedded")


def load_embedded(name: str, path: str = "") -> Dataset:
    """Returns the embedded subset: 2,560 training and 640 test images of CIFAR-10, class-major.

    Raises `UserError` for another data set than "cifar10", and for a `path`: there is none to read.
    """
    if name != "cifar10" or path:
        # Left alone, the full data set that a path means would silently be 2,560 images.
        wrong = f"data.path={path}" if path else f"data.name={name}"
        raise UserError(
            f"{wrong}: the source 'embedded' has only cifar10 and reads no path; "
            "set data.source=binary and data.path to the official files"
        )
    examples = {}
    for split in ("train", "test"):
        with Image.open(FOLDER / f"{split}.png") as picture:
            tiles = np.asarray(picture).reshape(-1, TILE, COLUMNS, TILE, 3).swapaxes(1, 2)
        images = tiles.reshape(-1, TILE, TILE, 3)
        examples[split] = images, np.repeat(np.arange(10), len(images) // 10)
    return of_ones_own(name, "embedded", FOLDER, examples)


def load_synthetic(name: str, path: str = "", image_size: int = 32) -> Dataset:
    """Returns random pixels in the shape of `name`: uint8 (N, image_size, image_size, 3), the classes in turn.

    They are for tests of shapes and speed, and the same everywhere; `path` is not read.
    """
    must_fit(sum(SYNTHETIC.values()), (image_size, image_size, 3), f"data.image_size={image_size}")
    examples = {}
    for number, (split, count) in enumerate(SYNTHETIC.items()):
        images = np.random.default_rng([0, number]).integers(0, 256, (count, image_size, image_size, 3), np.uint8)
        examples[split] = images, np.arange(count) % CLASSES[name]
    return of_ones_own(name, "synthetic", Path(), examples)
