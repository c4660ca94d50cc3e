"""Cells, one after another: all contenders side by side, checked against each other and then timed in turns."""

import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import normres
from normres.bench import output
from normres.bench.step import agreement, show
from normres.bench.step.cells import Cell, arrays
from normres.bench.step.workers import Contender, Worker
from normres.errors import UserError
from normres.runs.durable import write_json
from normres.runs.provenance import provenance

SAMPLE_SECONDS = 1.0  # that the steps of a sample fill, and at least one program
PAUSE_SECONDS = 0.1  # after a sample: threads of the last one may still be waiting for work, and take a core


@contextmanager
def prepared(
    cell: Cell, contenders: Mapping[str, Contender]
) -> Iterator[tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]]:
    """Yields a worker of each contender that runs here, its answer to "prepare", and why the others do not.

    Each answer has also "after", the state dict after the first step.  It is a UserError if none runs.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(folder / "before.npz", allow_pickle=False, **arrays(cell))
        files = {"source": str(folder / "before.npz"), "destination": str(folder / "after.npz")}
        workers, answers, left_out = dict[str, Worker](), dict[str, dict[str, Any]](), dict[str, str]()
        for number, (name, contender) in enumerate(contenders.items()):
            own = folder / str(number)
            own.mkdir()
            worker = stack.enter_context(Worker(contender, own))
            try:
                answers[name] = worker.ask("prepare", spec=cell.spec(), **files)
            except UserError as error:
                if not workers:
                    raise
                left_out[name] = str(error)
                continue
            workers[name] = worker
            with np.load(files["destination"]) as after:
                answers[name]["after"] = dict(after)
        yield workers, answers, left_out


def measure(cell: Cell, contenders: Mapping[str, Contender], repeats: int) -> dict[str, Any]:
    """Returns what was measured, as JSON: see measure_all.  A contender that does not run here is left out.

    Raises:
      UserError: two contenders do not compute the same, or the first, normres, does not run.
    """
    weights = {key.removeprefix("weights/"): array for key, array in arrays(cell).items() if key.startswith("weights/")}
    with prepared(cell, contenders) as (workers, rows, left_out):
        outcomes = {name: agreement.Outcome(row["losses"], row.pop("after")) for name, row in rows.items()}
        for name, difference in agreement.check(cell.dtype, weights, outcomes).items():
            rows[name]["differs_by"] = difference
        for name, samples in take_samples(workers, repeats, rows).items():
            rows[name] |= {"title": workers[name].title, "step_seconds": samples} | workers[name].ask("memory")
    return {**asdict(cell), "contenders": rows, "left_out": left_out}


def take_samples(
    workers: Mapping[str, Worker], repeats: int, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Times the workers in turns after a warm-up, and returns the seconds of a step, sample by sample.

    A sample is of whole programs, which have rows[name]["steps_per_program"] steps, as in training.
    """

    def sample(worker: Worker, steps: int) -> float:
        answer = worker.ask("sample", steps=steps)
        if not math.isfinite(answer["loss"]):
            raise UserError(f"{worker.title}: its loss is not finite after some steps")
        time.sleep(PAUSE_SECONDS)
        return float(answer["seconds"]) / steps

    samplers = {}
    for name, worker in workers.items():
        most = rows[name]["steps_per_program"]
        programs = max(1, math.ceil(SAMPLE_SECONDS / worker.ask("sample", steps=1)["seconds"] / most))
        samplers[name] = partial(sample, worker, most * programs)
    return output.in_turns(samplers, repeats)


def conditions(
    sizes: Mapping[str, int], names: Iterable[str], torch: str, repeats: int, before: Path | None = None
) -> dict[str, Any]:
    """Returns what must be equal for measurements to stand in one table; `sizes` are batch and width."""
    origin = provenance()
    git = ["git", "-C", str(before), "rev-parse", "HEAD"]
    return {
        "code": output.digest(Path(normres.__file__).parent, *([before / "normres"] if before else [])),
        "before_commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() if before else "",
        "device": output.device_name(),
        "versions": {**origin["versions"], "torch": torch},
        "host": origin["host"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "contenders": list(names),
        "repeats": repeats,
        "sample_seconds": SAMPLE_SECONDS,
        **sizes,
    }


def measure_all(
    cells: Iterable[Cell],
    contenders: Mapping[str, Contender],
    conditions: dict[str, Any],
    json: Path | None = None,
) -> dict[str, Any]:
    """Measures every cell, conditions["repeats"] samples of each contender, prints each when it is done, returns all.

    The file `json` gets each cell when it is done; the cells in it are kept if their conditions are the same.
    Returned are "conditions", "provenance" and "cells", which are what `measure` returns.
    """
    document: dict[str, Any] = {"conditions": conditions, "provenance": provenance(), "cells": []}
    if json and json.is_file() and (earlier := output.read(json, *show.WRITTEN))["conditions"] == conditions:
        document = earlier
        print(f"{json}: kept {len(earlier['cells'])} cells, which were measured under the same conditions", flush=True)
    print(show.HEADER.format(**conditions), flush=True)
    for cell in cells:
        measured = next((each for each in document["cells"] if asdict(cell).items() <= each.items()), None)
        if measured is None:
            measured = measure(cell, contenders, conditions["repeats"])
            document["cells"].append(measured)
            if json:
                write_json(json, document)
        print(f"\n{show.text_of_cell(measured)}", flush=True)
    return document
