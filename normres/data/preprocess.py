"""From uint8 images to numbers around zero, as the papers differ in it; statistics are of the training images alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from normres.data.dataset import sha256
from normres.data.lazy import Images, chunks

KINDS = ("pixel_mean", "channel_mean", "channel_mean_std", "image_standardization", "none")


# eq=False: comparing arrays field by field is ambiguous.
@dataclass(frozen=True, eq=False)
class Statistics:
    """What was measured on the training images, float64, in units of 255 levels; None where the kind needs none.

    Shapes: `mean` (1, H, W, C) for pixel_mean, else (1, 1, 1, C); `std` (1, 1, 1, C).
    """

    kind: str
    mean: np.ndarray | None
    std: np.ndarray | None

    @classmethod
    def restored(cls, summary: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """Returns the statistics of which a record has the summary and a checkpoint the arrays."""
        known = {**summary, **arrays}

        def four_axes(name: str) -> np.ndarray | None:
            values = known.get(name)
            return None if values is None else np.array(values, np.float64, ndmin=4)

        return cls(summary["kind"], four_axes("mean"), four_axes("std"))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `preprocess` reads, float32: "mean", both it and "std", or neither."""
        measured = {"mean": self.mean, "std": self.std}
        return {name: values.astype(np.float32) for name, values in measured.items() if values is not None}

    def summary(self) -> dict[str, Any]:
        """Returns what the run record says: the kind, mean and std of each channel, and the sha256 of a mean image.

        The sha256 covers the float32 mean image that is subtracted, (H, W, C) in C order.
        """
        mean = None if self.mean is None else self.mean.mean(axis=(0, 1, 2)).tolist()
        std = None if self.std is None else self.std.ravel().tolist()
        digest = {"sha256": sha256([self.arrays()["mean"]])} if self.kind == "pixel_mean" else {}
        return {"kind": self.kind, "mean": mean, "std": std} | digest


def measure(images_NHWC: Images, kind: str) -> Statistics:
    """Returns the statistics of uint8 images that `kind` (a row of KINDS) needs: exact sums, divided in float64."""
    if kind in ("none", "image_standardization"):
        return Statistics(kind, None, None)
    sum_HWC = np.zeros(images_NHWC.shape[1:], np.int64)
    squares_C = np.zeros(images_NHWC.shape[-1], np.int64)
    for images in chunks(images_NHWC):
        sum_HWC += images.sum(axis=0, dtype=np.int64)
        if kind == "channel_mean_std":
            squares_C += np.einsum("nhwc,nhwc->c", images, images, dtype=np.int64)
    if kind == "pixel_mean":
        return Statistics(kind, (sum_HWC / (len(images_NHWC) * 255.0))[None], None)
    count = math.prod(images_NHWC.shape[:3])
    # Python's integers have no end, so nothing is lost before the division.
    sums, squares = sum_HWC.sum((0, 1), keepdims=True)[None].astype(object), squares_C.astype(object)
    mean = (sums / (count * 255)).astype(np.float64)
    if kind == "channel_mean":
        return Statistics(kind, mean, None)
    std = np.sqrt(((count * squares - sums**2) / (count * 255) ** 2).astype(np.float64))
    return Statistics(kind, mean, np.where(std > 0, std, 1.0))


def standardized(images_NHWC: jax.Array) -> jax.Array:
    """Returns each uint8 image with its own mean subtracted and divided by its own standard deviation, float32.

    Over all H * W * C values, and by no less than 1 / sqrt(H * W * C) levels, so that an image of one colour becomes
    zeros.  Summed as integers around the rounded mean, so exact in any order, where the sums fit.
    """
    levels = images_NHWC.astype(jnp.int32)
    count = levels[0].size

    def total(values: jax.Array) -> jax.Array:
        if count <= 132_000:  # of squares up to 127.5^2 on average
            return values.sum((1, 2, 3), keepdims=True)
        return values.sum((2, 3), keepdims=True).astype(jnp.float32).sum(1, keepdims=True)

    apart = levels - (total(levels) // count).astype(jnp.int32)
    mean = total(apart) / count
    variance = total(apart**2) / count - mean**2
    return (apart - mean) / jnp.maximum(jnp.sqrt(jnp.maximum(variance, 0.0)), count**-0.5)


def preprocess(kind: str, images_NHWC: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
    """Returns uint8 images as the network reads them, float32; `data` has the arrays of the kind's Statistics."""
    if kind == "image_standardization":
        return standardized(images_NHWC)
    images = images_NHWC.astype(jnp.float32) / 255 - data.get("mean", 0.0)
    return images / data["std"] if "std" in data else images
