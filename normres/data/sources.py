"""Where the images come from: a table of sources, all of them returning the same `Dataset`.  A source is one row."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from normres.data import official
from normres.data.builtin import load_embedded, load_synthetic
from normres.data.dataset import CIFAR_SIZE, CLASSES, Dataset
from normres.data.files import find, one_line
from normres.data.own import load_folder, load_npz
from normres.data.parquet import load_parquet
from normres.data.photographs import load_photographs
from normres.data.prepared import load_tfds
from normres.errors import UserError, nearest

__all__ = ["SOURCES", "Dataset", "check", "load"]


class Source(NamedTuple):
    """One row of `SOURCES`."""

    load: Callable[..., Dataset]  # of data.name, data.path and, by their names, the fields in `reads`
    path: str = ""  # what data.path has to be; empty if the source can do without one
    reads: tuple[str, ...] = ()  # of verify, image_size, stream, styles
    own_names: bool = False  # whether data.name may be any name, because the data may be any
    # Whether this source's data lie at a place; asked by `auto`, in the order of the rows.
    lies_at: Callable[[Path], bool] = lambda place: False


def _official(source: str) -> Source:
    """Returns the row of an official release, which lies where a data file of it is."""
    known = {file for (row, _), layout in official.LAYOUTS.items() if row == source for file in layout.md5}
    return Source(
        partial(official.load_official, source),
        path=f"the official cifar-10-{source}.tar.gz (or cifar-100-{source}.tar.gz) or the folder in it",
        reads=("verify",),
        lies_at=lambda place: place.suffix != ".npz" and any(name in known for name, *_ in official.entries(place)),
    )


def _load_auto(name: str, path: str, **fields: Any) -> Dataset:
    """Returns what lies at the path, read by the first source that knows it; without a path, the embedded images."""
    if not path:
        return load(name, "embedded", **fields)
    place = find(path, "without files there is data.source=embedded")
    for source, row in SOURCES.items():
        if row.lies_at(place):
            return load(name, source, path, **fields)
    choices = "; ".join(f"{source}: {row.path}" for source, row in SOURCES.items() if row.path)
    raise UserError(f"data.path: {place} holds nothing that a source knows; {choices}")


SOURCES: dict[str, Source] = {
    "embedded": Source(load_embedded),
    "binary": _official("binary"),
    "python": _official("python"),
    "parquet": Source(
        load_parquet,
        path="a folder of train-*.parquet and test-*.parquet, as the Hugging Face hub has them",
        reads=("verify", "image_size"),
        own_names=True,
        # Not a directory of prepared sets, in which downloaded files may lie beside.
        lies_at=lambda place: (
            place.is_dir() and not any(place.glob("*/*/dataset_info.json")) and any(place.rglob("train*.parquet"))
        ),
    ),
    "npz": Source(
        load_npz,
        path="a .npz file of images and labels",
        own_names=True,
        lies_at=lambda place: place.suffix == ".npz" and place.is_file(),
    ),
    "tfds": Source(
        load_tfds,
        path="a prepared tensorflow_datasets directory, or the data_dir that holds it",
        reads=("image_size", "stream"),
        own_names=True,
        lies_at=lambda place: any(any(place.glob(f"{below}dataset_info.json")) for below in ("", "*/*/", "*/*/*/")),
    ),
    "folder": Source(
        load_folder,
        path="a folder of train/CLASS/*.png and test/CLASS/*.png",
        reads=("image_size",),
        own_names=True,
        lies_at=lambda place: (place / "train").is_dir() and (place / "test").is_dir(),
    ),
    "synthetic": Source(load_synthetic, reads=("image_size",)),
    "photographs": Source(load_photographs, reads=("image_size", "styles"), own_names=True),
    "auto": Source(_load_auto, reads=("verify", "image_size", "stream"), own_names=True),
}


def check(name: str, source: str, path: str = "", image_size: int = CIFAR_SIZE, stream: str = "never") -> None:
    """Raises `UserError`, one line that names the field, if no data can be had by these fields; reads no file."""
    if source not in SOURCES:
        raise UserError(f"data.source: unknown source {source!r}; {nearest(source, SOURCES)}")
    row = SOURCES[source]
    if name not in CLASSES and not row.own_names:
        raise UserError(f"data.name: unknown data set {name!r}; {nearest(name, CLASSES)}")
    if row.path and not path:
        raise UserError(f"data.path is empty; data.source={source!r} needs {row.path}")
    asked: dict[str, Any] = {"image_size": image_size} if image_size != CIFAR_SIZE else {}
    asked |= {"stream": stream} if stream == "always" else {}
    for field, value in asked.items():
        if field not in row.reads:
            readers = ", ".join(other for other in SOURCES if field in SOURCES[other].reads)
            raise UserError(f"data.{field}={value!r}: the source {source!r} cannot do this; data.source={readers} can")


def load(
    name: str,
    source: str,
    path: str = "",
    verify: bool = True,
    image_size: int = CIFAR_SIZE,
    stream: str = "never",
    styles: Sequence[str] = (),
) -> Dataset:
    """Returns the data set `name`, read from `source`; nothing is ever downloaded or written.

    The arguments are config fields of `data`.  `verify=False` is for altered or shortened files: it skips the
    comparison with published checksums and record counts.  `image_size` is in pixels; `stream` (auto, always, never)
    says whether the images stay on disk, see lazy.py; `styles` are rows of photographs.STYLES.  The source "auto" takes
    what lies at the path.
    Raises `UserError`, one line that names the field or the file.
    """
    check(name, source, path, image_size, stream)
    row = SOURCES[source]
    fields = {"verify": verify, "image_size": image_size, "stream": stream, "styles": styles}
    try:
        return row.load(name, path, **{field: fields[field] for field in row.reads})
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"data.path: {error.filename or path} cannot be read: {reason}") from error
