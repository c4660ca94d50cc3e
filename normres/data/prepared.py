"""The source `tfds`: a prepared tensorflow_datasets directory, written and read without TensorFlow.

`DIR/cifar10/3.0.2` holds ArrayRecord (what this writes) or TFRecord shards (what `tfds.load` leaves); other people's
code reads what this writes with `tfds.data_source("cifar10", data_dir=DIR, download=False)`.  Any prepared data set of
images and labels can be read by its name.
"""

import io
import logging
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data import lazy
from normres.data.dataset import Dataset
from normres.data.files import library, must_fit, one_line, regular, square
from normres.errors import UserError

VERSION = "3.0.2"  # of cifar10 and cifar100 in the tensorflow_datasets catalogue
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
AT_ONCE = 1024  # records that are read together, to bound the memory

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
    versions = [file.parent for file in (root / name).glob("[0-9]*/dataset_info.json")]
    if not versions:
        raise UserError(
            f"data.path={path}: no prepared data set there (looked for {name}/VERSION/dataset_info.json); "
            f"`normres data prepare {name} --from FILE --to DIR` makes one"
        )
    # As numbers: 10.0.0 is newer than 9.0.0.
    return max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version.name)])


def load_tfds(name: str, path: str, image_size: int = 32, stream: str = "never") -> Dataset:
    """Reads a prepared directory: images scaled to `image_size` (files.square), uint8, with the channels it declares.

    The test set is the split "test" or, where there is none or it has no labels, "validation"; `splits` says if so.
    `stream` is config.data.stream: streamed images stay on disk (lazy.LazyImages), all others are decoded once.  Of an
    ArrayRecord file, reading compares the checksums.
    Raises `UserError`, one line that names the directory or the file.
    """
    directory = version_directory(name, path)
    for file in directory.iterdir():
        if file.exists() and not file.is_dir():
            regular(file)
    tensorflow_datasets = tfds()
    try:
        info = tensorflow_datasets.builder_from_directory(directory).info
    except Exception as error:
        raise UserError(f"{directory / 'dataset_info.json'}: not readable: {one_line(error)}") from None
    decoder = Decoder(info.features, image_size, directory)
    _, train = _split(info, directory, decoder, ("train",))
    test_split, test = _split(info, directory, decoder, ("test", "validation"))
    why = _why_streamed(directory, stream, decoder.image_shape, train | test)
    if not why:
        count = sum((train | test).values())
        must_fit(count, decoder.image_shape, f"data.path: {directory} (data.stream=always needs less)")
    splits = {} if test_split == "test" else {"test_set": {"split": test_split}}
    arrays = (*_read_split(train, decoder, why), *_read_split(test, decoder, why))
    return Dataset(name, "tfds", *arrays, decoder.class_names, splits=splits)


class Decoder:
    """Takes serialized examples apart; images become `image_shape`, (size, size, C), with the C that is declared."""

    def __init__(self, features: Any, image_size: int, place: Path):
        """Takes tensorflow_datasets' features, the side in pixels and, for messages, the directory."""
        if not {"image", "label"} <= set(features):
            raise UserError(f"{place}: has the features {', '.join(features)}; image and label are needed")
        if not hasattr(features["label"], "num_classes"):
            raise UserError(f"{place}: its label is {features['label']!r}, not one class of several")
        declared = features["image"].shape
        channels = (declared[-1] or 3) if len(declared) == 3 else -1  # a set that leaves them open is read as colour
        if np.dtype(features["image"].np_dtype) != np.uint8 or channels not in MODES:
            raise UserError(f"{place}: its image is {features['image']!r}, not uint8 of 1, 3 or 4 channels")
        self.image_shape = (image_size, image_size, channels)
        self.class_names = tuple(features["label"].names or map(str, range(features["label"].num_classes)))
        self._features, self._mode = features, MODES[channels]
        self._undecoded = {"image": tfds().decode.SkipDecoding()}

    def parts(self, record: bytes) -> tuple[int, bytes, bytes]:
        """Returns the label, the id, b"" where examples have none, and the encoded image."""
        parts = self._features.deserialize_example_np(record, decoders=self._undecoded)
        return int(parts["label"]), bytes(parts.get("id", b"")), parts["image"]

    def image(self, file: bytes) -> np.ndarray:
        """Returns an encoded image as uint8 of `image_shape`.

        Pillow decodes it, also where OpenCV is installed, which tensorflow_datasets would prefer: of a JPEG file the
        two make different pixels, and a run's data must not depend on what else is installed.
        """
        with Image.open(io.BytesIO(file)) as picture:
            return square(picture.convert(self._mode), self.image_shape[0])


def _split(info: Any, directory: Path, decoder: Decoder, names: tuple[str, ...]) -> tuple[str, Shards]:
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
        if next(_records(first, shards[first], decoder, images=False))[0] >= 0:
            return name, shards
        why = why or f" with labels (those of {name!r} are -1)"
    wanted = " or ".join(map(repr, names))
    raise UserError(f"{directory}: has no split {wanted}{why}, only {', '.join(info.splits)}")


def _why_streamed(directory: Path, stream: str, image_shape: tuple[int, ...], shards: Shards) -> str:
    """Returns why the images are streamed, or "" if they are not."""
    random_access = all(map(is_array_record, shards))
    if stream == "always" and not random_access:
        raise UserError(f"data.stream='always': {directory} has TFRecord shards; only ArrayRecord ones can be streamed")
    if stream == "auto" and random_access:
        return lazy.too_large(sum(shards.values()) * math.prod(image_shape))
    return "data.stream=always" if stream == "always" else ""


def _read_split(shards: Shards, decoder: Decoder, why: str) -> tuple[lazy.Images, np.ndarray]:
    """Returns images, streamed if there is a reason why, and labels of one split; reads it once, shard by shard."""
    images = np.empty((0 if why else sum(shards.values()), *decoder.image_shape), np.uint8)
    labels: list[int] = []
    keys: list[bytes] = []
    for path, length in shards.items():
        for label, key, image in _records(path, length, decoder, images=not why):
            if not why:
                images[len(keys)] = image
            labels.append(label)
            keys.append(key)
    # Writers shuffle; the ids restore the official order, and with it equal checksums from every source.
    order = np.argsort(np.array(keys), kind="stable")
    sorted_labels = np.array(labels, np.int32)[order]
    if not why:
        return images[order], sorted_labels
    source = library("grain", "tfds").sources.ArrayRecordDataSource([*map(os.fspath, shards)])
    decode = lambda record: decoder.image(decoder.parts(record)[2])  # noqa: E731
    return lazy.LazyImages(source, order, decode, decoder.image_shape, why, next(iter(shards)).parent), sorted_labels


def _records(path: Path, expected: int, decoder: Decoder, images: bool) -> Iterator[tuple[int, bytes, Any]]:
    """Yields the label, the id and, decoded with `images`, the image of each record of a shard.

    Raises `UserError` if the shard is damaged or does not have `expected` records.
    """
    count = 0
    try:
        for record in read(path):
            if count < expected:
                label, key, file = decoder.parts(record)
                yield label, key, decoder.image(file) if images else file
            count += 1
    except Exception as error:
        raise UserError(f"{path}: damaged after {count} of {expected} records: {one_line(error)}") from None
    if count != expected:
        raise UserError(f"{path}: has {count} records, dataset_info.json says {expected}")


def is_array_record(path: Path) -> bool:
    """Returns whether a shard is ArrayRecord, which can be read in any order."""
    return "array_record" in path.name


def read(path: Path) -> Iterator[bytes]:
    """Yields the serialized examples of an ArrayRecord or TFRecord file, in their order."""
    if is_array_record(path):
        reader = library("array_record.python.array_record_module", "tfds").ArrayRecordReader(os.fspath(path))
        try:
            count = reader.num_records()
            for start in range(0, count, AT_ONCE):
                yield from reader.read(start, min(start + AT_ONCE, count))
        finally:
            reader.close()
        return
    with path.open("rb") as file:
        # A record: length (8 bytes), its checksum (4), the bytes, their checksum (4).
        while header := file.read(12):
            length = int.from_bytes(header[:8], "little")
            body = file.read(length + 4)
            if len(header) + len(body) != length + 16:
                raise EOFError("it ends within a record")
            yield body[:-4]


def write_tfds(dataset: Dataset, to: Path) -> Path:
    """Writes `to`/NAME/VERSION, which must not be there, as ArrayRecord; returns that directory."""
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

    return build(
        to / dataset.name / VERSION,
        columns,
        {split: examples(split) for split in ("train", "test")},
        description=f"{dataset.name}, from the official files (Krizhevsky 2009).",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        supervised_keys=("image", "label"),
    )


def build(
    directory: Path,
    columns: dict[str, Any],
    splits: dict[str, Iterator[dict[str, Any]]],
    shards: int | None = None,
    **about: Any,
) -> Path:
    """Writes examples as ArrayRecord into `directory`, DATA_DIR/NAME/VERSION, as tensorflow_datasets does, atomically.

    `columns` has the library's features by name, `about` more arguments of its DatasetInfo.
    """
    core, features = tfds().core, tfds().features.FeaturesDict(columns)
    members = {
        "VERSION": core.Version(directory.name),
        "name": directory.parent.name,
        "_info": lambda self: core.DatasetInfo(builder=self, features=features, **about),
        "_split_generators": lambda self, dl_manager: {split: enumerate(splits[split]) for split in splits},
        "_generate_examples": lambda self: iter(()),
        "__module__": __name__,
    }
    base = core.GeneratorBasedBuilder
    # The library prints what it does, and would begin a line of ours; it makes a folder of downloads, here empty.
    with tempfile.TemporaryDirectory() as empty, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        builder_class = type(base)("Prepared", (base,), members, skip_registration=True)
        builder = builder_class(data_dir=os.fspath(directory.parents[1]), file_format="array_record")
        config = tfds().download.DownloadConfig(num_shards=shards)
        builder.download_and_prepare(download_dir=empty, download_config=config)
    return directory
