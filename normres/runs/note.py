"""The note in a directory of runs, README.md: what it is, the command that repeats it, how to cite it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normres.runs import papers
from normres.runs.fields import GONE, AnyConfig, before, build, declared, flatten

WITHOUT_PATH = ("embedded", "synthetic", "photographs", "auto")  # sources
TITLES = ("# A run of normres\n", "# A sweep of ")  # how a note begins
NOTE = """\
# {title} of normres

## To repeat it

{warning}```sh
{commands}
```

In this directory the command goes on with what is not finished. To train again, name another `--workdir`.

Versions: {versions}.

## The numbers

{folders}`config.json` has every field, `record.json` the status and the final numbers, `metrics.jsonl` the curves.

## To cite it

```bibtex
{papers}
```
"""


def note(command: str | Sequence[str], configs: Sequence[AnyConfig], origin: Mapping[str, Any]) -> str:
    """Returns the README.md of a run or of a sweep, which `command` makes; `origin` is what provenance() returns."""
    commit, changes, versions, warning = origin["commit"], origin["diff"], origin["versions"], ""
    if not commit:
        warning = "The commit is not known, so the command alone may not repeat these numbers."
    elif changes:
        warning = f"The code had changes that were not committed ({changes}): the commit alone does not repeat it."
    checkout = f"git checkout {commit}\n" if commit else ""
    return NOTE.format(
        title=f"A sweep of {len(configs)} runs" if len(configs) > 1 else "A run",
        warning=f"**{warning}**\n\n" if warning else "",
        commands=checkout + (command if isinstance(command, str) else shlex.join(command)),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()) or "not known",
        folders="Each folder is a run: " if len(configs) > 1 else "",
        papers="\n".join([papers.software(versions.get("normres", ""), commit), *papers.cited(configs)]),
    )


def repeat_command(config: AnyConfig, workdir: Path) -> list[str]:
    """Returns the `normres train` of a run: its recipe, and every field in which the config differs from that."""
    from normres.configs import base

    values = flatten(config)
    recipe = values.pop("recipe", declared()["recipe"].value)
    known = flatten(build(base.FIELDS, base.RECIPES, recipe))
    then = known | before()
    own = {name: values.get(name, then[name]) for name in known if name != "recipe"}
    own |= {name: value for name, value in values.items() if name not in known and name not in GONE}
    differ = {name: text for name, value in own.items() if (text := _argument(value)) != _argument(known.get(name))}
    fields = [f"--config.{name}={text}" for name, text in differ.items()]
    # A kept run has no path.
    where = [] if own["data.path"] or own["data.source"] in WITHOUT_PATH else ["--config.data.path=PATH"]
    return ["normres", "train", f"--config=base:{recipe}", *fields, *where, f"--workdir={workdir}"]


def _argument(value: Any) -> str:
    """Returns a value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_argument, value)) or "()"
    return str(value)
