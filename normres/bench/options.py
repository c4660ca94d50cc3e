"""What the benchmarks' commands read from their options; a mistake is a UserError that names the option."""

from collections.abc import Iterable
from pathlib import Path

from normres.errors import UserError, nearest


def chosen(option: str, given: str | None, choices: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in a list with commas; all choices if there is none."""
    choices = tuple(choices)
    names = choices if given is None else tuple(given.split(","))
    for name in names:
        if name not in choices:
            raise UserError(f"{option}={given}: {name!r} does not exist; {nearest(name, choices)}")
    return names


def integers(option: str, given: str) -> tuple[int, ...]:
    """Returns the integers in a list with commas."""
    try:
        return tuple(int(number) for number in given.split(","))
    except ValueError:
        raise UserError(f"{option}={given}: write integers and commas, such as 20,110") from None


def has_folder(option: str, file: Path | None) -> None:
    """Raises UserError unless the file's directory is there."""
    if file and not file.parent.is_dir():
        raise UserError(f"{option}={file}: there is no directory {file.parent}")
