"""The source `binary`: the official binary files of CIFAR-10 and CIFAR-100, in a folder or a tar archive.

A file is a sequence of records: the label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine), then 3,072
pixel bytes, channel-major: the 32x32 red plane row by row, then green, then blue.
"""

import numpy as np

from normres.data.dataset import Dataset
from normres.data.official import LAYOUTS, Layout, load_release
from normres.errors import UserError


def load_binary(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order; see `load_release` for `path` and errors.

    `verify` compares the number of records with the official one, and the md5 of CIFAR-10's files or of CIFAR-100's
    .tar.gz.  No md5 of CIFAR-100's files is known, so in a folder (or .tar) of them a changed pixel is not noticed; as
    many records of each fine class are demanded there, and one coarse class to each.
    """
    return load_release(LAYOUTS["binary", name], path, verify, _read_records, _read_names)


def _read_names(layout: Layout, what: str, content: bytes) -> tuple[str, ...]:
    lines = content.decode("utf-8", errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _read_records(layout: Layout, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    labels = len(layout.label_classes)
    size = labels + 3 * 32 * 32
    if not content or len(content) % size:
        raise UserError(
            f"{what} has {len(content):,} bytes, not a whole number of {size:,}-byte records: "
            f"truncated or not {layout.title}; {layout.again}"
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, size)
    return table[:, labels:].reshape(-1, 3, 32 * 32), table[:, :labels]
