"""The papers that a config uses, and the software itself, as BibTeX."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from normres.runs.fields import AnyConfig, declared, flatten

# As CITATION.cff has it, which is no part of an installed package.
SOFTWARE = {"title": "normres: normalization and depth in JAX", "author": "The normres authors", "year": "2026"}
CHANGED = "*"  # any value but that of base.py


@cache
def papers() -> dict[str, list[list[str]]]:
    """Returns what papers.bib has: for each paper, its BibTeX, the settings [field, value] that cite it."""
    table, settings = {}, list[list[str]]()
    for line in Path(__file__).with_suffix(".bib").read_text().splitlines():
        if line.startswith("@"):
            table[line] = settings
        else:
            settings = [setting.split("=") for setting in line.split()]
    return table


def cited(configs: Iterable[AnyConfig]) -> list[str]:
    """Returns the BibTeX of the papers that the configs use, each once and in the order of papers.bib."""
    fields = [flatten(config) for config in configs]
    return [
        paper
        for paper, settings in papers().items()
        if any(_uses(values, name, value) for values in fields for name, value in settings)
    ]


def _uses(values: dict[str, Any], name: str, value: str) -> bool:
    if name.startswith("model.") and values.get("model.module"):
        return False  # a module of the user's reads no field of the model
    own = declared()[name].value
    here = values.get(name, own)
    here = tuple(here) if isinstance(here, list) else here
    return bool(here != own if value == CHANGED else here == value)


def software(version: str, commit: str | None) -> str:
    """Returns the entry of this software."""
    fields = SOFTWARE | ({"version": version} if version else {}) | ({"note": f"commit {commit}"} if commit else {})
    # Double braces keep the group of authors one name, and the title's letters as they are.
    return f"@software{{normres, {', '.join(f'{name} = {{{{{value}}}}}' for name, value in fields.items())}}}"
