"""The source `python`: the official pickled files ("python version") of CIFAR-10 and CIFAR-100, folder or archive.

A file is a pickled dict: `data`, uint8 (N, 3072), a row being the 32x32 red plane, then green, then blue, and the
list `labels` (CIFAR-100: `fine_labels` and `coarse_labels`).  Nothing in it is executed, see unpickle.py.
"""

from typing import Any

import numpy as np

from normres.data.dataset import Dataset
from normres.data.official import LAYOUTS, Layout, load_release
from normres.data.unpickle import text, unpickle
from normres.errors import UserError


def load_python(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order; see `load_release` for `path` and errors.

    `verify` compares the md5 of every data file with the official one before it is read.
    """
    return load_release(LAYOUTS["python", name], path, verify, _read_batch, _read_names)


def _read_names(layout: Layout, what: str, content: bytes) -> tuple[str, ...]:
    key = "label_names" if layout.name == "cifar10" else "fine_label_names"
    names = _unpickle(layout, what, content, key)[key]
    if not isinstance(names, list):
        raise UserError(f"{what}: {key!r} is no list; {layout.again}")
    return tuple(text(name) for name in names)


def _read_batch(layout: Layout, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    keys = ("labels",) if len(layout.label_classes) == 1 else ("coarse_labels", "fine_labels")
    batch = _unpickle(layout, what, content, "data", *keys)
    pixels = batch["data"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,) or not len(pixels):
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"{what}: 'data' is {kind}, not uint8 (N, 3072); {layout.again}")
    labels = [np.asarray(batch[key]) for key in keys]
    for key, values in zip(keys, labels, strict=True):
        if values.dtype.kind not in "iu" or values.shape != (len(pixels),):
            raise UserError(f"{what}: {key!r} is not {len(pixels):,} integers; {layout.again}")
    return pixels.reshape(-1, 3, 32 * 32), np.stack(labels, axis=1)


def _unpickle(layout: Layout, what: str, content: bytes, *keys: str) -> dict[str, Any]:
    """Returns the file's dict, which has these keys."""
    entries = unpickle(content, what)
    missing = [key for key in keys if key not in entries]
    if missing:
        raise UserError(f"{what} holds no {missing[0]!r}: not {layout.title}; {layout.again}")
    return entries
