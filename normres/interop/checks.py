"""Names and shapes: errors are one line that names the key and the nearest ones."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from normres.errors import nearest

FEW = 5  # names in one message: a model has hundreds


def check_names(names: Collection[str], allowed: Collection[str], needed: Iterable[str] = ()) -> None:
    """Raises ValueError if a needed name is missing or a name is not allowed."""
    choices, present = set(allowed), set(names)
    for name in needed:
        if name not in present:
            few, more = near(name, names)
            raise ValueError(f"{name!r} is missing; there are: {', '.join(map(repr, few)) or 'none'}{more}")
    for name in names:
        if name not in choices:
            few, more = near(name, allowed)
            raise ValueError(f"{name!r} is unexpected; {nearest(name, few or ['none'])}{more}")


def check_shapes(arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError if an array has another shape than `shapes` says."""
    for name, array in arrays.items():
        if np.shape(array) != shapes[name]:
            raise ValueError(f"{name!r} has shape {np.shape(array)}, expected {shapes[name]}")


def near(name: str, choices: Collection[str]) -> tuple[list[str], str]:
    """Returns the FEW choices that are nearest to a name, and ", ..." if there are more."""
    if len(choices) <= FEW:
        return list(choices), ""
    return difflib.get_close_matches(name, choices, n=FEW, cutoff=0), ", ..."
