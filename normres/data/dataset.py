"""The data set as the rest of the program sees it: images (in memory or streamed), labels, names of the classes."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from normres.data.lazy import Images, LazyImages, chunks
from normres.errors import UserError

CLASSES = {"cifar10": 10, "cifar100": 100}  # by data.name
CIFAR_SIZE = 32  # pixels
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# eq=False: comparing arrays field by field is ambiguous, so two data sets are equal when they are one object.
@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data set, in host memory but for streamed images.

    Images are uint8 (N, H, W, C), 0 to 255, CIFAR's (N, 32, 32, 3) RGB: NumPy arrays or, both of them, LazyImages,
    which are decoded when asked for.  Labels are int32 (N,), each an index into `class_names`.
    `name` says which data ("cifar10"), `source` where these bytes came from ("binary"), `splits` what splits.py has
    done to it, `evaluated_on` what the test arrays are: "test" or "validation".
    `styles` are pictures, uint8 (classes, H, W, C): in the style of which each image is to be painted, its label says.
    """

    name: str
    source: str
    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    splits: dict[str, Any] = field(default_factory=dict)
    evaluated_on: str = "test"
    styles: np.ndarray | None = None

    def split(self, name: str) -> tuple[Images, np.ndarray]:
        """Returns images and labels of "train" or "test"."""
        return getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")

    @property
    def why_streamed(self) -> str:
        """Why the images are streamed, or "" if they are in memory."""
        return self.train_images.why if isinstance(self.train_images, LazyImages) else ""

    def empty_classes(self) -> list[str]:
        """Returns a sentence on the classes of which there is no training image, or if there is one class alone."""
        if len(self.class_names) == 1:
            return ["the data have one class: the error is 0 whatever the network does"]
        empty = sorted(set(range(len(self.class_names))) - set(self.train_labels.tolist()))
        names = ", ".join(self.class_names[label] for label in empty[:3]) + ", ..." * (len(empty) > 3)
        return [f"no training image is of the class {names} (labels count from 0)"] if empty else []

    # Cached, because of streamed images it takes a pass over all files.
    @cached_property
    def sha256(self) -> str:
        """The sha256 of training images, training labels, test images, test labels, and styles if there are any.

        Labels are little-endian int32.  The same examples in the same order have the same, whatever their source.
        """
        splits = map(self.split, ("train", "test"))
        examples = chain.from_iterable(chain(chunks(images), [labels.astype("<i4")]) for images, labels in splits)
        return sha256(chain(examples, [] if self.styles is None else [self.styles]))

    def summary(self) -> dict[str, Any]:
        """Returns what the run record says about the data; every value goes into JSON as it is."""
        return {
            "name": self.name,
            "source": self.source,
            "train_examples": len(self.train_labels),
            "test_examples": len(self.test_labels),
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "image_shape": list(self.train_images.shape[1:]),
            "evaluated_on": self.evaluated_on,
            "splits": self.splits,
            "streamed": bool(self.why_streamed),
            "sha256": self.sha256,
        }


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """Returns the sha256, in hexadecimal, of the C-order bytes of `arrays`, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_labels(labels: np.ndarray, classes: int, what: str) -> None:
    """Raises `UserError`, a line that begins with `what`, unless every label is the number of a class."""
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        raise UserError(f"{what} has label {labels[outside[0]]} in record {outside[0]}, outside 0..{classes - 1}")


def of_ones_own(
    name: str, source: str, place: Path, examples: dict[str, tuple[Any, Any]], class_names: tuple[str, ...] = ()
) -> Dataset:
    """Returns the data set of `examples`, images and labels (of any type of integer) of "train" and "test".

    Classes that no file names have CIFAR-10's own names or their numbers, up to the largest label.
    Raises `UserError` for a label that is no class, and for a known name of data with other classes.
    """
    if not class_names:
        numbers = range(CLASSES.get(name, min(int(examples["train"][1].max()), 2**16) + 1))
        class_names = CIFAR10_NAMES if name == "cifar10" else tuple(map(str, numbers))
    if len(class_names) != CLASSES.get(name, len(class_names)):
        which = f"{len(class_names)} classes ({', '.join(class_names[:3])}, ...)"
        raise UserError(f"data.name={name}, but {place} has {which}; give it a name of its own")
    for split, (_, labels) in examples.items():
        check_labels(labels, len(class_names), f"data.path: {place}: {split}_labels")
    train, test = ((images, labels.astype(np.int32)) for images, labels in examples.values())
    return Dataset(name, source, *train, *test, class_names)
