"""The source `photographs`: parts of photographs that scikit-image ships, and pictures that have a style.

Training and test images are parts of different photographs.  The label of an image is the number of the style in which
it is to be painted.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data.dataset import Dataset, of_ones_own
from normres.errors import UserError, library

# By split, functions of skimage.data, and how many parts are taken of each.
CONTENTS: dict[str, tuple[tuple[str, ...], int]] = {
    "train": (("astronaut", "camera", "rocket", "stereo_motorcycle"), 120),
    "test": (("chelsea", "coffee"), 32),
}
SMALLEST_PART = 128  # pixels; the largest is as high as the photograph

# By name, a function of skimage.data and the pixels of the square in its centre that is taken.
STYLES: dict[str, tuple[str, int]] = {
    "cells": ("immunohistochemistry", 320),
    "stars": ("hubble_deep_field", 400),
    "gravel": ("gravel", 320),
    "bricks": ("brick", 400),
    "grass": ("grass", 320),
    "retina": ("retina", 900),
}


@cache
def photograph(function: str) -> Image.Image:
    """Returns a photograph of skimage.data, RGB."""
    pictures: Any = library("skimage.data", "style")
    picture = getattr(pictures, function)()
    return Image.fromarray(picture[0] if isinstance(picture, tuple) else picture).convert("RGB")


def parts(function: str, count: int, side: int) -> np.ndarray:
    """Returns square parts of a photograph, scaled to uint8 (count, side, side, 3); always the same ones."""
    random, picture = np.random.default_rng([count, side]), photograph(function)
    made = []
    for _ in range(count):
        size = int(random.integers(SMALLEST_PART, min(picture.size), endpoint=True))
        left, top = (int(random.integers(0, whole - size, endpoint=True)) for whole in picture.size)
        made.append(_scaled(picture, left, top, size, side))
    return np.stack(made)


def style(name: str, side: int) -> np.ndarray:
    """Returns the picture of a row of STYLES, uint8 (side, side, 3)."""
    function, size = STYLES[name]
    width, height = (picture := photograph(function)).size
    return _scaled(picture, (width - size) // 2, (height - size) // 2, size, side)


def _scaled(picture: Image.Image, left: int, top: int, size: int, side: int) -> np.ndarray:
    box = (left, top, left + size, top + size)
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box))


def load_photographs(name: str, path: str, image_size: int, styles: Sequence[str]) -> Dataset:
    """Returns 480 training and 64 test images; image i has style i modulo the number of styles.  `path` is not read.

    Raises `UserError` if no style is named, or scikit-image is not installed.
    """
    if not styles:
        raise UserError(f"data.styles names no style; choices: {', '.join(STYLES)}")
    examples = {}
    for split, (functions, count) in CONTENTS.items():
        images = np.concatenate([parts(function, count, image_size) for function in functions])
        examples[split] = images, np.arange(len(images), dtype=np.int32) % len(styles)
    dataset = of_ones_own(name, "photographs", Path(), examples, tuple(styles))
    return replace(dataset, styles=np.stack([style(one, image_size) for one in styles]))
