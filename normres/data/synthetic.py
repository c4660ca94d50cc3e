"""The source `synthetic`: random pixels, for tests of shapes and speed.  There is nothing in it to learn."""

import numpy as np

from normres.data.dataset import Dataset
from normres.data.releases import CIFAR10_NAMES

TRAIN, TEST = 1_000, 500  # examples, multiples of 100, so that the classes are balanced
SEED = 0


def load_synthetic(name: str, path: str = "", image_size: int = 32) -> Dataset:
    """Returns uniform noise in the shape of `name`: uint8 (N, image_size, image_size, 3), the classes in turn.

    The same call gives the same bytes everywhere; `path` is not read.
    """
    names = CIFAR10_NAMES if name == "cifar10" else tuple(f"class_{number}" for number in range(100))

    def split(number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([SEED, number])
        images = random.integers(0, 256, (count, image_size, image_size, 3), np.uint8)
        return images, (np.arange(count) % len(names)).astype(np.int32)

    return Dataset(name, "synthetic", *split(0, TRAIN), *split(1, TEST), names)
