"""The source `npz`: one NumPy file with the arrays train_images, train_labels, test_images and test_labels.

Images are uint8 (N, H, W, C), labels integers (N,) from 0; `class_names`, an array of strings, may be added:

    np.savez("flowers.npz", train_images=..., train_labels=..., test_images=..., test_labels=..., class_names=[...])

The file must hold no Python objects: nothing in it can be executed.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from normres.data.dataset import Dataset
from normres.data.official import find, one_line, readable
from normres.data.releases import CIFAR10_NAMES
from normres.errors import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
WANTED = f"the source 'npz' needs a .npz file with {', '.join(ARRAYS)}"
CLASSES = {"cifar10": 10, "cifar100": 100}


def load_npz(name: str, path: str) -> Dataset:
    """Returns the data set in the order of the file.

    A data set called cifar10 or cifar100 has to look like it: 32x32x3 images of 10 or 100 classes.
    Raises `UserError`, one line that names the file and the array.
    """
    place = find(path, WANTED)
    if place.is_dir():
        raise UserError(f"data.path: {place} is a folder; {WANTED}")
    with readable(place):
        arrays = _read(place)
    class_names = _class_names(name, place, arrays)
    shape = arrays["train_images"].shape[1:]
    for split in ("train", "test"):
        _check(place, split, arrays[f"{split}_images"], arrays[f"{split}_labels"], shape, class_names)
    if name in CLASSES and (shape, len(class_names)) != ((32, 32, 3), CLASSES[name]):
        raise UserError(
            f"data.path: {place} has images of shape {shape} and {len(class_names)} classes, which is not {name}; "
            "give it a data.name of its own"
        )
    for split in ("train", "test"):
        arrays[f"{split}_labels"] = arrays[f"{split}_labels"].astype(np.int32)
    whole: dict[str, Any] = {key: np.ascontiguousarray(arrays[key]) for key in ARRAYS}
    return Dataset(name=name, source="npz", class_names=class_names, **whole)


def _read(place: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the file, `class_names` among them if it is there."""
    try:
        with zipfile.ZipFile(place) as archive:
            present = {entry.filename.removesuffix(".npy") for entry in archive.infolist()}
            missing = [key for key in ARRAYS if key not in present]
            if missing:
                raise UserError(f"data.path: {place} has no array {missing[0]}; {WANTED}")
            return {key: _array(archive, place, key) for key in (*ARRAYS, "class_names") if key in present}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"data.path: {place} is damaged, incomplete or no .npz file ({one_line(error)}); {WANTED}"
        ) from error


def _array(archive: zipfile.ZipFile, place: Path, key: str) -> np.ndarray:
    """Returns one array; zipfile compares its checksum."""
    entry = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(entry) as stream:
            version = npy.read_magic(stream)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(stream)
            # Before numpy asks for the memory that a forged header describes.
            expected = stream.tell() + math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and entry.file_size != expected:
                raise ValueError(f"{entry.file_size:,} bytes, not the {expected:,} of its header")
            stream.seek(0)
            return npy.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"data.path: {place}: {key} cannot be read: {one_line(error)}") from error


def _class_names(name: str, place: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the names in the file, else CIFAR-10's own, else the numbers of the classes."""
    if "class_names" in arrays:
        names = arrays.pop("class_names")
        if names.dtype.kind != "U" or names.ndim != 1:
            raise UserError(f"data.path: {place}: class_names is {names.dtype} {names.shape}, not strings (classes,)")
        return tuple(str(class_name) for class_name in names)
    if name == "cifar10":
        return CIFAR10_NAMES
    labels = arrays["train_labels"]
    highest = int(labels.max()) if labels.size and labels.dtype.kind in "iu" else 0
    return tuple(str(number) for number in range(CLASSES.get(name, min(highest, 2**16) + 1)))


def _check(
    place: Path, split: str, images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], names: tuple[str, ...]
) -> None:
    """Raises `UserError` unless this split's images and labels are what they should be."""
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"data.path: {place}: {split}_images is {images.dtype} {images.shape}, not uint8 (N, H, W, C)")
    if images.shape[1:] != shape:
        raise UserError(f"data.path: {place}: {split}_images has images of {images.shape[1:]}, train_images of {shape}")
    # A last axis this long is a plane: such images are stored channels first.
    if shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise UserError(f"data.path: {place}: {split}_images is {images.shape}: channels first, not (N, H, W, C)")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"data.path: {place}: {split}_labels is {labels.dtype} {labels.shape}, not integers ({len(images)},)"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if outside.size:
        raise UserError(
            f"data.path: {place}: {split}_labels has {labels[outside[0]]} at {outside[0]}, outside 0..{len(names) - 1}"
        )
