"""Data of one's own: the sources `npz`, one NumPy file, and `folder`, images in train/CLASS/ and test/CLASS/.

An npz file has the arrays train_images, train_labels, test_images and test_labels.  Images are uint8 (N, H, W, C),
labels integers (N,) from 0; `class_names`, an array of strings, may be added:

    np.savez("flowers.npz", train_images=..., train_labels=..., test_images=..., test_labels=..., class_names=[...])

It must hold no Python objects: nothing in it can be executed.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from normres.data.dataset import CLASSES, Dataset, of_ones_own
from normres.data.files import decoded, find, one_line
from normres.errors import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
SUFFIXES = (".png", ".jpg", ".jpeg")
UNREAD = (".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ppm")  # images too: leaving them out must not be silent
NPZ = f"the source 'npz' needs a .npz file with {', '.join(ARRAYS)}"
FOLDER = "the source 'folder' needs a folder with train/CLASS/*.png (or .jpg) and test/CLASS/*.png"


def load_npz(name: str, path: str) -> Dataset:
    """Returns the data set in the order of the file; one called cifar10 or cifar100 has images of 32 x 32 x 3.

    Raises `UserError`, one line that names the file and the array.
    """
    place = find(path, NPZ)
    try:
        with zipfile.ZipFile(place), np.load(place, allow_pickle=False) as file:
            arrays = {key: np.ascontiguousarray(file[key]) for key in (*ARRAYS, "class_names") if key in file}
    # A forged header asks for more memory than there is: MemoryError.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, MemoryError) as error:
        raise UserError(f"data.path: {place} cannot be read: damaged or no .npz file ({one_line(error)})") from error
    for key in ARRAYS:
        if key not in arrays:
            raise UserError(f"data.path: {place} has no array {key}; {NPZ}")
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
    examples = {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")}
    names = np.ravel(arrays.get("class_names", [])).tolist()
    return of_ones_own(
        name, "npz", place, examples, tuple(one.decode() if isinstance(one, bytes) else str(one) for one in names)
    )


def load_folder(name: str, path: str, image_size: int = 32) -> Dataset:
    """Returns the images under `path` as uint8 (N, image_size, image_size, 3), RGB, by class, then by file name.

    The classes are the folders of train/; a class may lack test images.  See files.decode for images of other sizes.
    Raises `UserError`, one line that names the folder or the image.
    """
    place = find(path, FOLDER)
    examples = {}
    names = _classes(place / "train")
    if strangers := sorted(set(_classes(place / "test")) - set(names)):
        raise UserError(f"data.path: {place / 'test' / strangers[0]}: there is no such class in train")
    for split in ("train", "test"):
        files: list[tuple[Path, int]] = []
        for label, class_name in enumerate(names):
            pictures = _pictures(place / split / class_name)
            if split == "train" and not pictures:
                raise UserError(f"data.path: {place / split / class_name} has no {', '.join(SUFFIXES)} files")
            files += [(file, label) for file in pictures]
        if not files:
            raise UserError(f"data.path: {place / split} has no images")
        encoded = ((f"data.path: {file}", file.read_bytes(), label) for file, label in files)
        examples[split] = decoded(len(files), encoded, image_size, f"data.path: {place / split}")
    return of_ones_own(name, "folder", place, examples, names)


def _classes(split: Path) -> tuple[str, ...]:
    folders = split.iterdir() if split.is_dir() else []
    classes = sorted(entry.name for entry in folders if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"data.path: {split} has no folders of classes; {FOLDER}")
    return tuple(classes)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(folder.glob("[!.]*"))  # hidden files are none
    if unread := [file for file in files if file.suffix.lower() in UNREAD]:
        raise UserError(f"data.path: {unread[0]}: only {', '.join(SUFFIXES)} are read")
    return [file for file in files if file.suffix.lower() in SUFFIXES]
