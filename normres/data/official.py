"""The official releases of CIFAR (rows of `LAYOUTS`), read from their folder or a tar archive and checked.

Both are read whole, and nothing is unpacked onto the disk.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from normres.data.dataset import Dataset, check_labels
from normres.data.places import find, one_line, readable
from normres.data.releases import CIFAR10_NAMES, LAYOUTS, Layout
from normres.errors import UserError

# An official file has at most 156 MB; the limit keeps a forged archive from filling the memory.
MAX_FILE_BYTES = 2**30
ALTERED = "for altered data set data.verify=False"

# (release, the file's name for messages, content) -> pixels uint8 (N, 3, 1024), labels (N, kinds of label)
ReadFile = Callable[[Layout, str, bytes], tuple[np.ndarray, np.ndarray]]
ReadNames = Callable[[Layout, str, bytes], tuple[str, ...]]


def load_release(layout: Layout, path: str, verify: bool, read_file: ReadFile, read_names: ReadNames) -> Dataset:
    """Returns a release in the official order; `read_file` and `read_names` know the format of its files.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it.  `verify` compares checksums and
    numbers of records with the official ones; the right structure and labels in range are demanded always.
    Raises `UserError`, one line that names the file and what to do about it.
    """
    where, files = _read(layout, path, verify)
    what = f"data.path: {where}{layout.names_file}"
    if layout.names_file in files:
        names = read_names(layout, what, files[layout.names_file])
    elif layout.name == "cifar10":
        names = CIFAR10_NAMES
    else:
        raise UserError(f"{what} is missing; it names the classes")
    if len(names) != layout.label_classes[-1]:
        raise UserError(f"{what} names {len(names)} classes, not {layout.label_classes[-1]}; {layout.again}")

    def split(records: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for file, official in records.items():
            # Popped, so that the peak is one copy of the data and one file, not two copies.
            what, content = f"data.path: {where}{file}", files.pop(file)
            if verify:
                check_md5(layout, what, io.BytesIO(content), layout.md5[file])
            planes, labels = read_file(layout, what, content)
            for kind, classes in enumerate(layout.label_classes):
                check_labels(labels[:, kind], classes, what)
            if verify and len(labels) != official:
                raise UserError(
                    f"{what} has {len(labels):,} records, not the official {official:,}; {layout.again}, {ALTERED}"
                )
            if verify and not layout.md5[file]:
                _check_balance(layout, what, labels)
            parts.append((planes, labels[:, -1]))
        labels = np.concatenate([labels for _, labels in parts]).astype(np.int32)
        images = np.empty((len(labels), 1024, 3), np.uint8)
        start = 0
        while parts:
            planes, _ = parts.pop(0)
            # Plane by plane reads whole rows of memory: three times faster than one 4-D transpose.
            for channel in range(3):
                images[start : start + len(planes), :, channel] = planes[:, channel]
            start += len(planes)
        return images.reshape(-1, 32, 32, 3), labels

    return Dataset(layout.name, layout.source, *split(layout.train_records), *split(layout.test_records), names)


def check_md5(layout: Layout, what: str, content: IO[bytes], expected: str) -> None:
    """Raises `UserError` if the md5 of `content` is not the one expected; "" stands for one that is not known."""
    md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
    if expected not in ("", md5):
        raise UserError(
            f"{what} has md5 {md5}, not {expected}: damaged, altered or packed anew; {layout.again}, {ALTERED}"
        )


def _check_balance(layout: Layout, what: str, labels: np.ndarray) -> None:
    """Raises `UserError` unless each class has as many records, and each fine class one coarse class."""
    for kind, classes in enumerate(layout.label_classes):
        counts = np.bincount(labels[:, kind], minlength=classes)
        if counts.min() != counts.max():
            odd = int(np.abs(counts - len(labels) / classes).argmax())  # the first of those furthest off
            raise UserError(
                f"{what} has {counts[odd]:,} records of label {odd} in byte {kind}, not "
                f"{len(labels) // classes:,}: damaged or altered; {layout.again}, {ALTERED}"
            )
    pairs = len(np.unique(labels, axis=0))
    if pairs != layout.label_classes[-1]:
        raise UserError(
            f"{what} has {pairs} pairs of a coarse and a fine class, not {layout.label_classes[-1]}: "
            f"damaged or altered; {layout.again}, {ALTERED}"
        )


def _read(layout: Layout, path: str, verify: bool) -> tuple[str, dict[str, bytes]]:
    """Returns how to begin a file's name in an error, and the bytes of each file, the names file if it is there."""
    place = find(path, f"the source {layout.source!r} needs the folder {layout.folder} or {layout.archive}")
    with readable(place):
        if place.is_dir():
            # The folder itself first: its parent may hold several data sets.
            folders = (place, place / layout.folder)
            folder = next((folder for folder in folders if _names(folder) & layout.md5.keys()), None)
            names = _names(folder) if folder else names_at(place)
            place = folder or place
            files = {
                file: (place / file).read_bytes()
                for file in (*layout.md5, layout.names_file)
                if folder and file in names
            }
        else:
            names, files = _read_archive(layout, place)
        missing = layout.md5.keys() - files.keys()
        if missing:
            raise UserError(_explain_missing(layout, str(place), names, missing))
        if verify and place.is_file() and _is_gzip(place):  # of a .tar no md5 is known
            with place.open("rb") as archive:
                check_md5(layout, f"data.path: {place}", archive, layout.archive_md5)
    return f"{place}/" if place.is_dir() else f"{place}: ", files


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file()} if folder.is_dir() else set()


def names_at(place: Path) -> set[str]:
    """Returns the names of the files in a folder and in the official folders below it, or in an archive.

    Of an archive, only up to the first official data file.
    """
    if place.is_dir():
        return _names(place).union(*(_names(place / layout.folder) for layout in LAYOUTS.values()))
    official = {file for layout in LAYOUTS.values() for file in layout.md5}
    names = {place.name}
    if place.name not in official:
        with damage(f"data.path: {place}", "get it again, or set data.source"):
            for _, member in _members(place):
                names.add(PurePosixPath(member.name).name)
                if names & official:
                    break
    return names


def _read_archive(layout: Layout, place: Path) -> tuple[set[str], dict[str, bytes]]:
    """Returns the names of all members, and the bytes of the release's files."""
    if place.name in layout.md5 or place.suffix == ".bin":
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    files: dict[str, bytes] = {}
    names: set[str] = set()
    with damage(f"data.path: {place}", layout.again):
        for archive, member in _members(place):
            file = PurePosixPath(member.name).name
            names.add(file)
            # Links, devices and the like are as good as missing; no member's path is ever used.
            if file not in {*layout.md5, layout.names_file} or not member.isreg():
                continue
            if file in files:
                raise UserError(f"data.path: {place} holds {file} twice; use the official archive")
            if not 0 <= member.size <= MAX_FILE_BYTES:
                raise UserError(f"data.path: {place}: {file} has {member.size:,} bytes, too many for an official file")
            files[file] = cast(IO[bytes], archive.extractfile(member)).read()
    return names, files


def _members(place: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields the members of a .tar or .tar.gz archive, then reads it to its very end, which checks the checksum."""
    with cast(IO[bytes], gzip.open(place)) if _is_gzip(place) else place.open("rb") as stream:
        # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
        with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
            for member in archive:
                yield archive, member
        # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
        while stream.read(2**20):
            pass


@contextmanager
def damage(where: str, again: str) -> Iterator[None]:
    """Turns what a damaged archive raises into one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"{where} is damaged, incomplete or no .tar.gz or .tar archive ({one_line(error)}); {again}"
        ) from error


def _is_gzip(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _explain_missing(layout: Layout, place: str, names: set[str], missing: set[str]) -> str:
    """Returns the error line for files that are not there, with the most likely mistake named."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"data.path: {place} has no {min(missing)}{more}"
    for other in LAYOUTS.values():
        if other is not layout and names & other.md5.keys():
            same = other.source == layout.source
            what = f"{other.title}, not {layout.title}" if same else f"the {other.source} version of {other.title}"
            mend = [] if same else [f"data.source={other.source}"]
            mend += [] if other.name == layout.name else [f"data.name={other.name}"]
            return f"{line}: it holds {what}; set {' and '.join(mend)} or another path"
    if layout.archive in names:
        return f"{line}, but it holds {layout.archive}: give the path of that file"
    return f"{line}; give the complete folder {layout.folder} or {layout.archive}"
