"""Batches of a data set that does not fit on the devices, read from its shards step by step.

Which examples make the batch of a step is the same function of (seed, step) as in memory, so there is no iterator to
save.  Every host reads the rows of each global batch that its own devices hold.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from normres.data.dataset import Dataset
from normres.data.lazy import LazyImages, read_ahead

# Of a batch on the devices: "images" and "labels", in the order of the batch.
Batch = dict[str, jax.Array]
# (images uint8 (B, H, W, C), their numbers in the data set (B,)) -> images
Change = Callable[[np.ndarray, np.ndarray], np.ndarray | jax.Array]


def rows(batch_size: int, shards: int, held: Sequence[int]) -> np.ndarray:
    """Returns which positions of a global batch the shards `held` hold, int64, in order.

    Shard s of `shards` holds the s-th of as many equal runs of neighbours.  `batch_size` is a multiple of `shards`.
    """
    return np.arange(batch_size).reshape(shards, -1)[sorted(held)].ravel()


class Stream:
    """Reads the batches of one run from a data set of LazyImages and places them on the devices."""

    def __init__(self, dataset: Dataset, sharding: NamedSharding, wanted: Callable[[int], np.ndarray], steps: int):
        """Takes the sharding of batches, and `wanted`: the examples of a training step of `steps`, (B,) or (B, 2)."""
        here = jax.process_index()
        devices = sharding.mesh.devices.ravel()
        held = [shard for shard, device in enumerate(devices) if device.process_index == here]
        self._mine = lambda indices: indices[rows(len(indices), len(devices), held)]  # of the examples of a batch
        self._dataset, self._sharding, self._wanted, self._steps = dataset, sharding, wanted, steps
        self._next = -1  # the step that comes next out of `_ahead`
        self._ahead: Iterator[np.ndarray] = iter(())
        self._last: Batch = {}

    def train(self, step: int) -> Batch:
        """Returns the batch of a training step.

        Asked for step after step, it has the next ones decoded already; asked for any other, it begins anew there.
        """
        if step + 1 != self._next:  # else it is the last one once more
            if step != self._next:
                self._ahead = self._read("train", self._wanted, step, max(self._steps, step + 1))
            self._last = self._place("train", next(self._ahead), self._wanted(step))
            self._next = step + 1
        return self._last

    def evaluation(self, split: str, wanted: Sequence[np.ndarray], change: Change | None = None) -> Iterator[Batch]:
        """Yields the batches of the examples `wanted` of a split, their images changed if so wished."""
        for images, indices in zip(self._read(split, wanted.__getitem__, 0, len(wanted)), wanted, strict=True):
            changed = images if change is None else np.asarray(change(images, self._mine(indices)))
            yield self._place(split, changed, indices)

    def _read(self, split: str, wanted: Callable[[int], np.ndarray], start: int, stop: int) -> Iterator[np.ndarray]:
        images, _ = self._dataset.split(split)
        assert isinstance(images, LazyImages)
        # Without self: what is read ahead ends with the stream that holds it, not at some later garbage collection.
        mine = self._mine
        return read_ahead(images, lambda number: mine(wanted(number)), start, stop)

    def _place(self, split: str, images: np.ndarray, indices: np.ndarray) -> Batch:
        """Puts this process's rows of a batch on its devices, where they are a part of the global batch."""
        mine = {"images": images, "labels": self._dataset.split(split)[1][self._mine(indices)]}
        return {
            name: jax.make_array_from_process_local_data(self._sharding, array, (len(indices), *array.shape[1:]))
            for name, array in mine.items()
        }
