"""The source `binary`: the official binary files of CIFAR-10 and CIFAR-100, in a folder or a tar archive.

A file is a sequence of records: the label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine), then 3,072
pixel bytes, channel-major: the 32x32 red plane row by row, then green, then blue.
Format and archives: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html
"""

import gzip
import hashlib
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from normres.data.dataset import Dataset
from normres.errors import UserError

type Content = bytes | bytearray  # of one file

PIXELS = 32 * 32 * 3  # bytes of pixels in one record
# An official file has at most 154 MB; the limit keeps a forged archive from filling the memory.
MAX_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Layout:
    """One official binary release: its files, its record, and what is known about the bytes."""

    title: str
    folder: str
    archive: str
    train_records: dict[str, int]  # file name -> official number of records, in official order
    test_records: dict[str, int]
    label_classes: tuple[int, ...]  # classes counted by each label byte; the last byte is the label used
    names_file: str
    names: tuple[str, ...] = ()  # used where the names file is missing
    md5: dict[str, str] = field(default_factory=dict)

    @property
    def data_files(self) -> dict[str, int]:
        """All data files with their official number of records."""
        return self.train_records | self.test_records

    @property
    def record_bytes(self) -> int:
        """Bytes in one record: the label bytes and the pixels."""
        return len(self.label_classes) + PIXELS


LAYOUTS = {
    "cifar10": Layout(
        title="CIFAR-10",
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train_records={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
        test_records={"test_batch.bin": 10_000},
        label_classes=(10,),
        names_file="batches.meta.txt",
        names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        md5={
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    "cifar100": Layout(
        title="CIFAR-100",
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train_records={"train.bin": 50_000},
        test_records={"test.bin": 10_000},
        label_classes=(20, 100),
        names_file="fine_label_names.txt",
    ),
}


def load_binary(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order, read from the official binary files under `path`.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it; archives are read in
    memory, nothing is unpacked onto the disk.
    `verify` compares the number of records and, for CIFAR-10, the md5 of every data file with the official
    ones; whole records and labels in range are demanded always.
    Raises `UserError`, one line, naming the file and what to do about it.
    """
    layout = LAYOUTS[name]
    if not path:
        raise UserError(
            f"data.path: is empty; the source 'binary' needs the folder {layout.folder} or {layout.archive}"
        )
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path: {path} names no home directory: {_one_line(error)}") from error
    try:
        if place.is_dir():
            where, files = _read_folder(layout, place)
        elif place.is_file():
            where, files = _read_archive(layout, place)
        elif place.exists():
            raise UserError(f"data.path: {place} is neither a folder nor an archive")
        else:
            raise UserError(f"data.path: {place} does not exist; give {layout.folder} or {layout.archive}")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"data.path: {error.filename or place} cannot be read: {reason}") from error

    class_names = _class_names(layout, where, files)
    train_images, train_labels = _decode(layout, layout.train_records, where, files, verify)
    test_images, test_labels = _decode(layout, layout.test_records, where, files, verify)
    return Dataset(name, "binary", train_images, train_labels, test_images, test_labels, class_names)


def _read_folder(layout: Layout, place: Path) -> tuple[str, dict[str, Content]]:
    """Returns how to name a file of this folder in an error, and the bytes of each official file."""
    # The folder itself first: its parent may hold several data sets.
    folders = [place, place / layout.folder]
    folder = next((f for f in folders if any((f / file).is_file() for file in layout.data_files)), None)
    if folder is None:
        present = {file.name for f in [*folders, *_other_folders(layout, place)] for file in _entries(f)}
        raise UserError(_explain_missing(layout, str(place), present, set(layout.data_files)))
    present = {file.name for file in _entries(folder) if file.is_file()}
    missing = set(layout.data_files) - present
    if missing:
        raise UserError(_explain_missing(layout, str(folder), present, missing))
    wanted = [file for file in (*layout.data_files, layout.names_file) if file in present]
    for file in wanted:
        _check_size(f"{folder / file}", (folder / file).stat().st_size)
    return f"{folder}/", {file: (folder / file).read_bytes() for file in wanted}


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _other_folders(layout: Layout, place: Path) -> list[Path]:
    return [place / other.folder for other in LAYOUTS.values() if other is not layout]


def _read_archive(layout: Layout, place: Path) -> tuple[str, dict[str, Content]]:
    """Returns the same as `_read_folder` from a .tar or .tar.gz file, without writing to the disk."""
    if place.suffix == ".bin":
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    files: dict[str, Content] = {}
    present: set[str] = set()
    wanted = {*layout.data_files, layout.names_file}
    try:
        with place.open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain
            # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
            with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
                for member in archive:
                    file = PurePosixPath(member.name).name
                    present.add(file)
                    # Links, devices and the like are as good as missing; no member's path is ever used.
                    if file not in wanted or not member.isreg():
                        continue
                    if file in files:
                        raise UserError(f"data.path: {place} holds {file} twice; use the official archive")
                    _check_size(f"{place}: {file}", member.size)
                    files[file] = _read_member(archive, member)
            # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"data.path: {place} is damaged, incomplete or no .tar.gz or .tar archive ({_one_line(error)}); "
            f"get {layout.archive} again"
        ) from error
    missing = set(layout.data_files) - files.keys()
    if missing:
        raise UserError(_explain_missing(layout, str(place), present, missing))
    return f"{place}: ", files


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytearray:
    """Returns the content of a regular member; piece by piece: one `read()` needs twice the memory."""
    content = bytearray(member.size)
    stream = archive.extractfile(member)
    start = 0
    while stream and start < member.size:
        piece = stream.read(min(2**20, member.size - start))
        if not piece:
            raise EOFError(f"{member.name} ends early")
        content[start : start + len(piece)] = piece
        start += len(piece)
    return content


def _check_size(what: str, size: int) -> None:
    if not 0 <= size <= MAX_FILE_BYTES:
        raise UserError(f"data.path: {what} has {size:,} bytes, too many for an official file")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _explain_missing(layout: Layout, place: str, present: set[str], missing: set[str]) -> str:
    """Returns the error line for files that are not there, with the most likely mistake named."""
    first = sorted(missing)[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"data.path: {place} has no {first}{more}"
    for name, other in LAYOUTS.items():
        if other is not layout and present & other.data_files.keys():
            return f"{line}: it holds {other.title}, not {layout.title}; set data.name={name} or another path"
    if layout.archive in present:
        return f"{line}, but it holds {layout.archive}: give the path of that file"
    if present & {"data_batch_1", "cifar-10-batches-py", "cifar-100-python"}:
        return f"{line}: this looks like the Python version; the source 'binary' needs {layout.archive}"
    return f"{line}; give the complete folder {layout.folder} or {layout.archive}"


def _class_names(layout: Layout, where: str, files: dict[str, Content]) -> tuple[str, ...]:
    """Returns the class names, from the names file where there is one."""
    if layout.names_file not in files:
        if layout.names:
            return layout.names
        raise UserError(f"data.path: {where}{layout.names_file} is missing; it names the classes")
    lines = files[layout.names_file].decode("utf-8", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    classes = layout.label_classes[-1]
    if len(names) != classes:
        raise UserError(
            f"data.path: {where}{layout.names_file} names {len(names)} classes, not {classes}; "
            f"get {layout.archive} again"
        )
    return names


def _decode(
    layout: Layout, records: dict[str, int], where: str, files: dict[str, Content], verify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 32, 32, 3) and labels (N,) of these files; takes their bytes out of `files`."""
    for file, official_records in records.items():
        _check_file(layout, file, official_records, f"{where}{file}", files[file], verify)
    total = sum(len(files[file]) for file in records) // layout.record_bytes
    images = np.empty((total, 32 * 32, 3), np.uint8)
    labels = np.empty(total, np.int32)
    start = 0
    for file in records:
        # Popped, so that the peak is one copy of the data and one file, not two copies.
        table = np.frombuffer(files.pop(file), np.uint8).reshape(-1, layout.record_bytes)
        stop = start + len(table)
        first_pixel = len(layout.label_classes)
        labels[start:stop] = table[:, first_pixel - 1]
        # Plane by plane reads whole rows of memory: three times faster than one 4-D transpose.
        for channel in range(3):
            plane = first_pixel + channel * 1024
            images[start:stop, :, channel] = table[:, plane : plane + 1024]
        start = stop
    return images.reshape(total, 32, 32, 3), labels


def _check_file(layout: Layout, file: str, official_records: int, what: str, content: Content, verify: bool) -> None:
    """Raises `UserError` unless `content` is whole records with labels in range and, verified, official."""
    again = f"get {layout.archive} again"
    altered = "for altered data set data.verify=False"
    count, rest = divmod(len(content), layout.record_bytes)
    if rest or not count:
        raise UserError(
            f"data.path: {what} has {len(content):,} bytes, not a whole number of "
            f"{layout.record_bytes:,}-byte records: truncated or not {layout.title}; {again}"
        )
    if verify and count != official_records:
        raise UserError(
            f"data.path: {what} has {count:,} records, not the official {official_records:,}; {again}, {altered}"
        )
    if verify and file in layout.md5:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != layout.md5[file]:
            raise UserError(
                f"data.path: {what} has md5 {found}, not {layout.md5[file]}: damaged or altered; {again}, {altered}"
            )
    table = np.frombuffer(content, np.uint8).reshape(-1, layout.record_bytes)
    for byte, classes in enumerate(layout.label_classes):
        highest = int(table[:, byte].max())
        if highest >= classes:
            record = int(table[:, byte].argmax())
            raise UserError(
                f"data.path: {what} has label {highest} in record {record}, outside 0..{classes - 1}: "
                f"damaged or not {layout.title}; {again}"
            )
