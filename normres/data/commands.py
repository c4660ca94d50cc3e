"""The command line of the data: prepare, verify, show."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from normres.data import Dataset, fetch, load, prepared
from normres.data.releases import LAYOUTS
from normres.data.sources import NAMES
from normres.errors import UserError, nearest

PREPARE = """\
Writes DIR/NAME/VERSION as tensorflow_datasets writes it (ArrayRecord), with a manifest of sha256 sums, atomically;
data.source=tfds and tfds.data_source read it.  Needs the extra `tfds`.

--from FILE|DIR  the official binary or python files, Parquet files, an npz, or a prepared directory
without --from   downloads the official archive into DIR, or the Hugging Face hub's Parquet files where the university's
                 host fails; goes on where a download was cut off

examples:
  normres data prepare cifar10 --from cifar-10-binary.tar.gz --to data
  normres train --config=base --config.data.source=tfds --config.data.path=data --workdir=runs/try"""

VERIFY = """\
Finds a flipped bit, a truncated or missing file, wrong counts and wrong class balance, and names the file.

examples:
  normres data verify data
  normres data verify cifar-10-binary.tar.gz"""

SHOW = """\
Writes a contact sheet: the first images of each class, as stored and as the network sees them.

examples:
  normres data show
  normres data show --source=binary --path=cifar-10-binary.tar.gz --augmentation=crop_flip --out=sheet.png"""

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds the sub-commands of `normres data`; add(name, summary, epilog) makes a parser."""
    prepare = add("prepare", "Turn the official files into a tensorflow_datasets directory.", PREPARE)
    prepare.add_argument("name", metavar="NAME", help=" or ".join(NAMES))
    prepare.add_argument("--from", dest="source", metavar="FILE|DIR", help="default: download")
    prepare.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    prepare.set_defaults(data=_prepare, options=("--from", "--to", "--help"))
    verify = add("verify", "Check prepared or official files, bit by bit.", VERIFY)
    verify.add_argument("path", type=Path, metavar="DIR_OR_FILE", help="what prepare wrote, or official files")
    verify.add_argument("--name", default="cifar10", help="which data set (default cifar10)")
    verify.set_defaults(data=_verify, options=("--name", "--help"))
    show = add("show", "Write a contact sheet of each class, before and after augmentation.", SHOW)
    show.add_argument("--name", default="cifar10", help="which data set (default cifar10)")
    show.add_argument("--source", default="embedded", help="a data source (default embedded)")
    show.add_argument("--path", default="", help="where it is, if the source needs a path")
    show.add_argument("--augmentation", default="crop_flip", help="config.data.augmentation (default crop_flip)")
    show.add_argument("--out", type=Path, default=Path("contact_sheet.png"), metavar="FILE.png")
    show.set_defaults(data=_show, options=("--name", "--source", "--path", "--augmentation", "--out", "--help"))


def run(options: argparse.Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    if left:
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], options.options)}")
    options.data(options)
    return 0


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, nothing in a log; yields update(done, total)."""
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def _prepare(options: argparse.Namespace) -> None:
    if options.name not in NAMES:
        raise UserError(f"{options.name!r} is no data set; {nearest(options.name, NAMES)}")
    prepared.check_free(options.name, options.to)
    source = options.source
    if source is None:
        with _bar("downloading") as update:
            source = str(fetch.download(options.name, options.to, update))
    dataset = load(options.name, "auto", source)

    def progress(indices: Iterable[int], total: int) -> Iterable[int]:
        with _bar(f"writing {total:,} examples") as update:
            for done, index in enumerate(indices, 1):
                yield index
                update(done, total)

    directory = prepared.write_tfds(dataset, options.to, progress)
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images: {directory}")


def _verify(options: argparse.Namespace) -> None:
    dataset = load(options.name, "auto", str(options.path))
    for split, labels in (("training", dataset.train_labels), ("test", dataset.test_labels)):
        counts = np.bincount(labels, minlength=len(dataset.class_names))
        print(f"{split}: {len(labels):,} images, {counts.min():,} to {counts.max():,} of each class")
        if counts.min() != counts.max():
            few = dataset.class_names[int(counts.argmin())]
            raise UserError(f"{options.path}: the {split} classes are not balanced: {counts.min():,} of {few!r}")
    print(f"sha256 {dataset.summary()['sha256']}: {options.path} {_verdict(dataset, options.path)}")


def _verdict(dataset: Dataset, path: Path) -> str:
    """Says of data that are as they should be how much that means."""
    layout = LAYOUTS.get((dataset.source, dataset.name))
    if layout and layout.archive_md5 and (path.is_dir() or path.suffix == ".tar"):
        return (
            f"has the right records and classes, but no md5 of its files is known: only {layout.archive} shows a flip"
        )
    return "is sound"


def _show(options: argparse.Namespace) -> None:
    from normres.data.sheet import contact_sheet

    dataset = load(options.name, options.source, options.path)
    print(contact_sheet(dataset, options.out, _augmentation(options.augmentation)))


def _augmentation(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the config's augmentation as uint8 images to uint8 images, from a fixed key."""
    import jax
    import jax.numpy as jnp

    from normres.data import augment

    if name not in augment.AUGMENTATIONS:
        raise UserError(f"--augmentation={name} does not exist; {nearest(name, augment.AUGMENTATIONS)}")

    def augmented(images: np.ndarray) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), len(images))
        drawn = augment.AUGMENTATIONS[name](jnp.asarray(images, jnp.float32), keys, "zero")
        return np.asarray(drawn).round().astype(np.uint8)

    return augmented
