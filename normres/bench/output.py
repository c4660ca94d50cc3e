"""How the benchmarks print and write what they measured: tables, quartiles, JSON, and the machine's name."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normres.errors import UserError
from normres.runs.durable import read_json, write_json
from normres.runs.provenance import provenance

NOTHING = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1, markdown: bool = False) -> str:
    """Returns texts as a table for the terminal or, with `markdown`, for a page; numbers follow the text columns."""
    try:
        import tabulate
    except ImportError:  # a GPU's image may lack it
        return "\n".join("  ".join(row) for row in (header, *rows))
    if markdown:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    sides = ["left"] * text_columns + ["right"] * (len(header) - text_columns)
    style = "pipe" if markdown else "simple"
    return str(tabulate.tabulate(rows, header, tablefmt=style, colalign=sides, disable_numparse=True))


def text(value: float | None, form: str = ",.0f", unit: float = 1) -> str:
    """Returns a value in a unit as a text, and a dash for None."""
    return NOTHING if value is None else f"{value / unit:{form}}"


def in_turns(samplers: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Returns `repeats` samples of each, taken from the first to the last and then from the last to the first."""
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for repeat in range(repeats):
        for name in list(samplers)[:: -1 if repeat % 2 else 1]:
            samples[name].append(samplers[name]())
    return samples


def quartiles(times: Sequence[float], others: Sequence[float] | float = 1.0) -> list[float]:
    """Returns the quartiles of times, or of their ratios to `others`, pair by pair."""
    return [float(value) for value in np.percentile(np.divide(times, others), (25, 50, 75))]


def spread(values: Sequence[float], digits: int) -> str:
    """Returns quartiles as "median (lower–upper)"."""
    lower, middle, upper = (f"{value:,.{digits}f}" for value in values)
    return f"{middle} ({lower}–{upper})"


def write(file: Path | None, content: dict[str, Any]) -> None:
    """Writes the content to a JSON file, if there is one, with the versions, the commit and the host beside it."""
    if file:
        write_json(file, content | {"provenance": provenance()})


def read(file: Path, benchmark: str, keys: set[str]) -> dict[str, Any]:
    """Reads what a benchmark wrote, a JSON object with these keys; anything else is a UserError."""
    document = read_json(file)
    if not (isinstance(document, dict) and keys <= set(document)):
        raise UserError(f"{file}: no measurements of `normres bench {benchmark}`")
    return document


def digest(*folders: Path) -> str:
    """Returns a digest of the Python and C++ code below folders."""
    whole = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.rglob("*")):
        if file.suffix in (".py", ".cc", ".h"):
            whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def device_name() -> str:
    """Returns the accelerator's name, or the processor's."""
    device, host = jax.devices()[0], provenance()["host"]
    return f"{host['cpu']} ({host['cpu_count']} cores)" if device.platform == "cpu" else str(device.device_kind)
