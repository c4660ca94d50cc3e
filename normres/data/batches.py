"""Which examples make a batch, functions of (seed, step), so that resuming needs no iterator state; looking them up."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import numpy as np


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which epoch `epoch` visits `size` examples, int32."""
    return np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)


def train_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Returns the examples of training step `step` (from 0), int32 (batch_size,).

    Every example is seen once per epoch; a batch may hold the end of one epoch and the beginning of the next.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(position, size)
    return np.concatenate([epoch_order(seed, int(e), size)[offsets[epochs == e]] for e in np.unique(epochs)])


def with_partners(indices: np.ndarray) -> np.ndarray:
    """Returns (B, 2): each example of a whole batch and the one that it is mixed with, the example before it.

    The papers' code draws another permutation instead, which at times pairs an example with itself.
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FlatImages:
    """Images on the devices, of which each is a row: `rows` uint8 (N, H * W * C), `shape` (H, W, C).

    A TPU lays an array (N, 32, 32, 3) out with N last.  To look images up it would copy the whole of it in every step.
    """

    rows: Any
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, images_NHWC: Any) -> "FlatImages":
        """Returns images uint8 (N, H, W, C) as rows; copies nothing."""
        return cls(images_NHWC.reshape(len(images_NHWC), -1), images_NHWC.shape[1:])


def look_up(data: dict[str, Any], indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns images uint8 (*indices.shape, H, W, C) and labels int32 of the examples `indices`.

    `data` has "images" (FlatImages) and "labels" (N,) of the whole data set or, streamed, "batch": the images and
    labels of `indices`, which are not negative and less than N.
    """
    if "batch" in data:
        return data["batch"]["images"], data["batch"]["labels"]
    images: FlatImages = data["images"]
    # The indices are not checked, which would cost operations of their own.
    rows, labels = (array.at[indices].get(mode="promise_in_bounds") for array in (images.rows, data["labels"]))
    return rows.reshape(*indices.shape, *images.shape), labels
