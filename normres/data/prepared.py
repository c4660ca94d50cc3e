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
from normres.data.dataset import CLASSES, Dataset
from normres.data.files import decode, must_fit, one_line
from normres.errors import UserError, library

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
    # NAME/VERSION or, of a set with several configs, NAME/CONFIG/VERSION.
    versions = [file.parent for below in ("", "*/") for file in (root / name).glob(f"{below}[0-9]*/dataset_info.json")]
    if len(configs := sorted({str(version.parent.relative_to(root)) for version in versions})) > 1:
        raise UserError(f"data.name={name}: {path} has {', '.join(configs)}; set data.name to one of them")
    if not versions:
        maker = f"`normres data prepare {name} --from FILE --to DIR`" if name in CLASSES else "tensorflow_datasets"
        raise UserError(
            f"data.path={path}: no prepared data set there (looked for {name}/VERSION/dataset_info.json); "
            f"{maker} makes one"
        )
    # As numbers: 10.0.0 is newer than 9.0.0.
    return max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version.name)])


def load_tfds(name: str, path: str, image_size: int = 32, stream: str = "never") -> Dataset:
    """Reads a prepared directory: images scaled to `image_size` (files.decode), uint8, with the channels it declares.

    The test set is the split "test" or, where there is none or it has no labels, "validation"; `splits` says if so.
    `stream` is config.data.stream: streamed images stay on disk (lazy.LazyImages), all others are decoded once.  Of an
    ArrayRecord file, reading compares the checksums.
    Raises `UserError`, one line that names the directory or the file.
    """
    directory = version_directory(name, path)
    tensorflow_datasets = tfds()
    try:
        info = tensorflow_datasets.builder_from_directory(directory).info
    except Exception as error:
        raise UserError(f"{directory / 'dataset_info.json'}: not readable: {one_line(error)}") from None
    decoder = Decoder(info.features, image_size, directory)
    if (classes := len(decoder.class_names)) != CLASSES.get(name, classes):
        raise UserError(f"data.name={name}, but {directory} has {classes} classes; give it its own name")
    _, train = _split(info, directory, decoder, "train")
    test_split, test = _split(info, directory, decoder, "test", "validation")
    why = _why_streamed(directory, stream, decoder.image_shape, train | test)
    splits = {} if test_split == "test" else {"test_set": {"split": test_split}}
    arrays = (*_read_split(train, decoder, why), *_read_split(test, decoder, why))
    return Dataset(name, "tfds", *arrays, decoder.class_names, splits=splits)


class Decoder:
    """Takes serialized examples apart; images become `image_shape`, (size, size, C), with the C that is declared."""

    def __init__(self, features: Any, image_size: int, place: Path):
        """Takes tensorflow_datasets' features, the side in pixels and, for messages, the directory."""
        columns: Any = dict(features.items())
        image, label = columns.get("image"), columns.get("label")
        declared: tuple[Any, ...] = getattr(image, "shape", ())
        channels = (declared[-1] or 3) if len(declared) == 3 else 0  # a set that leaves them open is read as colour
        if channels not in MODES or np.dtype(image.np_dtype) != np.uint8 or not hasattr(label, "num_classes"):
            raise UserError(
                f"{place}: has the features {' '.join(str(features).split())}; needed are `image`, uint8 of 1, 3 or 4 "
                "channels, and `label`, one class of several"
            )
        self.image_shape = (image_size, image_size, channels)
        self.class_names = tuple(label.names or map(str, range(label.num_classes)))
        self._features, self._undecoded = features, {"image": tfds().decode.SkipDecoding()}

    def example(self, record: bytes, decoded: bool = True) -> tuple[int, bytes, Any]:
        """Returns the label, the id, b"" where examples have none, and, `decoded`, the image, uint8 of `image_shape`.

        Pillow decodes it, also where OpenCV is installed, which tensorflow_datasets would prefer: of a JPEG file the
        two make different pixels, and a run's data must not depend on what else is installed.
        """
        parts = self._features.deserialize_example_np(record, decoders=self._undecoded)
        image = decode(parts["image"], self.image_shape[0], MODES[self.image_shape[2]], formats=()) if decoded else None
        key = parts.get("id", b"")  # bytes, or a number
        return int(parts["label"]), key if isinstance(key, bytes) else b"%020d" % int(key), image


def _split(info: Any, directory: Path, decoder: Decoder, *names: str) -> tuple[str, Shards]:
    """Returns the first split of `names` that is there and has labels, with all its shards."""
    why = ""
    for name in filter(info.splits.__contains__, names):
        shards = dict(zip(map(Path, info.splits[name].filepaths), info.splits[name].shard_lengths, strict=True))
        # The first record tells: a split without labels (imagenet2012's test) has -1 throughout.
        filled = [path for path, length in shards.items() if length]
        if filled and next(_examples(filled[0], shards[filled[0]], decoder, images=False))[0] >= 0:
            return name, shards
        why = f" with labels ({name!r} has none)"
    raise UserError(f"{directory}: has no split {' or '.join(map(repr, names))}{why}, only {', '.join(info.splits)}")


def _why_streamed(directory: Path, stream: str, image_shape: tuple[int, ...], shards: Shards) -> str:
    """Returns why the images are streamed, or "" if they are not; raises UserError if they do not fit the memory."""
    random_access, count = all(map(is_array_record, shards)), sum(shards.values())
    if stream == "always" and not random_access:
        raise UserError(f"data.stream='always': {directory} has TFRecord shards; only ArrayRecord ones can be streamed")
    if stream == "always":
        return "data.stream=always"
    why = lazy.too_large(count * math.prod(image_shape)) if stream == "auto" and random_access else ""
    if not why:
        hint = " (data.stream=always needs less)" if random_access else ""
        must_fit(count, image_shape, f"data.path: {directory}{hint}")
    return why


def _read_split(shards: Shards, decoder: Decoder, why: str) -> tuple[lazy.Images, np.ndarray]:
    """Returns images, streamed if there is a reason why, and labels of one split; reads it once, shard by shard."""
    images = np.empty((0 if why else sum(shards.values()), *decoder.image_shape), np.uint8)
    labels: list[int] = []
    keys: list[bytes] = []
    for path, length in shards.items():
        for label, key, image in _examples(path, length, decoder, images=not why):
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
    place = next(iter(shards)).parent
    streamed = lazy.LazyImages(
        source, order, lambda record: decoder.example(record)[2], decoder.image_shape, why, place
    )
    return streamed, sorted_labels


def _examples(path: Path, expected: int, decoder: Decoder, images: bool) -> Iterator[tuple[int, bytes, Any]]:
    """Yields the examples of a shard; raises `UserError` if it is damaged or does not have `expected` of them."""
    count = 0
    try:
        for record in read(path):
            if count < expected:
                yield decoder.example(record, images)
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


def write_tfds(dataset: Dataset, directory: Path) -> None:
    """Writes `directory`, DATA_DIR/NAME/VERSION, which must not be there, as ArrayRecord."""
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

    build(directory, columns, {split: examples(split) for split in ("train", "test")})


def build(
    directory: Path, columns: dict[str, Any], splits: dict[str, Iterator[dict[str, Any]]], shards: int | None = None
) -> None:
    """Writes examples as ArrayRecord into `directory`, DATA_DIR/NAME/VERSION, as tensorflow_datasets does, atomically.

    `columns` has the library's features by name.
    """
    core, features = tfds().core, tfds().features.FeaturesDict(columns)
    info = {"features": features, "supervised_keys": ("image", "label")}
    members = {
        "VERSION": core.Version(directory.name),
        "name": directory.parent.name,
        "_info": lambda self: core.DatasetInfo(builder=self, **info),
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
