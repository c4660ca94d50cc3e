"""The sources `binary` and `python`: the official releases of CIFAR, rows of LAYOUTS, read and checked.

Each is read from its folder or a tar archive; nothing is unpacked onto the disk, and nothing in a file is executed.
Formats, archives and their md5: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from normres.data.dataset import CIFAR10_NAMES, CLASSES, Dataset, check_labels
from normres.data.files import find, one_line
from normres.data.unpickle import text, unpickle
from normres.errors import UserError

EXAMPLES = {"train": 50_000, "test": 10_000}
# The classes that each label of a record counts, by its name in the python version; the last label is used.
LABELS = {"cifar10": {"labels": 10}, "cifar100": {"coarse_labels": 20, "fine_labels": 100}}
ALTERED = "get it again, or for altered data set data.verify=False"


@dataclass(frozen=True)
class Layout:
    """One official release: its files, and what is known about them."""

    folder: str
    archive: str
    md5: dict[str, str]  # data file -> md5, "" where it is not known; in official order, the test file last
    names_file: str = ""  # of the classes; CIFAR-10's are known without
    archive_md5: str = ""  # asked for only where the files' own are not known


# By data.source and data.name.
LAYOUTS = {
    ("binary", "cifar10"): Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    ("binary", "cifar100"): Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        {"train.bin": "", "test.bin": ""},
        names_file="fine_label_names.txt",
        archive_md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    ("python", "cifar10"): Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    ("python", "cifar100"): Layout(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        names_file="meta",
    ),
}


def load_official(source: str, name: str, path: str, verify: bool = True) -> Dataset:
    """Returns a release in the official order.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it.  `verify` compares the md5 of
    every file.  Of CIFAR-100's binary files none is known: there the archive's is compared, and in a folder (or .tar),
    where a changed pixel is not noticed, the number of records of each class.
    Raises `UserError`, one line that names the file and what to do about it.
    """
    layout = LAYOUTS[source, name]
    place = find(path, f"give the folder {layout.folder} or {layout.archive}")
    wanted = layout.md5.keys() | {layout.names_file} - {""}
    files = {file: (f"data.path: {what}", content) for file, what, content in entries(place, wanted)}
    if missing := wanted - files.keys():
        raise UserError(f"data.path: {place} has no {min(missing)}; {_advice(layout, files)}")
    if verify and place.is_file() and is_gzip(place):  # of a .tar no md5 is known
        with place.open("rb") as archive:
            check_md5(f"data.path: {place}", archive, layout.archive_md5)
    names: tuple[str, ...] = CIFAR10_NAMES
    binary = source == "binary"
    if layout.names_file:
        what, content = files[layout.names_file]
        listed = content.decode(errors="replace").split() if binary else unpickle(content, what).get("fine_label_names")
        names = tuple(map(text, listed)) if isinstance(listed, list) else ()
        if len(names) != CLASSES[name]:
            raise UserError(f"{what} names {len(names)} classes, not {CLASSES[name]}; {ALTERED}")
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for file, md5 in layout.md5.items():
        # Popped, so that each file's bytes go as its images come.
        what, content = files.pop(file)
        if verify:
            check_md5(what, io.BytesIO(content), md5)
        planes, labels_NK = (_read_records if binary else _read_pickle)(name, what, content)
        for column, classes in enumerate(LABELS[name].values()):
            check_labels(labels_NK[:, column], classes, what)
        if verify and not md5:
            check_counts(name, "test" if images else "train", labels_NK, what)
        # Plane by plane reads whole rows of memory: twice as fast as one transpose.
        planes = planes.reshape(-1, 3, 32 * 32)
        images.append(np.stack([planes[:, channel] for channel in range(3)], axis=-1).reshape(-1, 32, 32, 3))
        labels.append(labels_NK[:, -1].astype(np.int32))
    *train_images, test_images = images
    *train_labels, test_labels = labels
    train = np.concatenate(train_images), np.concatenate(train_labels)
    return Dataset(name, source, *train, test_images, test_labels, names)


def _read_records(name: str, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels uint8 (N, 3072), the red plane row by row, then green, then blue, and labels (N, K).

    A record of a binary file is K bytes with labels (CIFAR-10: one; CIFAR-100: coarse, then fine), then the pixels.
    """
    count = len(LABELS[name])
    size = count + 3072
    if not content or len(content) % size:
        raise UserError(
            f"{what} has {len(content):,} bytes, not a whole number of {size:,}-byte records: truncated or not {name}"
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, size)
    return table[:, count:], table[:, :count]


def _read_pickle(name: str, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The same as _read_records of the python version: a pickled dict of `data` and lists of labels."""
    batch = unpickle(content, what)
    pixels, labels = batch.get("data"), [batch.get(key) for key in LABELS[name]]
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (3072,) or not len(pixels):
        raise UserError(f"{what}: 'data' is no array (N, 3072): altered or not {name}")
    for values in labels:
        if not isinstance(values, list) or [*map(type, values)] != [int] * len(pixels):
            raise UserError(f"{what}: {' and '.join(LABELS[name])} must be lists of {len(pixels):,} integers")
    return pixels, np.array(labels).T


def check_md5(what: str, content: IO[bytes], expected: str) -> None:
    """Raises `UserError` if the md5 of `content` is not the one expected; "" stands for one that is not known."""
    md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
    if expected not in ("", md5):
        raise UserError(f"{what} has md5 {md5}, not {expected}: damaged, altered or packed anew; {ALTERED}")


def check_counts(name: str, split: str, labels_NK: np.ndarray, what: str) -> None:
    """Raises `UserError` unless these are the records of a split: as many of each class, with one coarse class each."""
    classes, records = CLASSES[name], EXAMPLES[split]
    kinds, counts = np.unique(labels_NK, axis=0, return_counts=True)
    if len(kinds) != classes or set(counts) != {records // classes}:
        raise UserError(
            f"{what} has {len(labels_NK):,} records of {len(kinds)} kinds, {counts.min():,} to {counts.max():,} of "
            f"each kind, not {name}'s {records:,} of {classes}; {ALTERED}"
        )


def _advice(layout: Layout, names: Collection[str]) -> str:
    """Returns what to do about missing files, where there are files of these names."""
    for (source, name), other in LAYOUTS.items():
        if layout.md5.keys().isdisjoint(names) and not other.md5.keys().isdisjoint(names):
            return f"it holds {other.folder}: set data.source={source} and data.name={name}, or another path"
    if layout.archive in names:
        return f"it holds {layout.archive}: give the path of that file"
    return f"give the complete folder {layout.folder} or {layout.archive}"


def entries(place: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, str, bytes]]:
    """Yields (name, name with place, bytes) of each file in a folder and the official ones below it, or in an archive.

    Files that are not `wanted` are not read: they have no bytes.
    """
    if place.is_dir():
        folders = (place, *(place / layout.folder for layout in LAYOUTS.values()))
        for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
            if file.is_file():
                yield file.name, str(file), file.read_bytes() if file.name in wanted else b""
        return
    if any(place.name in layout.md5 for layout in LAYOUTS.values()):
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    try:
        with cast(IO[bytes], gzip.open(place)) if is_gzip(place) else place.open("rb") as stream:
            # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
            with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
                # Links, devices and the like are as good as missing; no member's path is ever used.
                for member in filter(tarfile.TarInfo.isreg, archive):
                    name = PurePosixPath(member.name).name
                    content = cast(IO[bytes], archive.extractfile(member)).read() if name in wanted else b""
                    yield name, f"{place}: {name}", content
            # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"data.path: {place} is damaged, incomplete or no .tar.gz or .tar archive ({one_line(error)}); get it again"
        ) from error


def is_gzip(place: Path) -> bool:
    """Returns whether a file is compressed, whatever its name."""
    with place.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
