"""The source `folder`: any images, as PNG or JPEG files in train/CLASS/ and test/CLASS/.

An image's shorter side is resized to `image_size` pixels and the middle is cut out; one that is that size already
keeps its pixels.  The order is by class, then by file name, so it is the same on every machine.
"""

from pathlib import Path

import numpy as np

from normres.data.dataset import Dataset, of_ones_own
from normres.data.files import decoded, find, readable, regular
from normres.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
WANTED = "the source 'folder' needs a folder with train/CLASS/*.png (or .jpg) and test/CLASS/*.png"


def load_folder(name: str, path: str, image_size: int = 32) -> Dataset:
    """Returns the images under `path` as uint8 (N, image_size, image_size, 3), RGB.

    The classes are the folders of train/; a class may lack test images.
    Raises `UserError`, one line that names the folder or the image.
    """
    place = find(path, WANTED)
    arrays: dict[str, np.ndarray] = {}
    with readable(place):
        names = _classes(place / "train")
        if strangers := [stranger for stranger in _classes(place / "test") if stranger not in names]:
            raise UserError(f"data.path: {place / 'test' / strangers[0]}: there is no such class in train")
        for split in ("train", "test"):
            files = [
                (file, label)
                for label, class_name in enumerate(names)
                for file in _pictures(place / split / class_name)
            ]
            if not files:
                raise UserError(f"data.path: {place / split} has no images")
            examples = ((f"data.path: {file}", file.read_bytes(), label) for file, label in files)
            images, labels = decoded(len(files), examples, image_size, f"data.path: {place / split}")
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return of_ones_own(name, "folder", place, arrays, names)


def _classes(split: Path) -> tuple[str, ...]:
    folders = split.iterdir() if split.is_dir() else []
    classes = sorted(entry.name for entry in folders if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"data.path: {split} has no folders of classes; {WANTED}")
    return tuple(classes)


def _pictures(folder: Path) -> list[Path]:
    """Returns the images of a class; hidden files are none."""
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() in SUFFIXES)
    if not files and folder.parent.name == "train":
        raise UserError(f"data.path: {folder} has no {', '.join(SUFFIXES)} files")
    return [regular(file) for file in files]
