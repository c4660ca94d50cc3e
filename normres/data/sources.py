"""Where the images come from: one function per source, all of them returning the same `Dataset`."""

from collections.abc import Callable

from normres.data.binary import load_binary
from normres.data.dataset import Dataset
from normres.data.mosaics import load_embedded
from normres.errors import UserError, nearest

__all__ = ["NAMES", "SOURCES", "Dataset", "load"]

NAMES = ("cifar10", "cifar100")

# (name, path, verify) -> Dataset.  The tfds, python (pickle), npz and npm sources get their rows here.
SOURCES: dict[str, Callable[[str, str, bool], Dataset]] = {
    "embedded": load_embedded,
    "binary": load_binary,
}


def load(name: str, source: str, path: str = "", verify: bool = True) -> Dataset:
    """Returns the data set `name`, read from `source`; nothing is ever downloaded or written.

    The arguments are the config fields `data.name`, `data.source`, `data.path` and `data.verify`.
    `verify=False` is for altered or shortened files: it skips the comparison with the published checksums
    and record counts, never the checks that the files have the right structure.
    Raises `UserError`, one line that names the field or the file, for anything the user has to mend.
    """
    if source not in SOURCES:
        raise UserError(f"data.source: unknown source {source!r}; {nearest(source, SOURCES)}")
    if name not in NAMES:
        raise UserError(f"data.name: unknown data set {name!r}; {nearest(name, NAMES)}")
    return SOURCES[source](name, path, verify)
