"""The official releases of CIFAR-10 and CIFAR-100: which files each has.

Formats, archives and their md5: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from normres.errors import UserError

CLASSES = {"cifar10": 10, "cifar100": 100}  # by data.name
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def default_names(name: str, labels: np.ndarray) -> tuple[str, ...]:
    """Returns the names of classes that no file names: CIFAR-10's own, else their numbers, up to the largest label."""
    if name == "cifar10":
        return CIFAR10_NAMES
    return tuple(map(str, range(CLASSES.get(name, min(int(labels.max()), 2**16) + 1))))


def check_name(name: str, place: Path, names: tuple[str, ...], image_shape: tuple[int, ...] = (32, 32, 3)) -> None:
    """Raises `UserError` if images with these names of classes are called cifar10 or cifar100 and are not."""
    if name in CLASSES and (len(names) != CLASSES[name] or image_shape != (32, 32, 3)):
        raise UserError(
            f"data.name={name}, but {place} has images of shape {image_shape} and {len(names)} classes "
            f"({', '.join(names[:3])}, ...); give these images a data.name of their own"
        )


@dataclass(frozen=True)
class Layout:
    """One official release: its files, and what is known about them."""

    source: str  # the row of SOURCES that reads it
    name: str  # data.name
    title: str
    folder: str
    archive: str
    train_records: dict[str, int]  # file name -> official number of records, in official order
    test_records: dict[str, int]
    label_classes: tuple[int, ...]  # classes counted by each label; the last one is the label used
    names_file: str
    names: tuple[str, ...] = ()  # used where the names file is missing
    md5: dict[str, str] = field(default_factory=dict)  # of data files
    archive_md5: str = ""  # of the .tar.gz; asked for only where the files' own are not known

    @property
    def data_files(self) -> dict[str, int]:
        """All data files with their official number of records."""
        return self.train_records | self.test_records

    @property
    def files(self) -> tuple[str, ...]:
        """The data files and the names file."""
        return *self.data_files, self.names_file

    @property
    def again(self) -> str:
        """What to do about a bad file."""
        return f"get {self.archive} again"


LAYOUTS = {
    ("binary", "cifar10"): Layout(
        source="binary",
        name="cifar10",
        title="CIFAR-10",
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train_records={f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
        test_records={"test_batch.bin": 10_000},
        label_classes=(10,),
        names_file="batches.meta.txt",
        names=CIFAR10_NAMES,
        md5={
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    ("binary", "cifar100"): Layout(
        source="binary",
        name="cifar100",
        title="CIFAR-100",
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train_records={"train.bin": 50_000},
        test_records={"test.bin": 10_000},
        label_classes=(20, 100),
        names_file="fine_label_names.txt",
        archive_md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    # The archive's md5 is c58f30108f718f92721af3b95e74349a; its members' hold for an unpacked folder too.
    ("python", "cifar10"): Layout(
        source="python",
        name="cifar10",
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train_records={f"data_batch_{number}": 10_000 for number in range(1, 6)},
        test_records={"test_batch": 10_000},
        label_classes=(10,),
        names_file="batches.meta",
        names=CIFAR10_NAMES,
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    # The archive's md5 is eb9058c3a382ffc7106e4002c42a8d85.
    ("python", "cifar100"): Layout(
        source="python",
        name="cifar100",
        title="CIFAR-100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train_records={"train": 50_000},
        test_records={"test": 10_000},
        label_classes=(20, 100),
        names_file="meta",
        md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
}
