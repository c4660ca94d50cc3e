"""The source `parquet`: images and labels in Parquet files, the layout of the Hugging Face hub.

A folder holds train-*.parquet and test-*.parquet (validation-*.parquet where there is no test), at any depth.  A column
of images is a struct whose field `bytes` is an encoded PNG or JPEG; a column of labels holds integers.  The rows of
CIFAR-10 make the official binary files, whose md5 is compared.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from normres.data.dataset import Dataset, check_labels
from normres.data.official import ALTERED, LAYOUTS
from normres.data.places import find, one_line, readable
from normres.data.releases import CLASSES, default_names
from normres.data.resize import decode
from normres.errors import UserError

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
    place = find(path, WANTED)
    if place.is_file():
        raise UserError(f"data.path: {place} is a single file; give the folder that it is in")
    arrays: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    with readable(place):
        for split, words in SPLITS.items():
            files = _files(place, words)
            images, labels, own = zip(*(_read(file, image_size) for file in files), strict=True)
            names = names or own[0]
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.concatenate(images), np.concatenate(labels)
            if not len(arrays[f"{split}_labels"]):
                raise UserError(f"data.path: {files[0]} has no rows")
    names = names or default_names(name, arrays["train_labels"])
    for split in SPLITS:
        check_labels(arrays[f"{split}_labels"], len(names), f"data.path: {place}: {split}")
    dataset = Dataset(name=name, source="parquet", class_names=names, **arrays)
    return _official(dataset, place) if verify and name in CLASSES else dataset


def _files(place: Path, words: tuple[str, ...]) -> list[Path]:
    """Returns the files of a split, in order: of one folder, the first that has any."""
    for word in words:
        if files := sorted(place.rglob(f"{word}*.parquet")):
            return [file for file in files if file.parent == files[0].parent]
    raise UserError(f"data.path: {place} has no {words[0]}-*.parquet; {WANTED}")


def _read(file: Path, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns a file's images, labels int32, and names of classes, () if it has none."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError:
        raise UserError("data.source='parquet' needs pyarrow: pip install 'normres[parquet]'") from None
    try:
        with parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            image, label = _columns(file, schema)
            images = np.empty((opened.metadata.num_rows, size, size, 3), np.uint8)
            labels = np.empty(len(images), np.int32)
            for number, (content, value) in enumerate(_rows(opened, image, label)):
                what = f"data.path: {file}: row {number}"
                if content is None or value is None or value < 0:
                    raise UserError(f"{what} lacks its image or its label")
                images[number], labels[number] = decode(content, size, what), value
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"data.path: {file} is no Parquet file, or damaged ({one_line(error)})") from error
    return images, labels, _names(schema, label)


def _columns(file: Path, schema: Any) -> tuple[str, str]:
    """Returns the names of the columns of images and labels."""
    types = {field.name: str(field.type) for field in schema}
    images = [name for name, kind in types.items() if kind.startswith("struct<") and "bytes: binary" in kind]
    labels = [name for name in LABELS if types.get(name, "").startswith(("int", "uint"))]
    for columns, what in (
        (images, "images (a struct with `bytes`)"),
        (labels, f"integer labels ({', '.join(LABELS)})"),
    ):
        if not columns:
            raise UserError(f"data.path: {file} has no column of {what}; it has {', '.join(types)}")
    return images[0], labels[0]


def _rows(opened: Any, image: str, label: str) -> Iterator[tuple[bytes | None, int | None]]:
    for batch in opened.iter_batches(batch_size=ROWS, columns=[image, label]):
        structs, labels = batch.column(batch.schema.get_field_index(image)), batch.column(label)
        yield from zip(structs.field("bytes").to_pylist(), labels.to_pylist(), strict=True)


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Returns the names of the classes, where the file's metadata has them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _official(dataset: Dataset, place: Path) -> Dataset:
    """Returns the examples in the official order: the hub has CIFAR-10's files one after the other in another one.

    Raises:
      UserError: these are not the official images, or single examples have changed places.
    """
    layout = LAYOUTS["binary", dataset.name]
    arrays: dict[str, Any] = {}
    for split, records in (("train", layout.train_records), ("test", layout.test_records)):
        images, labels = (np.asarray(array) for array in dataset.split(split))
        counts = np.bincount(labels, minlength=layout.label_classes[-1])
        if len(labels) != sum(records.values()) or counts.min() != counts.max():
            raise UserError(
                f"data.path: {place} has {len(labels):,} {split} images, {counts.min():,} to {counts.max():,} of each "
                f"class, not {layout.title}'s {sum(records.values()):,}; {ALTERED}"
            )
        known = [layout.md5[file] for file in records]
        if all(known):
            blocks: dict[str, np.ndarray] = {}
            for block in np.split(np.arange(len(labels)), len(records)):
                planes = images[block].transpose(0, 3, 1, 2).reshape(len(block), -1)
                binary = np.concatenate([labels[block, None].astype(np.uint8), planes], axis=1).tobytes()
                md5 = hashlib.md5(binary, usedforsecurity=False).hexdigest()
                if md5 not in known or md5 in blocks:
                    raise UserError(
                        f"data.path: {place}: {split} rows from {block[0]:,} on make no official file (md5 {md5}): "
                        f"altered, or in an order of their own; {ALTERED}"
                    )
                blocks[md5] = block
            order = np.concatenate([blocks[md5] for md5 in known])
            images, labels = images[order], labels[order]
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return replace(dataset, **arrays)
