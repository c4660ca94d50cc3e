"""The source `npz`: one NumPy file with the arrays train_images, train_labels, test_images and test_labels.

Images are uint8 (N, H, W, C), labels integers (N,) from 0; `class_names`, an array of strings, may be added:

    np.savez("flowers.npz", train_images=..., train_labels=..., test_images=..., test_labels=..., class_names=[...])

The file must hold no Python objects: nothing in it can be executed.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from normres.data.dataset import CLASSES, Dataset, of_ones_own
from normres.data.files import find, one_line, readable
from normres.errors import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
WANTED = f"the source 'npz' needs a .npz file with {', '.join(ARRAYS)}"


def load_npz(name: str, path: str) -> Dataset:
    """Returns the data set in the order of the file.

    A data set called cifar10 or cifar100 has to look like it: 32x32x3 images of 10 or 100 classes.
    Raises `UserError`, one line that names the file and the array.
    """
    place = find(path, WANTED)
    arrays = _read(place)
    class_names = tuple(map(str, arrays.pop("class_names", np.array([])).ravel()))
    shape = (32, 32, 3) if name in CLASSES else arrays["train_images"].shape[1:]
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        what = f"data.path: {place}: {split}"
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise UserError(f"{what}_images is {images.dtype} {images.shape}, not uint8 (N, H, W, C)")
        if images.shape[1:] != shape:
            raise UserError(f"{what}_images has images of {images.shape[1:]}, not {shape} as {name}'s others")
        # A last axis this long is a plane: such images are stored channels first.
        if shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
            raise UserError(f"{what}_images is {images.shape}: channels first, not (N, H, W, C)")
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise UserError(f"{what}_labels is {labels.dtype} {labels.shape}, not integers ({len(images)},)")
        arrays[f"{split}_images"] = np.ascontiguousarray(images)
    return of_ones_own(name, "npz", place, arrays, class_names)


def _read(place: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the file, `class_names` among them if it is there."""
    what = str(place)
    arrays = {}
    try:
        with readable(place), zipfile.ZipFile(place), np.load(place, allow_pickle=False) as file:
            for key in (*ARRAYS, "class_names"):
                if key in file:
                    what = f"{place}: {key}"
                    arrays[key] = np.asarray(file[key])
                elif key in ARRAYS:
                    raise UserError(f"data.path: {place} has no array {key}; {WANTED}")
    # A forged header asks for more memory than there is: MemoryError.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, MemoryError) as error:
        raise UserError(f"data.path: {what} cannot be read: damaged or no .npz file ({one_line(error)})") from error
    return arrays
