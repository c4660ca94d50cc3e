"""How the bytes of a release (a row of `LAYOUTS`) come into memory, and whether they are the official ones.

A release lies in a folder or in a tar archive; both are read whole and nothing is unpacked onto the disk.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from normres.data.releases import LAYOUTS, Layout
from normres.errors import UserError

__all__ = ["ALTERED", "LAYOUTS", "Content", "Layout", "check_md5", "check_names", "find", "read"]

type Content = bytes | bytearray  # of one file

# An official file has at most 156 MB; the limit keeps a forged archive from filling the memory.
MAX_FILE_BYTES = 2**30
GZIP = b"\x1f\x8b"  # how a .gz begins
ALTERED = "for altered data set data.verify=False"


def find(path: str, wanted: str) -> Path:
    """Returns where `path` lies, `~` expanded; `wanted` says what it should hold."""
    if not path:
        raise UserError(f"data.path is empty; {wanted}")
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path: {path} names no home directory: {one_line(error)}") from error
    with readable(place):
        if not place.exists():
            raise UserError(f"data.path: {place} does not exist; {wanted}")
        if not (place.is_dir() or place.is_file()):
            raise UserError(f"data.path: {place} is neither a folder nor an archive")
    return place


@contextmanager
def readable(place: Path) -> Iterator[None]:
    """Turns a refusal of the operating system into a line that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"data.path: {error.filename or place} cannot be read: {reason}") from error


@contextmanager
def damage(where: str, again: str) -> Iterator[None]:
    """Turns what a damaged archive raises into one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(
            f"{where} is damaged, incomplete or no .tar.gz or .tar archive ({one_line(error)}); {again}"
        ) from error


def one_line(error: Exception) -> str:
    """Returns an error's text on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read(layout: Layout, path: str, verify: bool = True) -> tuple[str, dict[str, Content]]:
    """Returns how to begin a file's name in an error, and the bytes of each file, the names file if it is there.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it.
    `verify` compares the md5 of a .tar.gz with the official one, where its files' own are not known.
    Raises `UserError`, one line, naming the file and what to do about it.
    """
    place = find(path, f"the source {layout.source!r} needs the folder {layout.folder} or {layout.archive}")
    with readable(place):
        if place.is_dir():
            return _read_folder(layout, place)
        contents = _read_archive(layout, place)
        if verify and layout.archive_md5:
            _check_archive(layout, place)
        return contents


def check_md5(layout: Layout, file: str, what: str, content: Content) -> None:
    """Raises `UserError` if the file's official md5 is known and `content` has another one."""
    if file in layout.md5:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 != layout.md5[file]:
            raise UserError(
                f"data.path: {what} has md5 {md5}, not {layout.md5[file]}: damaged or altered; "
                f"{layout.again}, {ALTERED}"
            )


def _check_archive(layout: Layout, place: Path) -> None:
    """Raises `UserError` if a .tar.gz is not the official one, byte by byte; of a .tar no md5 is known."""
    with place.open("rb") as file:
        if file.read(2) != GZIP:
            return
        file.seek(0)
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != layout.archive_md5:
        raise UserError(
            f"data.path: {place} has md5 {md5}, not {layout.archive_md5}: damaged, altered or packed anew; "
            f"{layout.again}, unpack what was packed anew, {ALTERED}"
        )


def check_names(layout: Layout, what: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the class names if there is one for every class."""
    classes = layout.label_classes[-1]
    if len(names) != classes:
        raise UserError(f"data.path: {what} names {len(names)} classes, not {classes}; {layout.again}")
    return names


def files_at(place: Path) -> set[str]:
    """Returns the names of the files in a folder and in the official folders below it."""
    folders = [place, *(place / layout.folder for layout in LAYOUTS.values())]
    return {file.name for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()}


def _read_folder(layout: Layout, place: Path) -> tuple[str, dict[str, Content]]:
    # The folder itself first: its parent may hold several data sets.
    folders = [place, place / layout.folder]
    folder = next((f for f in folders if any((f / file).is_file() for file in layout.data_files)), None)
    if folder is None:
        raise UserError(_explain_missing(layout, str(place), files_at(place), set(layout.data_files)))
    present = {file.name for file in folder.iterdir() if file.is_file()}
    missing = layout.data_files.keys() - present
    if missing:
        raise UserError(_explain_missing(layout, str(folder), present, missing))
    wanted = [file for file in (*sorted(layout.data_files), layout.names_file) if file in present]
    for file in wanted:
        _check_size(f"{folder / file}", (folder / file).stat().st_size)
    return f"{folder}/", {file: (folder / file).read_bytes() for file in wanted}


def _read_archive(layout: Layout, place: Path) -> tuple[str, dict[str, Content]]:
    """Returns the same as `_read_folder` from a .tar or .tar.gz file, without writing to the disk."""
    if place.name in layout.data_files or place.suffix == ".bin":
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    files: dict[str, Content] = {}
    present: set[str] = set()
    wanted = {*layout.data_files, layout.names_file}
    with damage(f"data.path: {place}", layout.again):
        for archive, member in members(place):
            file = PurePosixPath(member.name).name
            present.add(file)
            # Links, devices and the like are as good as missing; no member's path is ever used.
            if file not in wanted or not member.isreg():
                continue
            if file in files:
                raise UserError(f"data.path: {place} holds {file} twice; use the official archive")
            _check_size(f"{place}: {file}", member.size)
            files[file] = _read_member(archive, member)
    missing = layout.data_files.keys() - files.keys()
    if missing:
        raise UserError(_explain_missing(layout, str(place), present, missing))
    return f"{place}: ", files


def members(place: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields the members of a .tar or .tar.gz archive, then reads it to its very end, which checks the checksum."""
    with place.open("rb") as plain:
        compressed = plain.read(2) == GZIP
        plain.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain
        # "r|": strictly forward, so a forged header cannot make it jump; large blocks for speed.
        with tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as archive:
            for member in archive:
                yield archive, member
        # tarfile stops at its end mark; only the very end of the stream has gzip's checksum compared.
        while stream.read(2**20):
            pass


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


def _explain_missing(layout: Layout, place: str, present: set[str], missing: set[str]) -> str:
    """Returns the error line for files that are not there, with the most likely mistake named."""
    first = sorted(missing)[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    line = f"data.path: {place} has no {first}{more}"
    for other in LAYOUTS.values():
        if other is not layout and present & other.data_files.keys():
            same = other.source == layout.source
            what = f"{other.title}, not {layout.title}" if same else f"the {other.source} version of {other.title}"
            settings = (f"data.source={other.source}", f"data.name={other.name}")
            known = (f"data.source={layout.source}", f"data.name={layout.name}")
            mend = " and ".join(setting for setting in settings if setting not in known)
            return f"{line}: it holds {what}; set {mend} or another path"
    if layout.archive in present:
        return f"{line}, but it holds {layout.archive}: give the path of that file"
    return f"{line}; give the complete folder {layout.folder} or {layout.archive}"
