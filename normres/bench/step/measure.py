"""Cells, one after another: all contenders side by side, checked against each other and then timed in turns."""

import hashlib
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import normres
from normres.bench import output
from normres.bench.step import agreement, table, workers
from normres.bench.step.cells import Cell, arrays
from normres.bench.step.workers import Contender, Worker, WorkerFailed
from normres.errors import UserError
from normres.runs import results

START_SECONDS = 120.0  # to import everything
PREPARE_SECONDS = 900.0  # to build, compile and make the first steps
SAMPLE_SECONDS = 600.0  # that one sample may take
PAUSE_SECONDS = 0.1  # after a sample: threads of the last one may still be waiting for work, and take a core


class Sizes(NamedTuple):
    """How much is measured: samples of each contender, and how long the steps of a sample take, at least a program."""

    repeats: int
    sample_seconds: float = 1.0


class Field:
    """The workers of a cell; one that fails is left out, with the reason, unless it is normres."""

    def __init__(self, contenders: Mapping[str, Contender], folder: Path, stack: ExitStack):
        self.contenders = contenders
        self.left_out: dict[str, str] = {}
        self.workers: dict[str, Worker] = {}
        for name, contender in contenders.items():
            try:
                self.workers[name] = stack.enter_context(workers.started(contender, folder))
            except WorkerFailed as error:
                self.leave_out(name, error)

    def leave_out(self, name: str, reason: WorkerFailed) -> None:
        """Ends a worker; raises UserError if it is normres."""
        title = self.contenders[name].title
        if name == "normres":
            raise UserError(f"{title} does not work here: {reason}")
        self.left_out[title] = str(reason)
        if worker := self.workers.pop(name, None):
            worker.close()

    def ask(self, name: str, call: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Returns the answer, empty if the worker failed."""
        try:
            answer = self.workers[name].ask(call, seconds, **arguments)
            if not math.isfinite(answer.get("loss", 0.0)):
                raise WorkerFailed("its loss is not finite after some steps")
            return answer
        except WorkerFailed as error:
            self.leave_out(name, error)
            return {}

    def ask_all(
        self, call: str, seconds: float, arguments: Callable[[str], dict[str, Any]] = lambda name: {}
    ) -> dict[str, dict[str, Any]]:
        """Asks one worker after another and returns their answers by name."""
        return {name: self.ask(name, call, seconds, **arguments(name)) for name in list(self.workers)}


def measure(cell: Cell, contenders: Mapping[str, Contender], sizes: Sizes) -> dict[str, Any]:
    """Returns what was measured, as JSON: see measure_all.

    Raises:
      UserError: two contenders do not compute the same, or normres does not run.
    """
    # A contender with a norm of its own makes the same step but for that: it says what the cell's norm costs.
    cells = {name: replace(cell, norm=contender.norm or cell.norm) for name, contender in contenders.items()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for each in {*cells.values()}:
            np.savez(folder / f"{each.norm}.npz", allow_pickle=False, **arrays(each))
        field = Field(contenders, folder, stack)

        def files(name: str) -> dict[str, Any]:
            source, destination = folder / f"{cells[name].norm}.npz", folder / f"after_{name}.npz"
            return {"spec": cells[name].spec(), "source": str(source), "destination": str(destination)}

        answers = [field.ask_all("start", START_SECONDS), field.ask_all("prepare", PREPARE_SECONDS, files)]
        same = [name for name in field.workers if cells[name] == cell]
        outcomes = {
            name: agreement.Outcome(tuple(answers[1][name]["losses"]), _load(folder / f"after_{name}.npz"))
            for name in same
        }
        weights = {key.removeprefix("weights/"): a for key, a in arrays(cell).items() if key.startswith("weights/")}
        titled = {contenders[name].title: outcome for name, outcome in outcomes.items()}
        differences = agreement.check(cell.dtype, weights, titled)
        processes = [worker.process.pid for worker in field.workers.values()]
        began = processor_ticks(processes)
        samples = take_samples(field, sizes, {name: answers[1][name]["steps_per_program"] for name in field.workers})
        others = share_of_others(began, processor_ticks(processes))
        answers.append(field.ask_all("memory", START_SECONDS))
    rows: dict[str, Any] = {}
    for name in field.workers:
        title = contenders[name].title
        seconds = [sample["seconds"] / sample["steps"] for sample in samples[name]]
        rows[name] = {"title": title, "step_seconds": seconds, "last_loss": samples[name][-1]["loss"]}
        for answer in answers:
            rows[name] |= answer[name]
        if title in differences:
            rows[name]["differs_by"] = differences[title]
    return {**asdict(cell), "used_by_others": others, "contenders": rows, "left_out": field.left_out}


def _load(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def take_samples(field: Field, sizes: Sizes, programs: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Times the workers in turns, after a warm-up, from the first to the last and then from the last to the first.

    `programs` says how many steps each dispatches at once, as it does in training: a sample is of whole programs.
    """
    steps = {}
    for name, warm in field.ask_all("sample", SAMPLE_SECONDS, lambda name: {"steps": 1}).items():
        if warm:
            wanted = sizes.sample_seconds / warm["seconds"]
            steps[name] = max(1, math.ceil(wanted / programs[name])) * programs[name]
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in field.workers}
    for repeat in range(sizes.repeats):
        for name in list(field.workers)[:: -1 if repeat % 2 else 1]:
            samples[name].append(field.ask(name, "sample", SAMPLE_SECONDS, steps=steps[name]) | {"steps": steps[name]})
            time.sleep(PAUSE_SECONDS)
    return samples


def processor_ticks(processes: Iterable[int]) -> tuple[int, int, int]:
    """Returns the clock ticks of all processors so far, those at work, and those that some processes and this one took.

    Read from Linux's /proc; elsewhere, zeros.
    """
    try:
        # user, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen by a virtual machine's host
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0, 0
    own = 0
    for process in (*processes, os.getpid()):
        stat = Path(f"/proc/{process}/stat")
        if stat.exists():
            own += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))  # in user and in system mode
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4], own


def share_of_others(before: tuple[int, int, int], after: tuple[int, int, int]) -> float:
    """Returns the share of the processors' time between two readings of processor_ticks that other programs took."""
    total, busy, own = (late - early for early, late in zip(before, after, strict=True))
    return max(0.0, (busy - own) / total) if total else 0.0


def conditions(
    cells: Sequence[Cell], names: Iterable[str], torch: str, sizes: Sizes, before: Path | None
) -> dict[str, Any]:
    """Returns what must be equal for measurements to stand in one table."""
    provenance = results.provenance()
    commit = ["git", "-C", str(before), "rev-parse", "HEAD"]
    return {
        "code": _digest(Path(normres.__file__).parent),
        "device": output.device_name(),
        "versions": {**provenance["versions"], "torch": torch},
        "host": provenance["host"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "contenders": list(names),
        "before": before
        and {
            "code": _digest(before / "normres"),
            "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        },
        "batch": cells[0].batch,
        "width": cells[0].width,
        **sizes._asdict(),
    }


def _digest(root: Path) -> str:
    """Returns a digest of a package's Python and C++ code."""
    digest = hashlib.sha256()
    for file in sorted(file for file in root.rglob("*") if file.suffix in (".py", ".cc", ".h")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def measure_all(
    cells: Sequence[Cell],
    contenders: Mapping[str, Contender],
    torch: str,
    sizes: Sizes,
    json: Path | None,
    before: Path | None = None,
) -> dict[str, Any]:
    """Measures every cell, prints each when it is done, and writes all that is done to `json`.

    Args:
      cells: of one batch and width.
      contenders: who takes part.
      torch: PyTorch's version.
      sizes: how much is measured.
      json: a file, whose cells are kept if they were measured under the same conditions.
      before: the checkout of the contender of that name.

    Returns:
      {"conditions", "provenance", "cells": what measure returns}.
    """
    document: dict[str, Any] = {
        "conditions": conditions(cells, contenders, torch, sizes, before),
        "provenance": results.provenance(),
        "cells": [],
    }
    if json and json.is_file() and (earlier := read(json))["conditions"] == document["conditions"]:
        document = earlier
        print(f"{json}: kept {len(earlier['cells'])} cells, which were measured under the same conditions", flush=True)
    print(table.HEADER.format(**sizes._asdict()))
    print(f"on {document['conditions']['device']}", flush=True)
    done = {tuple(cell[key] for key in asdict(cells[0])): cell for cell in document["cells"]}
    for number, cell in enumerate(cells, start=1):
        began = time.perf_counter()
        measured = done.get(tuple(asdict(cell).values()))
        if measured is None:
            # Batch norm need not be compared with itself.
            taking_part = {name: each for name, each in contenders.items() if each.norm != cell.norm}
            measured = measure(cell, taking_part, sizes)
            document["cells"].append(measured)
            if json:
                results.write_json(json, document)
        took = f"cell {number} of {len(cells)}, {time.perf_counter() - began:.0f} s"
        print(f"\n{table.text(measured)}\n{took}", flush=True)
    return document


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
