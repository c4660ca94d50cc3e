"""The whole benchmark: cells one after another, written when done; and showing what was written."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax

import normres
from normres.bench.contenders import find_torch
from normres.bench.norms import device_name
from normres.bench.step import chart, table, workers
from normres.bench.step.cells import Cell
from normres.bench.step.measure import CEILINGS, Sizes, measure
from normres.bench.step.workers import Contender
from normres.errors import UserError
from normres.report import style
from normres.report.files import write_file
from normres.runs import results


def contenders(
    names: Sequence[str], torch: str | None, needs_torch: bool, before: Path | None = None
) -> tuple[dict[str, Contender], str]:
    """Returns how the named contenders, normres and the ceilings are started, and PyTorch's version.

    Args:
      names: of workers.contenders.
      torch: a Python that imports torch; None: this one, if it does.
      needs_torch: whether it is an error if there is none.
      before: a checkout of another commit of normres, which then takes part.

    Raises:
      UserError: there is no PyTorch and there must be, or the given Python does not import it.  Where there need be
        none, a line is printed.
    """
    wants = any(name.startswith("torch") for name in names)
    python, version = (find_torch(torch) if wants else None) or (None, "absent")
    if wants and python is None:
        message = "no PyTorch here; --torch=PYTHON names a Python that has it"
        if needs_torch:
            raise UserError(f"--contenders={','.join(names)}: {message}")
        print(f"{message}; its columns are left out", flush=True)
    known = workers.contenders(python, jax.default_backend(), before)
    return {
        name: contender for name, contender in known.items() if name in {"normres", "before", CEILINGS, *names}
    }, version


def conditions(
    names: Sequence[str],
    torch: str,
    sizes: Sizes,
    cells: Sequence[Cell],
    everywhere: bool,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Returns what must be equal for measurements to stand in one table."""
    root = Path(normres.__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.cc"), *root.rglob("*.h")]):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return {
        "code": digest.hexdigest()[:16],
        "device": device_name(),
        "versions": {**provenance["versions"], "torch": torch},
        "host": provenance["host"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "contenders": [name for name in names if name != CEILINGS],
        "compiled_everywhere": everywhere,
        "batch": cells[0].batch,
        "width": cells[0].width,
        **asdict(sizes),
    }


def measure_all(
    cells: Sequence[Cell],
    chosen: Mapping[str, Contender],
    torch: str,
    sizes: Sizes,
    json: Path | None,
    everywhere: bool = True,
) -> dict[str, Any]:
    """Measures every cell, prints each when it is done, and writes all that is done to `json`.

    Args:
      cells: of one batch and width.
      chosen: the contenders.
      torch: PyTorch's version.
      sizes: how much is measured.
      json: a file, whose cells are kept if they were measured under the same conditions.
      everywhere: whether torch.compile, which takes minutes, is in all cells, or in the first depth's batch norm only.

    Returns:
      {"conditions", "provenance", "cells": what measure.measure returns}.
    """
    provenance = results.provenance()
    document: dict[str, Any] = {
        "conditions": conditions(list(chosen), torch, sizes, cells, everywhere, provenance),
        "provenance": provenance,
        "cells": [],
    }
    if json and json.is_file() and (held := read(json))["conditions"] == document["conditions"]:
        document = held
        print(f"{json}: kept {len(held['cells'])} cells, which were measured under the same conditions", flush=True)
    print(table.HEADER.format(repeats=sizes.repeats, seconds=sizes.sample_seconds))
    print(f"on {document['conditions']['device']}, JAX {jax.__version__}", flush=True)
    done = {_key(cell): cell for cell in document["cells"]}
    for number, cell in enumerate(cells, start=1):
        began = time.perf_counter()
        found = done.get(_key(asdict(cell)))
        if found is None:
            # torch.compile takes minutes, and batch norm need not be compared with itself.
            spared = {"normres-batch"} if cell.norm == "batch" else set[str]()
            if not everywhere and (cell.norm, cell.depth) != ("batch", cells[0].depth):
                spared.add("torch-compile")
            found = measure(cell, {name: each for name, each in chosen.items() if name not in spared}, sizes)
            document["cells"].append(found)
            if json:
                results.write_json(json, document)
        took = f"cell {number} of {len(cells)}, {time.perf_counter() - began:.0f} s"
        print(f"\n{table.text(found)}\n{took}", flush=True)
    return document


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[field.name] for field in fields(Cell))


def read(file: Path) -> dict[str, Any]:
    """Reads what measure_all wrote.

    Raises:
      UserError: it is something else.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    document = results.read_json(file)
    if not (isinstance(document, dict) and document.get("cells") and "conditions" in document):
        raise UserError(f"{file}: no measurements of `normres bench step`")
    return document


def show(document: dict[str, Any], figure: Path | None, page: Path | None, printed: bool = False) -> None:
    """Prints the cells, unless that is done, and draws and writes what is asked for."""
    if not printed:
        print("\n\n".join(table.text(cell) for cell in document["cells"]))
    if figure:
        for path in style.save(chart.draw(document), figure.with_suffix("")):
            print(path)
    if page:
        write_file(page, table.put_between_markers(page.read_text(), document, str(page)))
        print(page)
