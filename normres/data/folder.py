"""The source `folder`: any images, as PNG or JPEG files in train/CLASS/ and test/CLASS/.

An image's shorter side is resized to `image_size` pixels and the middle is cut out; one that is that size already
keeps its pixels.  The order is by class, then by file name, so it is the same on every machine.
"""

from pathlib import Path
from typing import Any

import numpy as np

from normres.data.dataset import Dataset
from normres.data.places import find, readable
from normres.data.releases import check_name
from normres.data.resize import decode
from normres.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
WANTED = "the source 'folder' needs a folder with train/CLASS/*.png (or .jpg) and test/CLASS/*.png"


def load_folder(name: str, path: str, image_size: int = 32) -> Dataset:
    """Returns the images under `path` as uint8 (N, image_size, image_size, 3), RGB.

    The classes are the folders of train/; a class may lack test images.
    Raises `UserError`, one line that names the folder or the image.
    """
    place = find(path, WANTED)
    for split in ("train", "test"):
        if not (place / split).is_dir():
            raise UserError(f"data.path: {place} has no folder {split}; {WANTED}")
    arrays: dict[str, Any] = {}
    with readable(place):
        names = _classes(place / "train")
        strangers = [stranger for stranger in _classes(place / "test") if stranger not in names]
        if strangers:
            raise UserError(f"data.path: {place / 'test' / strangers[0]}: there is no such class in train")
        check_name(name, place, names)
        for split in ("train", "test"):
            files = [_images(place / split / class_name, split) for class_name in names]
            images = np.empty((sum(map(len, files)), image_size, image_size, 3), np.uint8)
            if not len(images):
                raise UserError(f"data.path: {place / split} has no images")
            for number, file in enumerate(file for of_class in files for file in of_class):
                images[number] = decode(file.read_bytes(), image_size, f"data.path: {file}")
            arrays[f"{split}_images"] = images
            arrays[f"{split}_labels"] = np.repeat(np.arange(len(names), dtype=np.int32), [*map(len, files)])
    return Dataset(name=name, source="folder", class_names=names, **arrays)


def _classes(folder: Path) -> tuple[str, ...]:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"data.path: {folder} has no class folders; {WANTED}")
    return tuple(classes)


def _images(folder: Path, split: str) -> list[Path]:
    """Returns the image files of one class, by name; hidden files are none."""
    entries = folder.iterdir() if folder.is_dir() else []
    files = sorted(file for file in entries if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not files and split == "train":
        raise UserError(f"data.path: {folder} has no {', '.join(SUFFIXES)} files")
    return files
