"""The source `tfds`: a prepared tensorflow_datasets directory, written and read without TensorFlow.

`DIR/cifar10/3.0.2` holds ArrayRecord (what this writes) or TFRecord shards (what `tfds.load` leaves); other people's
code reads what this writes with `tfds.data_source("cifar10", data_dir=DIR, download=False)`.  Any prepared data set of
images and labels can be read by its name.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data.dataset import Dataset
from normres.errors import UserError

VERSION = "3.0.2"  # of cifar10 and cifar100 in the tensorflow_datasets catalogue
MANIFEST = "sha256.json"  # file name -> sha256, written last; other readers ignore it
SPLITS = ("train", "test")


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_datasets
        tensorflow_datasets.disable_progress_bar()
        logging.getLogger("absl").setLevel(logging.ERROR)
    except ImportError as error:
        raise UserError(f"data.source='tfds' needs the extra 'tfds' (make setup EXTRA=tfds): {error}") from None
    return tensorflow_datasets


def version_directory(name: str, path: str) -> Path:
    """Returns the directory of the newest version of data set `name` at `path`, or `path` if it is one itself.

    Raises:
      UserError: there is none; nothing is downloaded.
    """
    root = Path(path).expanduser()
    if (root / "dataset_info.json").is_file():
        return root
    found = sorted((root / name).glob("*/dataset_info.json"), key=lambda file: _numbers(file.parent.name))
    if not found:
        raise UserError(
            f"data.path={path}: no prepared data set there (looked for {name}/VERSION/dataset_info.json); "
            f"`normres data prepare {name} --from FILE --to DIR` makes one"
        )
    return found[-1].parent


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in version.split("."))


def load_tfds(name: str, path: str, verify: bool = True) -> Dataset:
    """Reads a prepared directory into memory; images must have one size, and the splits be train and test.

    Raises:
      UserError: no such directory, a missing or truncated shard, a wrong count, or a damaged file where there is a
        manifest (and `verify`).
    """
    directory = version_directory(name, path)
    if verify:
        check_manifest(directory)
    library = _library()
    try:
        builder = library.builder_from_directory(directory)
    except Exception as error:
        raise UserError(f"{directory / 'dataset_info.json'}: not readable: {str(error).splitlines()[0]}") from None
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(f"{directory}: has the features {', '.join(features)}; image and label are needed")
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in SPLITS:
        if split not in builder.info.splits:
            raise UserError(f"{directory}: has no split {split!r}, only {', '.join(builder.info.splits)}")
        arrays[split] = _read_split(builder, builder.info.splits[split], directory)
    names = tuple(features["label"].names or map(str, range(features["label"].num_classes)))
    return Dataset(name, "tfds", *arrays["train"], *arrays["test"], names)


def _read_split(builder: Any, split: Any, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one split once, shard by shard, and checks each shard's number of records."""
    images, labels, keys = [], [], []
    for file, expected in zip(split.filepaths, split.shard_lengths, strict=True):
        path = Path(os.fspath(file))
        if not path.is_file():
            raise UserError(f"{path}: this shard is missing")
        count = 0
        try:
            for record in _records(path):
                example = builder.info.features.deserialize_example_np(record)
                images.append(np.asarray(example["image"], np.uint8))
                labels.append(int(example["label"]))
                keys.append(bytes(example.get("id", b"")))
                count += 1
        except UserError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path}: damaged after {count} of {expected} records: {reason}") from None
        if count != expected:
            raise UserError(f"{path}: has {count} records, dataset_info.json says {expected}")
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise UserError(
            f"{directory}: the images have {len(sizes)} sizes; data.source='folder' scales a folder of files"
        )
    # Writers shuffle; the ids restore the official order, and with it equal checksums from every source.
    order = np.argsort(np.array(keys), kind="stable")
    return np.stack(images)[order], np.array(labels, np.int32)[order]


def _records(path: Path) -> Iterator[bytes]:
    """Yields the serialized examples of an ArrayRecord or TFRecord file."""
    if "array_record" in path.name:
        from array_record.python import array_record_module  # type: ignore[attr-defined]

        reader = array_record_module.ArrayRecordReader(os.fspath(path))
        try:
            yield from reader.read_all()
        finally:
            reader.close()
        return
    with path.open("rb") as file:
        # A record: length (8 bytes), its checksum (4), the bytes, their checksum (4).
        while header := file.read(12):
            if len(header) < 12:
                raise UserError(f"{path}: ends within a record")
            (length,) = struct.unpack("<Q", header[:8])
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise UserError(f"{path}: ends within a record")
            yield body[:-4]


def write_tfds(dataset: Dataset, to: Path, progress: Callable[[Iterable[int], int], Iterable[int]]) -> Path:
    """Writes `to`/NAME/VERSION as ArrayRecord, atomically, with a manifest of checksums; returns that directory.

    `progress(indices, total)` wraps the iteration over the examples of a split.

    Raises:
      UserError: the directory is there already.
    """
    library = _library()
    target = check_free(dataset.name, to)
    made = to / f".{dataset.name}.incomplete"
    shutil.rmtree(made, ignore_errors=True)
    arrays = {
        "train": (dataset.train_images, dataset.train_labels),
        "test": (dataset.test_images, dataset.test_labels),
    }

    def info(self: Any) -> Any:
        features = {
            "id": library.features.Text(),
            "image": library.features.Image(shape=dataset.train_images.shape[1:], encoding_format="png"),
            "label": library.features.ClassLabel(names=list(dataset.class_names)),
        }
        return library.core.DatasetInfo(
            builder=self,
            description=f"{dataset.name}, from the official files (Krizhevsky 2009).",
            features=library.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def generate(self: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        images, labels = arrays[split]
        for index in progress(range(len(labels)), len(labels)):
            key = f"{split}_{index:05d}"
            yield key, {"id": key, "image": Image.fromarray(images[index]), "label": int(labels[index])}

    members = {
        "VERSION": library.core.Version(VERSION),
        "name": dataset.name,
        "_info": info,
        "_split_generators": lambda self, dl_manager: {split: generate(self, split) for split in SPLITS},
        "_generate_examples": lambda self: iter(()),
        "__module__": __name__,
    }
    base = library.core.GeneratorBasedBuilder
    # The library prints its own progress, and would begin a line of ours.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        builder_class = type(base)("Prepared", (base,), members, skip_registration=True)
        builder = builder_class(data_dir=os.fspath(made), file_format="array_record")
        builder.download_and_prepare()
    written = Path(os.fspath(builder.data_dir))
    manifest = {file.name: _sha256(file) for file in sorted(written.iterdir()) if file.is_file()}
    (written / MANIFEST).write_text(json.dumps(manifest, indent=1))
    target.parent.mkdir(parents=True, exist_ok=True)
    written.replace(target)
    shutil.rmtree(made, ignore_errors=True)
    return target


def check_free(name: str, to: Path) -> Path:
    """Returns where a data set would be written.

    Raises:
      UserError: it is there already.
    """
    target = to / name / VERSION
    if target.exists():
        raise UserError(f"{target} is there already; `normres data verify {to}` checks it, another --to makes another")
    return target


def check_manifest(directory: Path) -> bool:
    """Compares every file with the manifest; returns whether there is one.

    Raises:
      UserError: a file that is missing or altered; the message names it.
    """
    file = directory / MANIFEST
    if not file.is_file():
        return False
    try:
        manifest = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not readable as JSON: {error}") from None
    for name, expected in manifest.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: missing")
        if _sha256(path) != expected:
            raise UserError(f"{path}: damaged: its sha256 is not the one in {MANIFEST}")
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
