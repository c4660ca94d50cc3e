"""The source `parquet`: images and labels in Parquet files, the layout of the Hugging Face hub.

A folder holds train-*.parquet and test-*.parquet (validation-*.parquet where there is no test), at any depth.  A column
of images is a struct whose field `bytes` is an encoded PNG or JPEG; a column of labels holds integers.  The rows of
CIFAR-10 make the official binary files, whose md5 is compared.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from normres.data.dataset import CIFAR_SIZE, CLASSES, Dataset, of_ones_own
from normres.data.files import decoded, find, one_line
from normres.data.official import ALTERED, LAYOUTS, check_counts
from normres.errors import UserError, library

WANTED = "the source 'parquet' needs a folder with train-*.parquet and test-*.parquet"
SPLITS = {"train": ("train",), "test": ("test", "validation")}  # the files of each, the first that are there
LABELS = ("label", "fine_label", "labels")
ROWS = 1_000  # read at once


def load_parquet(name: str, path: str, verify: bool = True, image_size: int = 32) -> Dataset:
    """Returns the images under `path` as uint8 (N, image_size, image_size, 3), RGB.

    They are in the order of the files, but verified CIFAR-10 is in the official order.  `verify` compares CIFAR-10's
    records with the md5 of the official files, and of CIFAR-100 the number of each class.
    Raises `UserError`, one line that names the folder, the file or the column.
    """
    if verify and name == "cifar10" and image_size != CIFAR_SIZE:
        wanted = f"the checksums are of {CIFAR_SIZE}x{CIFAR_SIZE} pixels; data.verify=False reads scaled images"
        raise UserError(f"data.image_size={image_size}: {wanted}")
    place = find(path, WANTED)
    examples = {}
    names: tuple[str, ...] = ()
    for split, words in SPLITS.items():
        files = _files(place, words)
        rows, names_of = zip(*map(_about, files), strict=True)
        names = names or names_of[0]
        encoded = chain.from_iterable(map(_examples, files))
        examples[split] = decoded(sum(rows), encoded, image_size, f"data.path: {place}: {split}")
    dataset = of_ones_own(name, "parquet", place, examples, names)
    if files[0].name.startswith("validation"):
        dataset = replace(dataset, splits={"test_set": {"split": "validation"}})
    return _official(dataset, place) if verify and name in CLASSES else dataset


def _files(place: Path, words: tuple[str, ...]) -> list[Path]:
    """Returns the files of a split, in order: of one folder, the first that has any."""
    for word in words:
        if files := sorted(place.rglob(f"{word}*.parquet")):
            return [file for file in files if file.parent == files[0].parent]
    raise UserError(f"data.path: {place} has no {words[0]}-*.parquet; {WANTED}")


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, str, str]]:
    """Opens a file; yields it and the names of its columns of images and labels."""
    arrow, parquet = library("pyarrow", "parquet"), library("pyarrow.parquet", "parquet")
    try:
        with parquet.ParquetFile(file) as opened:
            types = {field.name: str(field.type) for field in opened.schema_arrow}
            images = [name for name, kind in types.items() if kind.startswith("struct<") and "bytes: binary" in kind]
            labels = [name for name in LABELS if types.get(name, "").startswith(("int", "uint"))]
            if not images or not labels:
                wanted = f"images (a struct with `bytes`) and one of integer labels ({', '.join(LABELS)})"
                raise UserError(f"data.path: {file} needs a column of {wanted}; it has {', '.join(types)}")
            yield opened, images[0], labels[0]
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"data.path: {file} is no Parquet file, or damaged ({one_line(error)})") from error


def _about(file: Path) -> tuple[int, tuple[str, ...]]:
    """Returns the number of a file's rows, and the names of its classes, () if it has none."""
    with _opened(file) as (opened, _, label):
        rows, metadata = opened.metadata.num_rows, opened.schema_arrow.metadata or {}
    if not rows:
        raise UserError(f"data.path: {file} has no rows")
    try:
        return rows, tuple(map(str, json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError):
        return rows, ()


def _examples(file: Path) -> Iterator[tuple[str, bytes, int]]:
    """Yields what `decoded` takes: where an example is, its encoded image, its label."""
    with _opened(file) as (opened, image, label):
        batches = opened.iter_batches(batch_size=ROWS, columns=[image, label])
        for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            where, content = f"data.path: {file}: row {number}", (row[image] or {}).get("bytes")
            if content is None or row[label] is None or row[label] < 0:
                raise UserError(f"{where} lacks its image or its label")
            yield where, content, row[label]


def _official(dataset: Dataset, place: Path) -> Dataset:
    """Returns the examples in the official order: the hub has CIFAR-10's files one after the other in another one.

    Raises `UserError` if these are not the official images, or if single examples have changed places.
    """
    *train, test = LAYOUTS["binary", dataset.name].md5.values()
    arrays: dict[str, Any] = {}
    for split, known in (("train", train), ("test", [test])):
        images, labels = (np.asarray(array) for array in dataset.split(split))
        check_counts(dataset.name, split, labels[:, None], f"data.path: {place}: {split}")
        if not all(known):
            continue
        blocks = np.split(np.arange(len(labels)), len(known))
        md5s = [_md5_of_binary(images[block], labels[block]) for block in blocks]
        if sorted(md5s) != sorted(known):
            raise UserError(
                f"data.path: {place}: the {split} rows make no official files: altered, or in an order of their own; "
                f"{ALTERED}"
            )
        rows = np.concatenate([blocks[md5s.index(md5)] for md5 in known])
        arrays |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
    return replace(dataset, **arrays)


def _md5_of_binary(images: np.ndarray, labels: np.ndarray) -> str:
    """Returns the md5 of the file of the binary version that holds these examples."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
    return hashlib.md5(records.tobytes(), usedforsecurity=False).hexdigest()
