"""The command line of the data: prepare, verify, show."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from normres.data import Dataset, fetch, load, prepared
from normres.data.dataset import CLASSES
from normres.data.official import LAYOUTS
from normres.errors import UserError, nearest

PREPARE = """\
Writes DIR/NAME/VERSION as tensorflow_datasets writes it (ArrayRecord, which has checksums);
data.source=tfds and tfds.data_source read it.  Needs the extra `tfds`.
Without --from it downloads the official archive into DIR, or the Hugging Face hub's Parquet files where the
university's host fails; it goes on where a download was cut off.

examples:
  normres data prepare cifar10 --from cifar-10-binary.tar.gz --to data
  normres train --config=base --config.data.source=tfds --config.data.path=data --workdir=runs/try"""

VERIFY = """\
Finds a flipped bit, a truncated or missing file and wrong counts, and names the file.

example:
  normres data verify cifar-10-binary.tar.gz"""

SHOW = """\
example:
  normres data show --source=binary --path=cifar-10-binary.tar.gz --out=sheet.png"""

PER_CLASS = 6  # images on a contact sheet

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds the sub-commands of `normres data`; add(name, summary, epilog) makes a parser."""
    prepare = add("prepare", "Turn the official files into a tensorflow_datasets directory.", PREPARE)
    prepare.add_argument("name", metavar="NAME", help=" or ".join(CLASSES))
    prepare.add_argument(
        "--from", dest="source", metavar="FILE|DIR", help="whatever a data source reads; default: download"
    )
    prepare.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    prepare.set_defaults(data=_prepare, options=("--from", "--to", "--help"))
    verify = add("verify", "Check prepared or official files, bit by bit.", VERIFY)
    verify.add_argument("path", type=Path, metavar="DIR_OR_FILE", help="what prepare wrote, or official files")
    verify.add_argument("--name", default="cifar10", help="which data set (default cifar10)")
    verify.set_defaults(data=_verify, options=("--name", "--help"))
    show = add("show", "Write a contact sheet of each class, as stored and as cropped and flipped.", SHOW)
    show.add_argument("--name", default="cifar10", help="which data set (default cifar10)")
    show.add_argument("--source", default="embedded", help="a data source (default embedded)")
    show.add_argument("--path", default="", help="where it is, if the source needs a path")
    show.add_argument("--out", type=Path, default=Path("contact_sheet.png"), metavar="FILE.png")
    show.set_defaults(data=_show, options=("--name", "--source", "--path", "--out", "--help"))


def run(options: argparse.Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    if left:
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], options.options)}")
    options.data(options)
    return 0


def _prepare(options: argparse.Namespace) -> None:
    if options.name not in CLASSES:
        raise UserError(f"{options.name!r} is no data set; {nearest(options.name, CLASSES)}")
    target = options.to / options.name / prepared.VERSION
    if target.exists():
        raise UserError(f"{target} is there already; `normres data verify {options.to}` checks it, or set another --to")
    source = options.source or fetch.download(options.name, options.to)
    dataset = load(options.name, "auto", str(source))
    directory = prepared.write_tfds(dataset, options.to)
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images: {directory}")


def _verify(options: argparse.Namespace) -> None:
    dataset = load(options.name, "auto", str(options.path))
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images, {dataset.source}")
    verdict = "is sound" if has_checksums(dataset, options.path) else "can be read, but has no checksums to compare"
    print(f"sha256 {dataset.sha256}: {options.path} {verdict}")


def has_checksums(dataset: Dataset, path: Path) -> bool:
    """Returns whether a flipped bit at the path would have been noticed when the data set was read."""
    if dataset.source == "tfds":
        return any(prepared.version_directory(dataset.name, str(path)).glob("*.array_record*"))
    if dataset.source == "parquet":
        return dataset.name == "cifar10"
    layout = LAYOUTS.get((dataset.source, dataset.name))
    return layout is not None and (all(layout.md5.values()) or not (path.is_dir() or path.suffix == ".tar"))


def _show(options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    dataset = load(options.name, options.source, options.path)
    classes, height = np.unique(dataset.train_labels), dataset.train_images.shape[1]
    figure = Figure(figsize=(10, 1 + 0.7 * len(classes)), layout="constrained")
    names = [dataset.class_names[label] for label in classes]
    both = (contact_sheet(dataset, lambda images: images), contact_sheet(dataset, _cropped))
    titles = ("as stored", "cropped and flipped")
    for axes, title, sheet in zip(figure.subplots(1, 2), titles, both, strict=True):
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=height * (np.arange(len(classes)) + 0.5), yticklabels=names)
    figure.savefig(options.out)
    print(options.out)


def contact_sheet(dataset: Dataset, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns one image (H, W, C), uint8: of each class in turn a row of its first training images, changed."""
    height, width, channels = dataset.train_images.shape[1:]
    classes = np.unique(dataset.train_labels)
    sheet = np.full((len(classes), height, PER_CLASS * width, channels), 255, np.uint8)
    for row, label in zip(sheet, classes, strict=True):
        images = change(dataset.train_images[np.flatnonzero(dataset.train_labels == label)[:PER_CLASS]])
        row[:, : len(images) * width] = np.concatenate([*images], axis=1)
    return sheet.reshape(-1, PER_CLASS * width, channels)


def _cropped(images: np.ndarray) -> np.ndarray:
    """Returns uint8 images cropped and flipped as in training, from a fixed key."""
    import jax
    import jax.numpy as jnp

    from normres.data.augment import crop_flip

    keys = jax.random.split(jax.random.key(0), len(images))
    return np.asarray(crop_flip(jnp.asarray(images), keys))
