"""Which examples make a batch: functions of (seed, step), so that resuming needs no iterator state."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which epoch `epoch` visits `size` examples, int32."""
    return np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)


def train_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Returns the examples of training step `step` (from 0), int32 (batch_size,).

    Epochs follow each other without a gap: a batch may hold the end of one and the beginning of the next, and
    every example is seen exactly once per epoch.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(position, size)
    orders = {epoch: epoch_order(seed, int(epoch), size) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][offset] for epoch, offset in zip(epochs, offsets, strict=True)], np.int32)


def with_partners(indices: np.ndarray) -> np.ndarray:
    """Returns (B, 2): each example of a whole batch and the one that it is mixed with, the example before it.

    As the batch is in random order, so are the pairs; the papers' code draws another permutation instead, which at
    times pairs an example with itself.
    """
    return np.stack([indices, np.roll(indices, 1)], axis=1)


def eval_batches(size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices int32, weights float32), both (batch_size,), that cover every example exactly once.

    The last batch is padded with example 0 at weight 0.
    """
    for start in range(0, size, batch_size):
        indices = np.arange(start, start + batch_size)
        real = indices < size
        yield np.where(real, indices, 0).astype(np.int32), real.astype(np.float32)
