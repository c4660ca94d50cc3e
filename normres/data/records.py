"""The records of a prepared directory: reading them from ArrayRecord or TFRecord shards, and decoding one.

Pillow decodes the images, also where OpenCV is installed, which tensorflow_datasets would prefer: of a JPEG file the
two make different pixels, and a run's data must not depend on what else is installed.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.data.resize import square
from normres.errors import UserError

# Channels that a feature declares -> Pillow's mode; a set that leaves them open is read as colour.
MODES = {1: "L", 3: "RGB", 4: "RGBA", None: "RGB", 0: "RGB"}
AT_ONCE = 1024  # records that are read together, to bound the memory


def is_array_record(path: Path) -> bool:
    """Returns whether a shard is ArrayRecord, which can be read in any order."""
    return "array_record" in path.name


class Decoder:
    """Makes label, id and image of a serialized example.

    `image_shape` is (size, size, C), with the C of 1, 3 or 4 channels that the data set declares.
    """

    def __init__(self, features: Any, image_size: int, place: Path):
        """Takes tensorflow_datasets' features, the side in pixels and, for messages, the directory."""
        import tensorflow_datasets  # which the caller of builder_from_directory has imported already

        if not {"image", "label"} <= set(features):
            raise UserError(f"{place}: has the features {', '.join(features)}; image and label are needed")
        if not hasattr(features["label"], "num_classes"):
            raise UserError(f"{place}: its label is {features['label']!r}, not one class of several")
        declared = features["image"].shape
        channels = declared[-1] if len(declared) == 3 else -1
        if np.dtype(features["image"].np_dtype) != np.uint8 or channels not in MODES:
            raise UserError(f"{place}: its image is {features['image']!r}, not uint8 of 1, 3 or 4 channels")
        self.image_shape = (image_size, image_size, channels or 3)
        self.class_names = tuple(features["label"].names or map(str, range(features["label"].num_classes)))
        self._features, self._mode = features, MODES[channels]
        self._undecoded = {"image": tensorflow_datasets.decode.SkipDecoding()}

    def _parts(self, record: bytes) -> tuple[int, bytes, bytes]:
        parts = self._features.deserialize_example_np(record, decoders=self._undecoded)
        return int(parts["label"]), bytes(parts.get("id", b"")), parts["image"]

    def label_and_id(self, record: bytes) -> tuple[int, bytes]:
        """Returns the label and the id, b"" where examples have none; decodes no pixel."""
        return self._parts(record)[:2]

    def image(self, record: bytes) -> np.ndarray:
        """Returns the image, uint8 of `image_shape`."""
        return self.example(record)[2]

    def example(self, record: bytes) -> tuple[int, bytes, np.ndarray]:
        """Returns label, id and image."""
        label, key, file = self._parts(record)
        with Image.open(io.BytesIO(file)) as picture:
            return label, key, square(picture.convert(self._mode), self.image_shape[0])


def read(path: Path) -> Iterator[bytes]:
    """Yields the serialized examples of an ArrayRecord or TFRecord file, in their order."""
    if is_array_record(path):
        from array_record.python import array_record_module  # type: ignore[attr-defined]

        reader = array_record_module.ArrayRecordReader(os.fspath(path))
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
