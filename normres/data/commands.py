"""The command line of the data: verify, and prepare, which downloads CIFAR where no files are given.

What is downloaded is the official archive or, where its host fails, Parquet files of it from the Hugging Face hub; the
reader checks both.
"""

import urllib.request
from argparse import Namespace
from pathlib import Path
from urllib.error import HTTPError

from normres.data import Dataset, load, prepared
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

SITE = "https://www.cs.toronto.edu/~kriz/"
HUB = "https://huggingface.co/datasets/uoft-cs/"
# The files of the hub's data sets, below HUB.
HUB_FILES = {
    name: [f"{name}/resolve/main/{folder}/{split}-00000-of-00001.parquet" for split in ("train", "test")]
    for name, folder in (("cifar10", "plain_text"), ("cifar100", "cifar100"))
}
FAST = 5.0  # seconds without an answer, after which it is said that there is no network
OFFLINE = (
    "offline ways: --from FILE.tar.gz or --from DIR with the official files or the hub's Parquet files brought here, "
    "or data.source=embedded, which needs nothing"
)


class Unreachable(UserError):
    """A host does not answer, or does not have the file."""


def download(name: str, to: Path, site: str = SITE, hub: str = HUB) -> Path:
    """Downloads CIFAR into `to`; returns the archive or, where its host fails, the folder of the hub's files.

    A download goes on where it was cut off: the bytes go to FILE.part, which is renamed when it is complete.
    Raises `UserError` without a network, within seconds, and for an error of the server; it names offline ways.
    """
    archive, folder = to / LAYOUTS["binary", name].archive, to / f"{name}-parquet"
    try:
        _download(site + archive.name, archive)
        return archive
    except Unreachable as error:
        first = error
    try:
        for file in HUB_FILES[name]:
            _download(hub + file, folder / Path(file).name)
    except Unreachable as error:
        raise UserError(f"{first}; {error}; {OFFLINE}") from None
    print(f"{first}; took {hub}{name}")
    return folder


def _download(address: str, target: Path) -> None:
    """Downloads one file, unless it is there; keeps nothing else, such as a page that asks for a password."""
    from rich.progress import Progress

    if target.is_file():
        return
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=FAST)
    except OSError as error:
        if isinstance(error, HTTPError):
            error.close()  # it is an answer too, with a socket
        raise Unreachable(f"{address}: not reachable ({error})") from None
    try:
        # The bar is shown on a terminal; in a log there is nothing of it.
        with answer, Progress(transient=True) as bar:
            if answer.status != 206:
                have = 0  # the server sends the whole
            total = have + int(answer.headers.get("Content-Length", 0))
            task = bar.add_task(target.name, total=total, completed=have)
            with part.open("ab" if have else "wb") as file:
                while block := answer.read(2**18):
                    have += file.write(block)
                    bar.update(task, completed=have)
            if have < total:
                raise OSError(f"of {total:,}")
    except OSError as error:
        raise UserError(f"{part}: cut off at {have:,} bytes ({error}); the same command goes on from there") from None
    with part.open("rb") as file:
        begins = file.read(4)
    if not begins.startswith(b"PAR1" if target.suffix == ".parquet" else b"\x1f\x8b"):
        part.unlink()
        raise Unreachable(f"{target.name}: what was sent is another kind of file; is there a page to log in to?")
    part.replace(target)


def _prepare(options: Namespace, _: dict[str, str]) -> None:
    if options.name not in CLASSES:
        raise UserError(f"{options.name!r} is no data set; {nearest(options.name, CLASSES)}")
    target = options.to / options.name / prepared.VERSION
    if target.exists():
        check = f"normres data verify {options.to} --name={options.name}"
        raise UserError(f"{target} is there already; `{check}` checks it, or set another --to")
    dataset = load(options.name, "auto", str(getattr(options, "from") or download(options.name, options.to)))
    prepared.write_tfds(dataset, target)
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images: {target}")


def _verify(options: Namespace, _: dict[str, str]) -> None:
    path = Path(options.path)
    dataset = load(options.name, "auto", str(path))
    print(f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images, {dataset.source}")
    verdict = "is sound" if has_checksums(dataset, path) else "can be read, but has no checksums to compare"
    print(f"sha256 {dataset.sha256}: {path} {verdict}")


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
