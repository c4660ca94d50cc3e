"""The source `tfds`: a prepared tensorflow_datasets directory, written and read without TensorFlow.

`DIR/cifar10/3.0.2` holds ArrayRecord (what this writes) or TFRecord shards (what `tfds.load` leaves); other people's
code reads what this writes with `tfds.data_source("cifar10", data_dir=DIR, download=False)`.  Any prepared data set of
images and labels can be read by its name.
"""

import hashlib
import io
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data import lazy, records
from normres.data.dataset import Dataset
from normres.data.places import library, one_line
from normres.errors import UserError

VERSION = "3.0.2"  # of cifar10 and cifar100 in the tensorflow_datasets catalogue
MANIFEST = "sha256.json"  # file name -> sha256, written last; other readers ignore it
TEST_SPLITS = ("test", "validation")  # of which one is read as the test set, the first that is there

Shards = dict[Path, int]  # of a split, in order: how many records dataset_info.json says each has


def tfds() -> Any:
    """Returns the library tensorflow_datasets, which then shows its progress on a terminal only."""
    tensorflow_datasets = library("tensorflow_datasets", "tfds")
    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.ERROR)
    return tensorflow_datasets


def version_directory(name: str, path: str) -> Path:
    """Returns the directory of the newest version of data set `name` at `path`, or `path` if it is one itself."""
    root = Path(path).expanduser()
    if (root / "dataset_info.json").is_file():
        return root
    versions = [file.parent for file in (root / name).glob("*/dataset_info.json")]
    if not versions:
        raise UserError(
            f"data.path={path}: no prepared data set there (looked for {name}/VERSION/dataset_info.json); "
            f"`normres data prepare {name} --from FILE --to DIR` makes one"
        )
    # As numbers: 10.0.0 is newer than 9.0.0.
    return max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version.name)])


def load_tfds(name: str, path: str, verify: bool = True, image_size: int = 32, stream: str = "never") -> Dataset:
    """Reads a prepared directory: images scaled to `image_size` (resize.square), uint8, with the channels it declares.

    The test set is the split "test" or, where there is none or it has no labels, "validation"; `splits` says if so.
    `verify` compares the files with the manifest, if there is one.  `stream` is config.data.stream: streamed images
    stay on disk (lazy.LazyImages), all others are decoded once.
    Raises `UserError`, one line that names the directory or the file.
    """
    directory = version_directory(name, path)
    if verify:
        check_manifest(directory)
    try:
        info = tfds().builder_from_directory(directory).info
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{directory / 'dataset_info.json'}: not readable: {one_line(error)}") from None
    decoder = records.Decoder(info.features, image_size, directory)
    _, train = _split(info, directory, decoder, ("train",))
    test_split, test = _split(info, directory, decoder, TEST_SPLITS)
    why = _why_streamed(directory, stream, decoder.image_shape, train | test)
    splits = {} if test_split == "test" else {"test_set": {"split": test_split}}
    arrays = (*_read_split(train, decoder, why), *_read_split(test, decoder, why))
    return Dataset(name, "tfds", *arrays, decoder.class_names, splits=splits)


def _split(info: Any, directory: Path, decoder: records.Decoder, names: tuple[str, ...]) -> tuple[str, Shards]:
    """Returns the first split of `names` that is there and has labels, with all its shards."""
    why = ""
    for name in names:
        if name not in info.splits:
            continue
        split = info.splits[name]
        shards = dict(zip(map(Path, map(os.fspath, split.filepaths)), split.shard_lengths, strict=True))
        for path in shards:
            if not path.is_file():
                raise UserError(f"{path}: this shard is missing")
        first = next((path for path, length in shards.items() if length), None)
        if first is None:
            raise UserError(f"{directory}: the split {name!r} is empty")
        # The first record tells: a split without labels (imagenet2012's test) has -1 throughout.
        if next(_records(first, shards[first], decoder.label_and_id))[0] >= 0:
            return name, shards
        why = why or f" with labels (those of {name!r} are -1)"
    wanted = " or ".join(map(repr, names))
    raise UserError(f"{directory}: has no split {wanted}{why}, only {', '.join(info.splits)}")


def _why_streamed(directory: Path, stream: str, image_shape: tuple[int, ...], shards: Shards) -> str:
    """Returns why the images are streamed, or "" if they are not."""
    if not all(map(records.is_array_record, shards)):
        if stream == "always":
            raise UserError(
                f"data.stream='always': {directory} holds TFRecord shards; only ArrayRecord can be streamed"
            )
        return ""
    if stream == "auto":
        return lazy.too_large(sum(shards.values()) * math.prod(image_shape))
    return "data.stream=always" if stream == "always" else ""


def _read_split(shards: Shards, decoder: records.Decoder, why: str) -> tuple[lazy.Images, np.ndarray]:
    """Returns images and labels of one split; reads it once, shard by shard, and checks each shard's record count."""
    size = sum(shards.values())
    images = np.empty((0 if why else size, *decoder.image_shape), np.uint8)
    labels = np.empty(size, np.int32)
    keys: list[bytes] = []
    for path, length in shards.items():
        for label, key, *image in _records(path, length, decoder.label_and_id if why else decoder.example):
            labels[len(keys)] = label
            if image:
                images[len(keys)] = image[0]
            keys.append(key)
    # Writers shuffle; the ids restore the official order, and with it equal checksums from every source.
    order = np.argsort(np.array(keys), kind="stable")
    if why:
        return lazy.LazyImages([*shards], order, decoder.image, decoder.image_shape, why), labels[order]
    return images[order], labels[order]


def _records(path: Path, expected: int, decode: Callable[[bytes], tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yields decode(record) of a shard's records; raises UserError if it is damaged or has not `expected` of them."""
    count = 0
    try:
        for record in records.read(path):
            if count < expected:
                yield decode(record)
            count += 1
    except Exception as error:
        raise UserError(f"{path}: damaged after {count} of {expected} records: {one_line(error)}") from None
    if count != expected:
        raise UserError(f"{path}: has {count} records, dataset_info.json says {expected}")


def write_tfds(dataset: Dataset, to: Path) -> Path:
    """Writes `to`/NAME/VERSION as ArrayRecord, then a manifest of checksums; returns that directory.

    Raises `UserError` if the directory is there already.
    """
    check_free(dataset.name, to)
    about = {
        "description": f"{dataset.name}, from the official files (Krizhevsky 2009).",
        "homepage": "https://www.cs.toronto.edu/~kriz/cifar.html",
        "supervised_keys": ("image", "label"),
    }
    features = tfds().features
    columns = {
        "id": features.Text(),
        "image": features.Image(shape=dataset.train_images.shape[1:], encoding_format="png"),
        "label": features.ClassLabel(names=list(dataset.class_names)),
    }

    def examples(split: str) -> Iterator[dict[str, Any]]:
        images, labels = dataset.split(split)
        for index, label in enumerate(labels.tolist()):
            yield {"id": f"{split}_{index:05d}", "image": Image.fromarray(images[index]), "label": label}

    splits = {split: examples(split) for split in ("train", "test")}
    written = build(to, dataset.name, VERSION, columns, splits, about)
    manifest = {file.name: _sha256(file) for file in sorted(written.iterdir()) if file.is_file()}
    (written / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return written


def build(
    to: Path,
    name: str,
    version: str,
    columns: dict[str, Any],
    splits: dict[str, Iterator[dict[str, Any]]],
    about: dict[str, Any],
    shards: int | None = None,
) -> Path:
    """Writes examples as ArrayRecord into `to` as tensorflow_datasets does, atomically; returns the directory.

    `columns` has the library's features by name, `about` more arguments of its DatasetInfo.
    """
    core, features = tfds().core, tfds().features.FeaturesDict(columns)
    members = {
        "VERSION": core.Version(version),
        "name": name,
        "_info": lambda self: core.DatasetInfo(builder=self, features=features, **about),
        "_split_generators": lambda self, dl_manager: {split: enumerate(splits[split]) for split in splits},
        "_generate_examples": lambda self: iter(()),
        "__module__": __name__,
    }
    base = core.GeneratorBasedBuilder
    # The library prints what it does, and would begin a line of ours.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        builder_class = type(base)("Prepared", (base,), members, skip_registration=True)
        builder = builder_class(data_dir=os.fspath(to), file_format="array_record")
        builder.download_and_prepare(download_config=tfds().download.DownloadConfig(num_shards=shards))
    return Path(os.fspath(builder.data_dir))


def check_free(name: str, to: Path) -> None:
    """Raises UserError if a data set is there already where it would be written."""
    target = to / name / VERSION
    if target.exists():
        raise UserError(f"{target} is there already; `normres data verify {to}` checks it, another --to makes another")


def check_manifest(directory: Path) -> None:
    """Raises UserError if there is a manifest and a file that it names is missing or altered."""
    file = directory / MANIFEST
    if not file.is_file():
        return
    try:
        manifest = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON: {one_line(error)}") from None
    for name, expected in manifest.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: missing")
        if _sha256(path) != expected:
            raise UserError(f"{path}: damaged: its sha256 is not the one in {MANIFEST}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
