"""The source `python`: the official pickled files ("python version") of CIFAR-10 and CIFAR-100, folder or archive.

A file is a pickled dict: `data`, uint8 (N, 3072), a row being the 32x32 red plane, then green, then blue, and the
list `labels` (CIFAR-100: `fine_labels` and `coarse_labels`).  Nothing in it is executed, see unpickle.py.
"""

from typing import Any

import numpy as np

from normres.data.dataset import Dataset
from normres.data.official import ALTERED, LAYOUTS, Content, Layout, check_md5, check_names, read
from normres.data.unpickle import unpickle
from normres.errors import UserError


def load_python(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order, read from the official pickled files under `path`.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it; nothing is unpacked onto the
    disk.  `verify` compares the md5 of every data file with the official one before it is read, and the number of
    examples; the right arrays with labels in range are demanded always.
    Raises `UserError`, one line, naming the file and what to do about it.
    """
    layout = LAYOUTS["python", name]
    where, files = read(layout, path, verify)
    class_names = _class_names(layout, where, files)
    train_images, train_labels = _decode(layout, layout.train_records, where, files, verify)
    test_images, test_labels = _decode(layout, layout.test_records, where, files, verify)
    return Dataset(name, "python", train_images, train_labels, test_images, test_labels, class_names)


def _class_names(layout: Layout, where: str, files: dict[str, Content]) -> tuple[str, ...]:
    """Returns the class names, from the names file where there is one."""
    what = f"{where}{layout.names_file}"
    if layout.names_file not in files:
        if layout.names:
            return layout.names
        raise UserError(f"data.path: {what} is missing; it names the classes")
    key = "label_names" if layout.name == "cifar10" else "fine_label_names"
    names = _unpickle(layout, what, files[layout.names_file], key)[key]
    if not isinstance(names, list):
        raise UserError(f"data.path: {what}: {key!r} is no list; {layout.again}")
    return check_names(layout, what, tuple(_text(name) for name in names))


def _decode(
    layout: Layout, records: dict[str, int], where: str, files: dict[str, Content], verify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 32, 32, 3) and labels (N,) of these files; takes their bytes out of `files`."""
    images, labels = [], []
    for file, official_records in records.items():
        what = f"{where}{file}"
        content = files.pop(file)
        if verify:
            check_md5(layout, file, what, content)
        pixels, own = _arrays(layout, what, content)
        if verify and len(own) != official_records:
            raise UserError(
                f"data.path: {what} has {len(own):,} examples, not the official {official_records:,}; "
                f"{layout.again}, {ALTERED}"
            )
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(own)
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _arrays(layout: Layout, what: str, content: Content) -> tuple[np.ndarray, np.ndarray]:
    """Returns one file's pixels, uint8 (N, 3072), and labels, int32 (N,)."""
    keys = ("labels",) if len(layout.label_classes) == 1 else ("coarse_labels", "fine_labels")
    batch = _unpickle(layout, what, content, "data", *keys)
    pixels = batch["data"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,) or not len(pixels):
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"data.path: {what}: 'data' is {kind}, not uint8 (N, 3072); {layout.again}")
    labels = np.empty(0)
    for key, classes in zip(keys, layout.label_classes, strict=True):
        labels = _labels(batch[key])
        if labels.shape != (len(pixels),):
            raise UserError(f"data.path: {what}: {key!r} is not {len(pixels):,} integers; {layout.again}")
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if outside.size:
            raise UserError(
                f"data.path: {what} has label {labels[outside[0]]} in record {outside[0]}, outside 0..{classes - 1}: "
                f"damaged or not {layout.title}; {layout.again}"
            )
    return pixels, labels.astype(np.int32)


def _labels(value: Any) -> np.ndarray:
    """Returns integers as int64 (N,); anything else as an array of no dimensions."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int64)
    if isinstance(value, list) and all(type(item) is int and abs(item) < 2**31 for item in value):
        return np.array(value, np.int64)
    return np.zeros((), np.int64)


def _unpickle(layout: Layout, what: str, content: Content, *keys: str) -> dict[str, Any]:
    """Returns the file's dict, which has these keys."""
    entries = unpickle(content, f"data.path: {what}")
    missing = [key for key in keys if key not in entries]
    if missing:
        raise UserError(f"data.path: {what} holds no {missing[0]!r}: not {layout.title}; {layout.again}")
    return entries


def _text(name: Any) -> str:
    return name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name)
