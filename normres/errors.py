"""Errors that are the user's to mend: one line, the field or file, the nearest valid choice."""

import difflib
import importlib
import warnings
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake in a config, a file or a command; the command line prints it as one line and exits with 2."""


class FaultInFile(UserError):
    """Code in a file that the user edits failed; `trace` shows where."""

    def __init__(self, message: str, trace: str):
        super().__init__(message)
        self.trace = trace


class InterruptedRun(Exception):
    """A run was told to stop; what it had done is saved and the message says how far it was."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns the hint that follows an unknown `name`: the nearest choice if one is near, then all of them."""
    choices = [str(choice) for choice in choices]
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    return f"{hint}choices: {', '.join(choices)}"


def library(name: str, extra: str, message: str = "") -> Any:
    """Returns a library of an extra of the package; raises UserError if it is not installed."""
    try:
        # Libraries warn when they are imported, of what no user of this program can mend.
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(name)
    except ImportError as error:
        needed = f"{name.partition('.')[0]} is needed: pip install 'normres[{extra}]' ({' '.join(str(error).split())})"
        raise UserError(message or needed) from None
