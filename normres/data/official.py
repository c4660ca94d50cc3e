"""The official releases of CIFAR (rows of `LAYOUTS`), read from their folder or a tar archive and checked.

Both are read whole, and nothing is unpacked onto the disk.
"""

import gzip
import hashlib
import io
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
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
    files = _read(layout, path, verify)
    names: tuple[str, ...] = CIFAR10_NAMES
    if layout.names_file in files:
        what, content = files[layout.names_file]
        names = read_names(layout, what, content)
        if len(names) != layout.label_classes[-1]:
            raise UserError(f"{what} names {len(names)} classes, not {layout.label_classes[-1]}; {layout.again}")
    elif layout.name != "cifar10":
        raise UserError(f"data.path: {path}: {layout.names_file} is missing; it names the classes")

    def split(records: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for file, official in records.items():
            # Popped, so that the peak is one copy of the data and one file, not two copies.
            what, content = files.pop(file)
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
    """Raises `UserError` unless each fine class has one coarse class and as many records as any other."""
    pairs, counts = np.unique(labels, axis=0, return_counts=True)
    if len(pairs) != layout.label_classes[-1] or counts.min() != counts.max():
        raise UserError(
            f"{what} has {len(pairs)} pairs of a coarse and a fine class, {counts.min():,} to {counts.max():,} records "
            f"of each, not {layout.label_classes[-1]} of equal size: damaged or altered; {layout.again}, {ALTERED}"
        )


def _read(layout: Layout, path: str, verify: bool) -> dict[str, tuple[str, bytes]]:
    """Returns of each file, the names file if it is there, how errors begin and its bytes."""
    place = find(path, f"the source {layout.source!r} needs the folder {layout.folder} or {layout.archive}")
    if place.is_file() and (place.name in layout.md5 or place.suffix == ".bin"):
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    files: dict[str, tuple[str, bytes]] = {}
    names = set()
    with readable(place):
        for name, what, content in entries(place, {*layout.md5, layout.names_file}, layout.again):
            if name in files:
                raise UserError(f"data.path: {place} holds {name} twice; use the official archive")
            names.add(name)
            if content is not None:
                files[name] = f"data.path: {what}", content
        missing = layout.md5.keys() - names
        if missing:
            raise UserError(_explain_missing(layout, str(place), names, missing))
        if verify and place.is_file() and _is_gzip(place):  # of a .tar no md5 is known
            with place.open("rb") as archive:
                check_md5(layout, f"data.path: {place}", archive, layout.archive_md5)
    return files


def entries(place: Path, wanted: Collection[str], again: str) -> Iterator[tuple[str, str, bytes | None]]:
    """Yields (name, name with place, bytes) of each file in a folder and the official ones below it, or in an archive.

    The bytes are None of files that are not `wanted`; `again` says how to mend a damaged archive.
    """
    if place.is_dir():
        folders = (place, *(place / layout.folder for layout in LAYOUTS.values()))
        for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
            if file.is_file():
                yield file.name, str(file), file.read_bytes() if file.name in wanted else None
        return
    try:
        with cast(IO[bytes], gzip.open(place)) if _is_gzip(place) else place.open("rb") as stream:
            # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
            with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
                # Links, devices and the like are as good as missing; no member's path is ever used.
                for member in filter(tarfile.TarInfo.isreg, archive):
                    name, content = PurePosixPath(member.name).name, None
                    what = f"{place}: {name}"
                    if name in wanted:
                        if not 0 <= member.size <= MAX_FILE_BYTES:
                            raise UserError(
                                f"data.path: {what} has {member.size:,} bytes, too many for an official file"
                            )
                        pieces = io.BytesIO()  # one read() would need twice the memory
                        shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), pieces, 2**20)
                        content = pieces.getvalue()
                    yield name, what, content
            # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"data.path: {place} is damaged, incomplete or no .tar.gz or .tar archive ({one_line(error)}); {again}"
        ) from error


def _is_gzip(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _explain_missing(layout: Layout, place: str, names: set[str], missing: set[str]) -> str:
    """Returns the error line for files that are not there, with the most likely mistake named."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"data.path: {place} has no {min(missing)}{more}"
    for other in LAYOUTS.values():
        if not names & layout.md5.keys() and names & other.md5.keys():
            same = other.source == layout.source
            what = f"{other.title}, not {layout.title}" if same else f"the {other.source} version of {other.title}"
            mend = [] if same else [f"data.source={other.source}"]
            mend += [] if other.name == layout.name else [f"data.name={other.name}"]
            return f"{line}: it holds {what}; set {' and '.join(mend)} or another path"
    if layout.archive in names:
        return f"{line}, but it holds {layout.archive}: give the path of that file"
    return f"{line}; give the complete folder {layout.folder} or {layout.archive}"
