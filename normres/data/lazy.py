"""Images that stay in their ArrayRecord shards and are decoded when they are asked for, read ahead by Grain.

They have the indices of images in memory, so a streamed run computes the same bit for bit.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from normres.data.files import one_line, physical_memory
from normres.errors import UserError, library

SHARE = 0.25  # of a device's memory that images may take; the rest is for activations and copies
AT_ONCE = 256  # images of a chunk
THREADS = min(16, os.cpu_count() or 1)  # that decode


def device_memory() -> int:
    """Returns the bytes of the smallest of this process's devices; CPU devices share the physical memory."""
    import jax

    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return int(min(limit or physical_memory() // len(devices) for limit in limits))


def too_large(image_bytes: int) -> str:
    """Returns why images of so many bytes are streamed where `data.stream` is auto, or "" if they fit.

    Every device holds the whole data set, so what counts is the memory of the smallest one.
    """
    memory = device_memory()
    if image_bytes <= SHARE * memory:
        return ""
    return f"the images take {image_bytes / 1e9:,.1f} GB, more than {SHARE:.0%} of a device's {memory / 1e9:,.1f} GB"


# eq=False: comparing arrays field by field is ambiguous.
@dataclass(eq=False)
class LazyImages:
    """Images (N, H, W, C), uint8, of which none is in memory: `images[indices]` decodes them, `take` does not."""

    source: Any  # of records, by their numbers: Grain's ArrayRecordDataSource
    records: np.ndarray  # the records' numbers in the order of the images
    decode: Callable[[bytes], np.ndarray]  # record -> image
    image_shape: tuple[int, ...]
    why: str  # they are streamed, for the user
    place: Path  # of the files, for messages

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self.records), *self.image_shape)

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: np.ndarray, axis: int = 0) -> "LazyImages":
        """Returns the images at `indices`, still undecoded; `axis` is 0, as for a NumPy array of images."""
        return replace(self, records=self.records[indices])

    def __getitem__(self, indices: Any) -> np.ndarray:
        """Decodes the images at `indices`, integers of any shape or a slice; each is decoded once."""
        records = np.asarray(self.records[indices])
        distinct, where = np.unique(records, return_inverse=True)
        images = np.empty((len(distinct), *self.shape[1:]), np.uint8)
        try:
            for number, record in enumerate(self.source.__getitems__(distinct.tolist())):
                images[number] = self.decode(record)
        except Exception as error:
            raise UserError(f"{self.place}: an image cannot be read: {one_line(error)}") from error
        return images[where.reshape(records.shape)]


Images = np.ndarray | LazyImages


def read_ahead(images: LazyImages, wanted: Callable[[int], np.ndarray], start: int, stop: int) -> Iterator[np.ndarray]:
    """Yields images[wanted(number)] for every number from `start` to `stop`, in order, several being decoded ahead.

    Each thread decodes a whole batch.  The iterator has no state but its number, so it may begin anywhere.
    """

    def read(number: int) -> np.ndarray | UserError:
        # An error is handed over as a value, since Grain adds lines of its own to the message of one that it passes on.
        try:
            return images[wanted(number)]
        except UserError as error:
            return error

    grain = library("grain", "tfds")
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS + 2)
    iterator = iter(grain.MapDataset.range(start, stop).map(read).to_iter_dataset(options))
    try:
        for batch in iterator:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        iterator.close()


def chunks(images: Images) -> Iterator[np.ndarray]:
    """Yields all images in order, in arrays of a few; those that are in memory as one."""
    if isinstance(images, np.ndarray):
        yield images
        return
    parts = np.array_split(np.arange(len(images)), -(-len(images) // AT_ONCE))
    yield from read_ahead(images, parts.__getitem__, 0, len(parts))
