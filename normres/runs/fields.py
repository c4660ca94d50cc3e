"""What the fields of a config are.  Each is declared once, in configs/base.py, as plain data; nothing here needs jax.

A config is built in layers, of which a later one wins: the values of base.py, the recipe (what differs from them), the
config file's own lines, the command line.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError, nearest

NOT_ADDED_LATER = "every run has it"  # a value that no field can have
GONE = ("train.seeds_per_program",)  # of older runs; they said only how something was computed

AnyConfig = ConfigDict | Mapping[str, Any]  # or what was read from its JSON
Recipes = Mapping[str, Mapping[str, Any]]

# The recipe that the command line names takes the place of the one that a config file names.
_recipe_of_command: ContextVar[str] = ContextVar("recipe_of_command", default="")


@dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      value: its value in base.py; it also says the type.
      meaning: what it does, with its unit.
      choices: the names that it may have, or "MODULE:TABLE": the keys of that table.  A tuple has names out of these.
      least, most, below: range of a number, or of each number of a tuple; below is not reached.
      how: it says only how or where something is computed, read or written.  It is no part of a run's identity.
      before: the value that runs had before the field was added.  A run that has it keeps its name.
    """

    value: Any
    meaning: str
    choices: tuple[str, ...] | str = ()
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    how: bool = False
    before: Any = NOT_ADDED_LATER

    def names(self) -> tuple[str, ...]:
        """Returns the choices; those of a table are looked up, which may import jax."""
        if isinstance(self.choices, tuple):
            return self.choices
        module, _, table = self.choices.partition(":")
        return tuple(getattr(importlib.import_module(module), table))

    def fault(self, value: Any) -> str:
        """Returns what is wrong with a value of the right type, to be read after "config.NAME=VALUE"; "" if nothing."""
        if self.choices:
            names = self.names()
            wrong = [name for name in (value if isinstance(value, tuple) else [value]) if name not in names]
            return f"does not exist; {nearest(wrong[0], names)}" if wrong else ""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not math.isfinite(number):
                return "is not a finite number"
            if number < self.least:
                return f"must be at least {self.least:g}"
            if number > self.most:
                return f"must be at most {self.most:g}"
            if number >= self.below:
                return f"must be below {self.below:g}"
        return ""


@cache
def declared() -> Mapping[str, Field]:
    """Returns the fields of configs/base.py by their dotted names."""
    fields: Mapping[str, Field] = importlib.import_module("normres.configs.base").FIELDS
    return fields


def build(fields: Mapping[str, Field], recipes: Recipes, recipe: str) -> ConfigDict:
    """Returns the config of the fields' values and, over them, those of a recipe.

    Raises:
      UserError: there is no such recipe, or it has a field that is not declared.
    """
    recipe = _recipe_of_command.get() or recipe or fields["recipe"].value
    if recipe not in recipes:
        raise UserError(f"config.recipe={recipe!r} does not exist; {nearest(recipe, recipes)}")
    values = {name: field.value for name, field in fields.items()}
    for name, value in recipes[recipe].items():
        if name not in values:
            raise UserError(f"recipe {recipe!r}: {name} is not a field; {nearest(name, values)}")
        values[name] = value
    config = ConfigDict()
    for name, value in {**values, "recipe": recipe}.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[key] = value
    config.lock()
    return config


@contextmanager
def recipe_of_command(recipe: str) -> Iterator[None]:
    """While a config file is read, replaces the recipe that it names; "" replaces none."""
    token = _recipe_of_command.set(recipe)
    try:
        yield
    finally:
        _recipe_of_command.reset(token)


def flatten(config: AnyConfig, prefix: str = "") -> dict[str, Any]:
    """Returns a config, or one that was read from JSON, by dotted names: {"model.depth": 20, ...}."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        nested = isinstance(value, ConfigDict | dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def identity(config: AnyConfig) -> dict[str, Any]:
    """Returns what makes a run the run that it is, as JSON has it.

    Left out are the fields that only say how or where, and those that were added later and have the value that runs
    had before.  So a run keeps its name when the program learns a new field.
    """
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in flatten(config).items()}
    for name, field in declared().items():
        before = list(field.before) if isinstance(field.before, tuple) else field.before
        if field.how or plain.get(name, before) == before:
            plain.pop(name, None)
    for name in GONE:
        plain.pop(name, None)
    return plain


def digest(config: AnyConfig) -> str:
    """Returns 8 hexadecimal digits that depend on the config's identity only, not on the order of its fields."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
