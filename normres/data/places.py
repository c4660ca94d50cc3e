"""Where data lie: the path that a config names, and one line for whatever cannot be read there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
