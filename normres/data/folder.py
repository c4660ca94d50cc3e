"""The source `folder`: any images, as PNG or JPEG files in train/CLASS/ and test/CLASS/.

An image's shorter side is resized to `image_size` pixels and the middle is cut out; one that is that size already
keeps its pixels.  The order is by class, then by file name, so it is the same on every machine.
"""

from pathlib import Path

import numpy as np

from normres.data.dataset import Dataset
from normres.data.files import decode, find, must_fit, readable, regular
from normres.data.releases import check_name
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
    with readable(place):
        names = _classes(place / "train")
        strangers = [stranger for stranger in _classes(place / "test") if stranger not in names]
        if strangers:
            raise UserError(f"data.path: {place / 'test' / strangers[0]}: there is no such class in train")
        check_name(name, place, names)
        train, test = (_read(place / split, names, image_size) for split in ("train", "test"))
    return Dataset(name, "folder", *train, *test, names)


def _classes(folder: Path) -> tuple[str, ...]:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"data.path: {folder} has no class folders; {WANTED}")
    return tuple(classes)


def _read(split: Path, names: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a split; hidden files are no images."""
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(names):
        own = sorted(file for file in (split / name).glob("[!.]*") if file.suffix.lower() in SUFFIXES)
        if not own and split.name == "train":
            raise UserError(f"data.path: {split / name} has no {', '.join(SUFFIXES)} files")
        files += [(regular(file), label) for file in own]
    if not files:
        raise UserError(f"data.path: {split} has no images")
    must_fit(len(files), (size, size, 3), f"data.path: {split}")
    images = np.stack([decode(file.read_bytes(), size, f"data.path: {file}") for file, _ in files])
    return images, np.array([label for _, label in files], np.int32)
