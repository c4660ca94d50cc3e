"""What the fields of a config are.  Each is declared once, in configs/base.py, as plain data; nothing here needs jax.

A config is built in layers, of which a later one wins: the values of base.py, the recipe (what differs from them), the
config file's own lines, the command line.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError, nearest

NOT_ADDED_LATER = "every run has it"  # a value that no field can have
GONE = ("train.seeds_per_program",)  # of older runs; they said only how something was computed

KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
IN_TUPLES = {int: "integers, such as 100,200", float: "numbers, such as 0.3,0.1"}
LONGEST_TEXT = 4_096  # characters, as the longest path of Linux

AnyConfig = ConfigDict | Mapping[str, Any]  # or what was read from its JSON

# While a config file is read: the recipe of the command line, in place of the one that it names; "" replaces none.
recipe_of_command: ContextVar[str] = ContextVar("recipe_of_command", default="")


@dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      value: its value in base.py; it also says the type.
      meaning: what it does, with its unit.
      choices: the names that it may have, or "MODULE:TABLE": the keys of that table.  A tuple has names out of these.
      least, most, below: finite range of a number, or of each number of a tuple; below is not reached.
      longest: the most numbers of a tuple.
      how: it says only how, where or when something is computed, read, measured or written.  It is no part of a run's
        identity.
      before: the value that runs had before the field was added.  A run that has it keeps its name.
    """

    value: Any
    meaning: str
    choices: tuple[str, ...] | str = ()
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    longest: int = 0
    how: bool = False
    before: Any = NOT_ADDED_LATER

    @property
    def kind(self) -> type:
        """The type of the value, or of each item of a tuple."""
        if not isinstance(self.value, tuple):
            return type(self.value)
        return str if self.choices else float if any(isinstance(item, float) for item in self.value) else int

    def names(self) -> tuple[str, ...]:
        """Returns the choices; those of a table are looked up, which may import jax."""
        if isinstance(self.choices, tuple):
            return self.choices
        module, _, table = self.choices.partition(":")
        return tuple(getattr(importlib.import_module(module), table))

    def converted(self, value: Any) -> Any:
        """Returns a value, or a text that stands for one, in the field's type; raises ValueError if there is none.

        A tuple of names has each once; other values are as they are, see `fault`.
        """
        if not isinstance(self.value, tuple):
            return _converted(self.kind, value)
        if isinstance(value, str):
            inside = value.strip("()[] ").removesuffix(",")
            value = [part.strip(" '\"") for part in inside.split(",")] if inside else ()
        elif self.kind is not str and not isinstance(value, tuple | list):
            value = (value,)
        items = tuple(_converted(self.kind, item) for item in value)
        return tuple(dict.fromkeys(items)) if self.choices else items

    def fault(self, value: Any) -> str:
        """Returns what is wrong with a value of the right type, to be read after "config.NAME=VALUE"; "" if nothing."""
        if self.choices:
            names = self.names()
            wrong = [name for name in (value if isinstance(value, tuple) else [value]) if name not in names]
            return f"does not exist; {nearest(wrong[0], names)}" if wrong else ""
        if isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                return f"must have at most {LONGEST_TEXT:,} characters"
            return "" if value.isprintable() else "has a character that cannot be printed"
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(numbers) > self.longest:
            return f"must have at most {self.longest:,} numbers"
        least = f"at least {_number(self.least)}"
        most = f"below {_number(self.below)}" if self.below < math.inf else f"at most {_number(self.most)}"
        for number in numbers:
            if math.isnan(number):
                return f"is no number; it must be {least} and {most}"
            if number < self.least:
                return f"must be {least}"
            if number > self.most or number >= self.below:
                return f"must be {most}"
        return ""


def _converted(kind: type, value: Any) -> Any:
    """Returns a single value, or a text that stands for one, in a type; raises ValueError if there is none."""
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is int and not isinstance(value, bool | float):
        return int(str(value).replace("_", ""))
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    raise ValueError


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def typed(name: str, value: Any) -> Any:
    """Returns a field's value, or a command line's text that stands for one, in the field's type.

    Raises:
      UserError: there is none.
    """
    field = declared()[name]
    try:
        return field.converted(value)
    except (ValueError, TypeError, AttributeError):
        if field.choices:
            text = shown(value)
            raise UserError(f"config.{name}={text} does not exist; {nearest(text, field.names())}") from None
        kinds = IN_TUPLES if isinstance(field.value, tuple) else KINDS
        raise UserError(f"config.{name}={shown(value)} is not {kinds[field.kind]}") from None


def shown(value: Any) -> str:
    """Returns a value as a message shows it: on one line, cut if it is long."""
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # it holds an integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:100]}..."


@cache
def declared() -> Mapping[str, Field]:
    """Returns the fields of configs/base.py by their dotted names."""
    fields: Mapping[str, Field] = importlib.import_module("normres.configs.base").FIELDS
    return fields


def before() -> dict[str, Any]:
    """Returns the value that runs had before a field was added, by the names of the fields that were added later."""
    return {name: field.before for name, field in declared().items() if field.before != NOT_ADDED_LATER}


def build(fields: Mapping[str, Field], recipes: Mapping[str, Mapping[str, Any]], recipe: str) -> ConfigDict:
    """Returns the config of the fields' values and, over them, those of a recipe.

    Raises:
      UserError: there is no such recipe, or it has a field that is not declared.
    """
    recipe = recipe_of_command.get() or recipe or fields["recipe"].value
    if recipe not in recipes:
        raise UserError(f"config.recipe={recipe!r} does not exist; {nearest(recipe, recipes)}")
    values = {name: field.value for name, field in fields.items()}
    if unknown := next((name for name in recipes[recipe] if name not in values), None):
        raise UserError(f"recipe {recipe!r}: {unknown} is not a field; {nearest(unknown, values)}")
    sections: dict[str, Any] = {}
    for name, value in {**values, **recipes[recipe], "recipe": recipe}.items():
        section, _, key = name.rpartition(".")
        (sections.setdefault(section, {}) if section else sections)[key] = value
    config = ConfigDict(sections)
    config.lock()
    return config


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
    return {name: value for name, value in plain.items() if name not in GONE}


def digest(config: AnyConfig) -> str:
    """Returns 8 hexadecimal digits that depend on the config's identity only, not on the order of its fields."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
