"""Sphinx: the documentation as a site, `make docs`.  The pages in reference/ are written here, from the code."""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}

from normres import cli  # noqa: E402
from normres.models import MODELS, ORDERS, SHORTCUTS, ResNetConfig  # noqa: E402
from normres.runs.fields import Field, declared  # noqa: E402
from normres.show import count, picture  # noqa: E402

project = "normres"
author = project_copyright = "The normres authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "normres"
html_static_path: list[str] = []
exclude_patterns = ["_build", "results/*/*.md"]
myst_heading_anchors = 4
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_ivar = True

TO_SOURCE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)\)")


def name_sources(_app: Any, _name: str, source: list[str]) -> None:
    """Turns links to files outside this folder, which a site does not have, into their names."""

    def named(match: re.Match[str]) -> str:
        words, path = match.groups()
        return f"`{path}`" if words.strip("`") in path else f"{words} (`{path}`)"

    source[0] = TO_SOURCE.sub(named, source[0])


def config_page() -> str:
    """Returns the page of all config fields, from their declarations."""
    parts = ["# Config fields", ""]
    parts += [
        "Every field is declared once, in `configs/base.py`. `--config.NAME=VALUE` sets it on the command line.",
        "",
    ]
    section = None
    for name, field in declared().items():
        if (own := name.rpartition(".")[0]) != section:
            section = own
            parts += ["", f"## {section or 'The run'}", "", "| field | value | meaning | may be |", "|---|---|---|---|"]
        how = " Says only how or where; no part of a run's identity." if field.how else ""
        cells = (f"`{name}`", f"`{field.value!r}`", field.meaning + "." + how, allowed(field))
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def allowed(field: Field) -> str:
    """Returns the choices or the range of a field, in words."""
    if field.choices:
        return ", ".join(f"`{name}`" for name in field.names())
    if field.kind not in (int, float):
        return {bool: "true or false", str: "a text"}[field.kind]
    end = f"below {field.below:,g}" if field.below < float("inf") else f"to {field.most:,g}"
    return f"{field.least:,g} {end}"


def commands_page() -> str:
    """Returns the page of all commands, from their parsers."""
    parts = ["# Commands", "", "What `normres COMMAND --help` prints.", ""]
    for name, text in helps(cli._parser()):
        parts += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(parts)


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yields the name and the help of each command below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield below.prog, below.format_help()
                yield from helps(below)


def blocks_page() -> tuple[str, dict[str, str]]:
    """Returns the page of all orders and shortcuts, from their rows, and its pictures by the names of their files."""
    parts = [
        "# Blocks",
        "",
        "Each order and each shortcut in a ResNet-8 of width 16, as `normres show --svg` draws it.",
        "",
    ]
    pictures = {}
    for field, rows in {"order": ORDERS, "shortcut": SHORTCUTS}.items():
        parts += [f"## model.{field}", ""]
        for name, row in rows.items():
            network = MODELS["resnet"].module(ResNetConfig(depth=8, **{field: name}))
            pictures[f"{field}-{name}.svg"] = picture.svg(count.count(network, (32, 32, 3)))
            parts += [f"### {field} {name}", "", f"![{row.title}]({field}-{name}.svg)", ""]
    return "\n".join(parts), pictures


def setup(app: Any) -> None:
    """Writes the pages that are made of the code."""
    folder = Path(__file__).parent / "reference"
    folder.mkdir(exist_ok=True)
    blocks, pictures = blocks_page()
    for name, text in {
        "config.md": config_page(),
        "commands.md": commands_page(),
        "blocks.md": blocks,
        **pictures,
    }.items():
        if not (folder / name).is_file() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    app.connect("source-read", name_sources)
