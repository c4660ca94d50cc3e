"""The command line of the data: prepare and verify."""

from argparse import Namespace
from pathlib import Path

from normres.data import Dataset, fetch, load, prepared
from normres.data.dataset import CLASSES
from normres.data.official import LAYOUTS, is_gzip
from normres.errors import UserError, nearest
from normres.options import REQUIRED, Command

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


def _prepare(options: Namespace, _: dict[str, str]) -> None:
    if options.name not in CLASSES:
        raise UserError(f"{options.name!r} is no data set; {nearest(options.name, CLASSES)}")
    target = options.to / options.name / prepared.VERSION
    if target.exists():
        check = f"normres data verify {options.to} --name={options.name}"
        raise UserError(f"{target} is there already; `{check}` checks it, or set another --to")
    source = getattr(options, "from") or fetch.download(options.name, options.to)
    dataset = load(options.name, "auto", str(source))
    prepared.write_tfds(dataset, target)
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images: {target}")


def _verify(options: Namespace, _: dict[str, str]) -> None:
    dataset = load(options.name, "auto", str(Path(options.path)))
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images, {dataset.source}")
    verdict = (
        "is sound" if has_checksums(dataset, Path(options.path)) else "can be read, but has no checksums to compare"
    )
    print(f"sha256 {dataset.sha256}: {options.path} {verdict}")


def has_checksums(dataset: Dataset, path: Path) -> bool:
    """Returns whether a flipped bit at the path would have been noticed when the data set was read."""
    if dataset.source == "tfds":
        return any(prepared.version_directory(dataset.name, str(path)).glob("*.array_record*"))
    if dataset.source == "parquet":
        return dataset.name == "cifar10"
    layout = LAYOUTS.get((dataset.source, dataset.name))
    return layout is not None and (all(layout.md5.values()) or (path.is_file() and is_gzip(path)))


COMMANDS = {
    "prepare": Command(
        _prepare,
        "Turn the official files into a tensorflow_datasets directory.",
        PREPARE,
        {
            "NAME": (REQUIRED, " or ".join(CLASSES)),
            "--from=FILE|DIR": (None, "whatever a data source reads; default: download"),
            "--to=DIR": (Path("data"), "where to"),
        },
        takes_config=False,
    ),
    "verify": Command(
        _verify,
        "Check prepared or official files, bit by bit.",
        VERIFY,
        {
            "PATH": (REQUIRED, "what prepare wrote, or official files"),
            "--name=NAME": ("cifar10", "which data set"),
        },
        takes_config=False,
    ),
}
