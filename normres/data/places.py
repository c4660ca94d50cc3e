"""Where data lie: the path that a config names, and one line for whatever cannot be read there or is not installed."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normres.errors import UserError


def one_line(error: Exception) -> str:
    """Returns an error's text on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def find(path: str, wanted: str) -> Path:
    """Returns where `path` lies, `~` expanded; `wanted` says what it should hold."""
    with readable(path):
        place = Path(path).expanduser()
        if not place.exists():
            raise UserError(f"data.path: {place} does not exist; {wanted}")
    return place


@contextmanager
def readable(place: Path | str) -> Iterator[None]:
    """Turns a refusal of the operating system into a line that names the file."""
    try:
        yield
    # expanduser raises RuntimeError for a user that does not exist.
    except (OSError, RuntimeError) as error:
        file, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        raise UserError(f"data.path: {file or place} cannot be read: {reason or one_line(error)}") from error


def library(name: str, extra: str) -> Any:
    """Returns a library of an extra of the package; raises UserError if it is not installed."""
    try:
        # Libraries warn when they are imported, of what no user of this program can mend.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"data.source: {name} is needed: pip install 'normres[{extra}]' ({one_line(error)})") from None
