"""Where the images come from: a table of sources, all of them returning the same `Dataset`.  A source is one row."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from normres.data import official
from normres.data.binary import load_binary
from normres.data.dataset import Dataset
from normres.data.folder import load_folder
from normres.data.mosaics import load_embedded
from normres.data.npz import load_npz
from normres.data.parquet import load_parquet
from normres.data.prepared import load_tfds
from normres.data.python import load_python
from normres.data.synthetic import load_synthetic
from normres.errors import UserError, nearest

__all__ = ["NAMES", "SOURCES", "Dataset", "check", "load"]

NAMES = ("cifar10", "cifar100")
CIFAR_SIZE = 32  # pixels


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the config fields `name`, `path`, `verify`, `image_size` and `stream` of `data`."""

    name: str
    path: str
    verify: bool
    image_size: int
    stream: str


@dataclass(frozen=True)
class Source:
    """One row of `SOURCES`."""

    load: Callable[[Wanted], Dataset]
    path: str = ""  # what data.path has to be; empty if the source can do without one
    own_names: bool = False  # whether data.name may be any name, because the data may be any
    resizes: bool = False  # whether it reads data.image_size
    streams: bool = False  # whether it reads data.stream
    # Whether this source's data lie at a place where these files are; asked by `auto`, in the order of the rows.
    lies_at: Callable[[Path, set[str]], bool] = lambda place, files: False


def _official(source: str) -> Callable[[Path, set[str]], bool]:
    """Returns the `lies_at` of an official release: whether a data file of it is among the files."""
    known = {file for layout in official.LAYOUTS.values() if layout.source == source for file in layout.data_files}
    return lambda place, files: bool(files & known)


def _load_auto(wanted: Wanted) -> Dataset:
    """Returns what lies at the path, read by the first source that knows it; without a path, the embedded images."""
    if not wanted.path:
        check(wanted.name, "embedded", "", wanted.image_size, wanted.stream)
        return SOURCES["embedded"].load(wanted)
    choices = "; ".join(f"{name}: {row.path}" for name, row in SOURCES.items() if row.path)
    place = official.find(wanted.path, "leave it empty for the embedded images")
    with official.readable(place):
        files = _files_at(place)
        source = next((name for name, row in SOURCES.items() if row.lies_at(place, files)), None)
    if source is None:
        raise UserError(f"data.path: {place} holds nothing that a source knows; {choices}")
    check(wanted.name, source, wanted.path, wanted.image_size, wanted.stream)
    return SOURCES[source].load(wanted)


def _files_at(place: Path) -> set[str]:
    """Returns the names of the files at a place; of an archive, of its members up to the first that is known."""
    known = {file for layout in official.LAYOUTS.values() for file in layout.data_files}
    if place.is_dir():
        return official.files_at(place)
    files = {place.name}
    if place.suffix != ".npz" and place.name not in known:
        with official.damage(f"data.path: {place}", "get it again, or set data.source"):
            for _, member in official.members(place):
                files.add(PurePosixPath(member.name).name)
                if files & known:
                    break
    return files


SOURCES: dict[str, Source] = {
    "embedded": Source(lambda wanted: load_embedded(wanted.name, wanted.path)),
    "binary": Source(
        lambda wanted: load_binary(wanted.name, wanted.path, wanted.verify),
        path="the official cifar-10-binary.tar.gz (or cifar-100-binary.tar.gz) or the folder in it",
        lies_at=_official("binary"),
    ),
    "python": Source(
        lambda wanted: load_python(wanted.name, wanted.path, wanted.verify),
        path="the official cifar-10-python.tar.gz (or cifar-100-python.tar.gz) or the folder in it",
        lies_at=_official("python"),
    ),
    "parquet": Source(
        lambda wanted: load_parquet(wanted.name, wanted.path, wanted.verify, wanted.image_size),
        path="a folder of train-*.parquet and test-*.parquet, as the Hugging Face hub has them",
        own_names=True,
        resizes=True,
        lies_at=lambda place, files: place.is_dir() and any(place.rglob("train*.parquet")),
    ),
    "npz": Source(
        lambda wanted: load_npz(wanted.name, wanted.path),
        path="a .npz file of images and labels",
        own_names=True,
        lies_at=lambda place, files: place.suffix == ".npz",
    ),
    "tfds": Source(
        lambda wanted: load_tfds(wanted.name, wanted.path, wanted.verify, wanted.image_size, wanted.stream),
        path="a prepared tensorflow_datasets directory, or the data_dir that holds it",
        own_names=True,
        resizes=True,
        streams=True,
        lies_at=lambda place, files: any(place.glob("dataset_info.json")) or any(place.glob("*/*/dataset_info.json")),
    ),
    "folder": Source(
        lambda wanted: load_folder(wanted.name, wanted.path, wanted.image_size),
        path="a folder of train/CLASS/*.png and test/CLASS/*.png",
        own_names=True,
        resizes=True,
        lies_at=lambda place, files: (place / "train").is_dir() and (place / "test").is_dir(),
    ),
    "synthetic": Source(lambda wanted: load_synthetic(wanted.name, wanted.image_size), resizes=True),
    "auto": Source(_load_auto, own_names=True, resizes=True, streams=True),
}


def check(name: str, source: str, path: str = "", image_size: int = CIFAR_SIZE, stream: str = "never") -> None:
    """Raises `UserError`, one line that names the field, if no data can be had by these fields; reads no file."""
    if source not in SOURCES:
        raise UserError(f"data.source: unknown source {source!r}; {nearest(source, SOURCES)}")
    row = SOURCES[source]
    if name not in NAMES and not row.own_names:
        raise UserError(f"data.name: unknown data set {name!r}; {nearest(name, NAMES)}")
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"data.name: {name!r} must consist of letters, digits, '_', '-' and '.'")
    if row.path and not path:
        raise UserError(f"data.path is empty; data.source={source!r} needs {row.path}")
    if image_size < 1:
        raise UserError(f"data.image_size={image_size} must be at least 1")
    if image_size != CIFAR_SIZE and not row.resizes:
        resizing = ", ".join(other for other in SOURCES if SOURCES[other].resizes)
        raise UserError(
            f"data.image_size={image_size}: the source {source!r} does not resize; leave it at {CIFAR_SIZE}, or "
            f"choose a data.source of {resizing}"
        )
    if stream == "always" and not row.streams:
        streaming = ", ".join(other for other in SOURCES if SOURCES[other].streams)
        raise UserError(f"data.stream='always': the source {source!r} does not stream; data.source={streaming} can")


def load(
    name: str,
    source: str,
    path: str = "",
    verify: bool = True,
    image_size: int = CIFAR_SIZE,
    stream: str = "never",
) -> Dataset:
    """Returns the data set `name`, read from `source`; nothing is ever downloaded or written.

    The arguments are the config fields `name`, `source`, `path`, `verify`, `image_size` and `stream` of `data`.
    `verify=False` is for altered or shortened files: it skips the comparison with the published checksums
    and record counts, never the checks that the files have the right structure.
    `image_size` (pixels, height and width) is read by the sources that resize, `stream` (auto, always, never: whether
    the images stay on disk, see lazy.py) by those that stream; see `SOURCES`.
    The source "auto" takes what lies at the path; the data set's `source` is the one it took.
    Raises `UserError`, one line that names the field or the file, for anything the user has to mend.
    """
    check(name, source, path, image_size, stream)
    return SOURCES[source].load(Wanted(name, path, verify, image_size, stream))
