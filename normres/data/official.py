"""The official releases of CIFAR (rows of `LAYOUTS`), read from their folder or a tar archive and checked.

The source `binary` is here, `python` in python.py.  Nothing is unpacked onto the disk.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from normres.data.dataset import Dataset, check_labels
from normres.data.files import find, one_line, readable
from normres.data.releases import CIFAR10_NAMES, LAYOUTS, Layout
from normres.errors import UserError

ALTERED = "get it again, or for altered data set data.verify=False"

# (release, how messages begin, content) -> pixels uint8 (N, 3, 1024), labels (N, kinds of label)
ReadFile = Callable[[Layout, str, bytes], tuple[np.ndarray, np.ndarray]]
ReadNames = Callable[[str, bytes], tuple[str, ...]]

MOST_BYTES = 2**30  # of a file in an archive; the largest official one has 184 MB


def load_binary(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the source `binary`; see `load_release`.

    A file is a sequence of records: the label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine), then 3,072
    pixel bytes, channel-major: the 32x32 red plane row by row, then green, then blue.
    """
    return load_release(LAYOUTS["binary", name], path, verify, _read_records, _read_lines)


def _read_lines(what: str, content: bytes) -> tuple[str, ...]:
    return tuple(line.strip() for line in content.decode(errors="replace").splitlines() if line.strip())


def _read_records(layout: Layout, what: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    labels = len(layout.label_classes)
    size = labels + 3 * 32 * 32
    if not content or len(content) % size:
        raise UserError(
            f"{what} has {len(content):,} bytes, not a whole number of {size:,}-byte records: "
            f"truncated or not {layout.title}; get {layout.archive} again"
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, size)
    return table[:, labels:].reshape(-1, 3, 32 * 32), table[:, :labels]


def load_release(layout: Layout, path: str, verify: bool, read_file: ReadFile, read_names: ReadNames) -> Dataset:
    """Returns a release in the official order; `read_file` and `read_names` know the format of its files.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it.  `verify` compares the md5 of
    every file before it is read.  Of CIFAR-100's binary files no md5 is known: there the archive's is compared, and in
    a folder (or .tar), where a changed pixel is not noticed, the number of records of each class.
    Raises `UserError`, one line that names the file and what to do about it.
    """
    files = _read(layout, path, verify)
    names: tuple[str, ...] = CIFAR10_NAMES
    if layout.names_file:
        what, content = files[layout.names_file]
        names = read_names(what, content)
        if len(names) != layout.label_classes[-1]:
            raise UserError(f"{what} names {len(names)} classes, not {layout.label_classes[-1]}; {ALTERED}")
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for file, md5 in layout.md5.items():
        # Popped, so that each file's bytes go as its images come.
        what, content = files.pop(file)
        if verify:
            check_md5(what, io.BytesIO(content), md5)
        planes, kinds = read_file(layout, what, content)
        for kind, classes in enumerate(layout.label_classes):
            check_labels(kinds[:, kind], classes, what)
        if verify and not md5:
            check_counts(layout, what, kinds, test=bool(images))
        # Plane by plane reads whole rows of memory: twice as fast as one transpose.
        images.append(np.stack([planes[:, channel] for channel in range(3)], axis=-1))
        labels.append(kinds[:, -1].astype(np.int32))
    test_images, test_labels = images.pop().reshape(-1, 32, 32, 3), labels.pop()
    train_images = np.concatenate(images).reshape(-1, 32, 32, 3)
    return Dataset(layout.name, layout.source, train_images, np.concatenate(labels), test_images, test_labels, names)


def check_md5(what: str, content: IO[bytes], expected: str) -> None:
    """Raises `UserError` if the md5 of `content` is not the one expected; "" stands for one that is not known."""
    md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
    if expected not in ("", md5):
        raise UserError(f"{what} has md5 {md5}, not {expected}: damaged, altered or packed anew; {ALTERED}")


def check_counts(layout: Layout, what: str, labels_NK: np.ndarray, test: bool) -> None:
    """Raises `UserError` unless these are the records of a split: as many of each class, with one coarse class each."""
    classes, records = layout.label_classes[-1], layout.examples[test]
    kinds, counts = np.unique(labels_NK, axis=0, return_counts=True)
    if len(kinds) != classes or set(counts) != {records // classes}:
        raise UserError(
            f"{what} has {len(labels_NK):,} records of {len(kinds)} kinds, {counts.min():,} to {counts.max():,} of "
            f"each kind, not {layout.title}'s {records:,} of {classes}; {ALTERED}"
        )


def _read(layout: Layout, path: str, verify: bool) -> dict[str, tuple[str, bytes]]:
    """Returns of each file how errors begin and its bytes."""
    place = find(path, f"the source {layout.source!r} needs the folder {layout.folder} or {layout.archive}")
    wanted = layout.md5.keys() | {layout.names_file} - {""}
    files: dict[str, tuple[str, bytes]] = {}
    names = set()
    with readable(place):
        for name, what, content in entries(place, wanted):
            names.add(name)
            if content is not None:
                files[name] = f"data.path: {what}", content
        if missing := wanted - names:
            raise UserError(_explain_missing(layout, place, names, missing))
        if verify and place.is_file() and _is_gzip(place):  # of a .tar no md5 is known
            with place.open("rb") as archive:
                check_md5(f"data.path: {place}", archive, layout.archive_md5)
    return files


def entries(place: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, str, bytes | None]]:
    """Yields (name, name with place, bytes) of each file in a folder and the official ones below it, or in an archive.

    The bytes are None of files that are not `wanted`.
    """
    if place.is_dir():
        folders = (place, *(place / layout.folder for layout in LAYOUTS.values()))
        for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
            if file.is_file():
                yield file.name, str(file), file.read_bytes() if file.name in wanted else None
        return
    if any(place.name in layout.md5 for layout in LAYOUTS.values()):
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    try:
        with cast(IO[bytes], gzip.open(place)) if _is_gzip(place) else place.open("rb") as stream:
            # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
            with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
                # Links, devices and the like are as good as missing; no member's path is ever used.
                for member in filter(tarfile.TarInfo.isreg, archive):
                    name, content = PurePosixPath(member.name).name, None
                    if name in wanted:
                        if not 0 <= member.size <= MOST_BYTES:
                            raise UserError(
                                f"data.path: {place}: {name} has {member.size:,} bytes, too many for an official file"
                            )
                        content = cast(IO[bytes], archive.extractfile(member)).read()
                    yield name, f"{place}: {name}", content
            # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"data.path: {place} is damaged, incomplete or no .tar.gz or .tar archive ({one_line(error)}); get it again"
        ) from error


def _is_gzip(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _explain_missing(layout: Layout, place: Path, names: set[str], missing: set[str]) -> str:
    """Returns the error line for files that are not there, with the most likely mistake named."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"data.path: {place} has no {min(missing)}{more}"
    for other in LAYOUTS.values():
        if not names & layout.md5.keys() and names & other.md5.keys():
            mend = f"set data.source={other.source} and data.name={other.name}, or another path"
            return f"{line}: it holds the {other.source} version of {other.title}; {mend}"
    if layout.archive in names:
        return f"{line}, but it holds {layout.archive}: give the path of that file"
    return f"{line}; give the complete folder {layout.folder} or {layout.archive}"
