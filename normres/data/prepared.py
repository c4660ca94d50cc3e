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
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data import lazy, records
from normres.data.dataset import Dataset
from normres.data.places import one_line
from normres.errors import UserError

VERSION = "3.0.2"  # of cifar10 and cifar100 in the tensorflow_datasets catalogue
MANIFEST = "sha256.json"  # file name -> sha256, written last; other readers ignore it
TEST_SPLITS = ("test", "validation")  # of which one is read as the test set, the first that is there


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
    """Returns the directory of the newest version of data set `name` at `path`, or `path` if it is one itself."""
    root = Path(path).expanduser()
    if (root / "dataset_info.json").is_file():
        return root

    def numbers(version: Path) -> list[int]:
        return [int(part) if part.isdigit() else -1 for part in version.name.split(".")]

    versions = [file.parent for file in (root / name).glob("*/dataset_info.json")]
    if not versions:
        raise UserError(
            f"data.path={path}: no prepared data set there (looked for {name}/VERSION/dataset_info.json); "
            f"`normres data prepare {name} --from FILE --to DIR` makes one"
        )
    return max(versions, key=numbers)


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
    library = _library()
    try:
        builder = library.builder_from_directory(directory)
    except Exception as error:
        raise UserError(f"{directory / 'dataset_info.json'}: not readable: {one_line(error)}") from None
    decoder = records.Decoder(builder.info.features, image_size, directory)
    train, test = (_split(builder, directory, decoder, names) for names in (("train",), TEST_SPLITS))
    why = _why_streamed(directory, stream, decoder, (train, test))
    arrays = (*_read_split(train, decoder, why), *_read_split(test, decoder, why))
    splits = {} if test.name == "test" else {"test_set": {"split": test.name}}
    return Dataset(name, "tfds", *arrays, decoder.class_names, splits=splits)


@dataclass(frozen=True)
class _Split:
    """A split's name and its shards in order, each with how many records dataset_info.json says it has."""

    name: str
    shards: dict[Path, int]

    @property
    def size(self) -> int:
        return sum(self.shards.values())


def _split(builder: Any, directory: Path, decoder: records.Decoder, names: tuple[str, ...]) -> _Split:
    """Returns the first split of `names` that is there and has labels, with all its shards."""
    why = ""
    for name in names:
        if name not in builder.info.splits:
            continue
        info = builder.info.splits[name]
        split = _Split(name, dict(zip(map(Path, map(os.fspath, info.filepaths)), info.shard_lengths, strict=True)))
        for path in split.shards:
            if not path.is_file():
                raise UserError(f"{path}: this shard is missing")
        if not split.size:
            raise UserError(f"{directory}: the split {name!r} is empty")
        # The first record tells: a split without labels (imagenet2012's test) has -1 throughout.
        path = next(path for path, length in split.shards.items() if length)
        label, _ = next(_records(path, split.shards[path], decoder.label_and_id))
        if label >= 0:
            return split
        why = why or f" with labels (those of {name!r} are -1)"
    wanted = " or ".join(map(repr, names))
    raise UserError(f"{directory}: has no split {wanted}{why}, only {', '.join(builder.info.splits)}")


def _why_streamed(directory: Path, stream: str, decoder: records.Decoder, splits: tuple[_Split, ...]) -> str:
    """Returns why the images are streamed, or "" if they are not."""
    random_access = all(records.is_array_record(shard) for split in splits for shard in split.shards)
    if stream == "always":
        if not random_access:
            raise UserError(
                f"data.stream='always': {directory} holds TFRecord shards; only ArrayRecord ones can be streamed"
            )
        return "data.stream=always"
    if stream == "never" or not random_access:
        return ""
    return lazy.too_large(sum(split.size for split in splits) * math.prod(decoder.image_shape))


def _read_split(split: _Split, decoder: records.Decoder, why: str) -> tuple[lazy.Images, np.ndarray]:
    """Returns images and labels of one split; reads it once, shard by shard, and checks each shard's record count."""
    images = np.empty((0 if why else split.size, *decoder.image_shape), np.uint8)
    labels = np.empty(split.size, np.int32)
    keys: list[bytes] = []
    decode = decoder.label_and_id if why else decoder.example
    for path, length in split.shards.items():
        for label, key, *image in _records(path, length, decode):
            labels[len(keys)] = label
            if image:
                images[len(keys)] = image[0]
            keys.append(key)
    # Writers shuffle; the ids restore the official order, and with it equal checksums from every source.
    order = np.argsort(np.array(keys), kind="stable")
    if why:
        return lazy.LazyImages([*split.shards], order, decoder.image, decoder.image_shape, why), labels[order]
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


def write_tfds(dataset: Dataset, to: Path, progress: Callable[[Iterable[int], int], Iterable[int]]) -> Path:
    """Writes `to`/NAME/VERSION as ArrayRecord, atomically, with a manifest of checksums; returns that directory.

    `progress(indices, total)` wraps the iteration over the examples of a split.
    Raises `UserError` if the directory is there already.
    """
    target = check_free(dataset.name, to)
    incomplete = to / f".{dataset.name}.incomplete"
    shutil.rmtree(incomplete, ignore_errors=True)
    features = _library().features
    about = {
        "description": f"{dataset.name}, from the official files (Krizhevsky 2009).",
        "homepage": "https://www.cs.toronto.edu/~kriz/cifar.html",
        "supervised_keys": ("image", "label"),
    }
    columns = {
        "id": features.Text(),
        "image": features.Image(shape=dataset.train_images.shape[1:], encoding_format="png"),
        "label": features.ClassLabel(names=list(dataset.class_names)),
    }

    def examples(split: str) -> Iterator[dict[str, Any]]:
        images, labels = dataset.split(split)
        for index in progress(range(len(labels)), len(labels)):
            picture = Image.fromarray(images[index])
            yield {"id": f"{split}_{index:05d}", "image": picture, "label": int(labels[index])}

    splits = {split: examples(split) for split in ("train", "test")}
    written = build(incomplete, dataset.name, VERSION, columns, splits, about)
    manifest = {file.name: _sha256(file) for file in sorted(written.iterdir()) if file.is_file()}
    (written / MANIFEST).write_text(json.dumps(manifest, indent=1))
    target.parent.mkdir(parents=True, exist_ok=True)
    written.replace(target)
    shutil.rmtree(incomplete, ignore_errors=True)
    return target


def build(
    to: Path,
    name: str,
    version: str,
    columns: dict[str, Any],
    splits: dict[str, Iterator[dict[str, Any]]],
    about: dict[str, Any],
    shards: int | None = None,
) -> Path:
    """Writes examples as ArrayRecord into `to` as tensorflow_datasets does; returns the directory of the version.

    `columns` has the library's features by name, `about` more arguments of its DatasetInfo.
    """
    library = _library()
    features = library.features.FeaturesDict(columns)
    members = {
        "VERSION": library.core.Version(version),
        "name": name,
        "_info": lambda self: library.core.DatasetInfo(builder=self, features=features, **about),
        "_split_generators": lambda self, dl_manager: {split: enumerate(splits[split]) for split in splits},
        "_generate_examples": lambda self: iter(()),
        "__module__": __name__,
    }
    base = library.core.GeneratorBasedBuilder
    # The library prints its own progress, and would begin a line of ours.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        builder_class = type(base)("Prepared", (base,), members, skip_registration=True)
        builder = builder_class(data_dir=os.fspath(to), file_format="array_record")
        builder.download_and_prepare(download_config=library.download.DownloadConfig(num_shards=shards))
    return Path(os.fspath(builder.data_dir))


def check_free(name: str, to: Path) -> Path:
    """Returns where a data set would be written; raises UserError if it is there already."""
    target = to / name / VERSION
    if target.exists():
        raise UserError(f"{target} is there already; `normres data verify {to}` checks it, another --to makes another")
    return target


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
