"""Downloading CIFAR: the official archive, or Parquet files of it from the Hugging Face hub; the reader checks both."""

import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from normres.data.official import LAYOUTS
from normres.errors import UserError

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
    """Downloads one file, unless it is there.  What is no archive and no Parquet file, such as a page that asks for a
    password, is not kept.
    """
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
            if have and error.code == 416:  # there are no more bytes; the reader checks those that are here
                return _keep(part, target)
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
    _keep(part, target)


def _keep(part: Path, target: Path) -> None:
    """Renames a complete download, whose first bytes say whether it can be what was asked for."""
    with part.open("rb") as file:
        begins = file.read(4)
    if not begins.startswith(b"PAR1" if target.suffix == ".parquet" else b"\x1f\x8b"):
        part.unlink()
        raise Unreachable(f"{target.name}: what was sent is another kind of file; is there a page to log in to?")
    part.replace(target)
