"""The source `python`: the official pickled files ("python version") of CIFAR-10 and CIFAR-100, folder or archive.

A file is a pickled dict: `data`, uint8 (N, 3072), a row being the 32x32 red plane, then green, then blue, and the
list `labels` (CIFAR-100: `fine_labels` and `coarse_labels`).  Nothing in it is executed, see unpickle.py.
"""

import numpy as np

from normres.data.dataset import Dataset
from normres.data.official import LAYOUTS, Layout, load_release
from normres.data.unpickle import text, unpickle
from normres.errors import UserError


def load_python(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order; see `load_release` for `path`, `verify` and errors."""
    return load_release(LAYOUTS["python", name], path, verify, _read_batch, _read_names)


def _read_names(what: str, content: bytes) -> tuple[str, ...]:
    names = unpickle(content, what).get("fine_label_names")
    return tuple(map(text, names)) if isinstance(names, list) else ()


def _read_batch(layout: Layout, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = unpickle(content, what)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,) or not len(pixels):
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"{what}: 'data' is {kind}, not uint8 (N, 3072); get {layout.archive} again")
    labels = []
    for key in ("labels",) if layout.name == "cifar10" else ("coarse_labels", "fine_labels"):
        labels.append(np.asarray(batch.get(key)))
        if labels[-1].dtype.kind not in "iu" or labels[-1].shape != (len(pixels),):
            raise UserError(f"{what}: {key!r} is not {len(pixels):,} integers; get {layout.archive} again")
    return pixels.reshape(-1, 3, 32 * 32), np.stack(labels, axis=1)
