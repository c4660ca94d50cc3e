"""Commands and their options as rows: what the command line is made of."""

import argparse
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from normres.errors import UserError

REQUIRED: Any = object()  # the default of an option that must be given

# "--OPTION=METAVAR": (default, help).  The name of an argument that has no "--" is its metavar.  An option without a
# metavar is a switch; one whose default is a list may come several times.
Options = Mapping[str, tuple[Any, str]]
KINDS: dict[str, Callable[[str], Any]] = {"N": int, "I": int, "SECONDS": float}
# A shell leaves the ~ of --workdir=~/runs as it is; where there is no such user, so does this.
_path = lambda text: Path(os.path.expanduser(text))  # noqa: E731, PTH111
KINDS |= dict.fromkeys(("FILE", "FILE.svg", "DIR", "RUN", "WORKDIR", "RUNS", "A", "B"), _path)


class Command(NamedTuple):
    """A command.

    Attributes:
      run: takes the options and the config's fields of the command line; returns the exit status, if not 0.
      summary: what it does, in one line.
      epilog: what its help says beside that: examples.
      options: what it takes.
      takes_config: whether fields of a config mean something to it.
    """

    run: Callable[[Namespace, dict[str, str]], int | None]
    summary: str
    epilog: str
    options: Options
    takes_config: bool = True


def add_options(parser: argparse.ArgumentParser, options: Options) -> None:
    """Adds a command's options to its parser."""
    for option, (default, text) in options.items():
        name, _, metavar = option.partition("=")
        if default is False:
            parser.add_argument(name, action="store_true", help=text)
            continue
        keywords: dict[str, Any] = {"type": KINDS.get(metavar or name, str), "metavar": metavar or name}
        if name.startswith("--"):
            keywords |= {"required": True} if default is REQUIRED else {"default": default}
        else:
            name = name.lower()
            keywords |= {} if default is REQUIRED else {"nargs": "?", "default": default}
        if isinstance(default, list):
            keywords["action"] = "append"
        shown = f" (default {default})" if default and default is not REQUIRED else ""
        parser.add_argument(name, help=text + shown, **keywords)


def split(arguments: Sequence[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Returns what arguments that begin with the prefix say, {"seed": "1"} of --config.seed=1, and the other arguments.

    Raises:
      UserError: one lacks its value.
    """
    values, others, rest = {}, list[str](), list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if not name.startswith(prefix):
            others.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{argument!r} lacks its value; write {argument}=VALUE")
            value = rest.pop(0)
        values[name.removeprefix(prefix)] = value
    return values, others
