"""One cell: all contenders side by side, checked against each other and then timed in turns."""

import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normres.bench.norms import COPY_BYTES
from normres.bench.step import agreement, load, workers
from normres.bench.step.cells import Cell, arrays, work
from normres.bench.step.workers import Contender, Worker, WorkerFailed
from normres.errors import UserError

NEEDED = ("normres", "ceilings")  # without these nothing can be said
CEILINGS = "ceilings"
PREPARE_SECONDS = 900.0  # to build, compile and make the first steps
SAMPLE_SECONDS = 600.0  # that one sample may take
PAUSE_SECONDS = 0.1  # after a sample: threads of the last one may still be waiting for work, and take a core


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      repeats: samples of each contender.
      sample_seconds: a sample makes as many steps as fill this time, and at least one program's.
      matrix: rows of the square matrices whose product is the one ceiling; 0: 2048 on a CPU, 8192 elsewhere.
      copy_bytes: of the array whose copy is the other.
    """

    repeats: int
    sample_seconds: float = 1.0
    matrix: int = 0
    copy_bytes: int = COPY_BYTES


class _Field:
    """The workers of a cell; who fails is left out, with the reason, unless nothing goes without."""

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
        """Ends a worker; raises UserError if it is needed."""
        if name in NEEDED:
            raise UserError(f"{self.contenders[name].title} does not work here: {reason}")
        self.left_out[name] = str(reason)
        if worker := self.workers.pop(name, None):
            worker.close()

    def ask(self, name: str, call: str, seconds: float, **arguments: Any) -> dict[str, Any] | None:
        """Returns the answer, None if the worker failed."""
        try:
            answer = self.workers[name].ask(call, seconds, **arguments)
            if not math.isfinite(answer.get("loss", 0.0)):
                raise WorkerFailed("its loss is not finite after some steps")
            return answer
        except WorkerFailed as error:
            self.leave_out(name, error)
            return None


def measure(cell: Cell, contenders: Mapping[str, Contender], sizes: Sizes) -> dict[str, Any]:
    """Returns what was measured, as JSON: see run.run.

    Raises:
      UserError: two contenders do not compute the same, or normres does not run.
    """
    given, cost = arrays(cell), work(cell)
    before = {name.removeprefix("weights/"): array for name, array in given.items() if name.startswith("weights/")}
    # Who brings a norm of its own has the same step but for that: it says what the cell's norm costs.
    cells = {name: replace(cell, norm=contender.norm or cell.norm) for name, contender in contenders.items()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for of_norm in {cell, *cells.values()}:
            weights = given if of_norm == cell else arrays(of_norm)
            np.savez(folder / f"given_{of_norm.norm}.npz", allow_pickle=False, **weights)
        field = _Field(contenders, folder, stack)
        found: dict[str, dict[str, Any]] = {}
        outcomes: dict[str, agreement.Outcome] = {}
        for name in list(field.workers):
            found[name] = field.ask(name, "start", workers.START_SECONDS) or {}
        for name in list(field.workers):
            if name == CEILINGS:
                size = sizes.matrix or (2048 if jax.default_backend() == "cpu" else 8192)
                request: dict[str, Any] = {"dtype": cell.dtype, "size": size, "copy_bytes": sizes.copy_bytes}
            else:
                after = folder / f"{name}.npz"
                source = folder / f"given_{cells[name].norm}.npz"
                request = {"spec": cells[name].spec(), "source": str(source), "destination": str(after)}
            if (answer := field.ask(name, "prepare", PREPARE_SECONDS, **request)) and name != CEILINGS:
                found[name] |= answer
                if cells[name] != cell:
                    continue
                with np.load(after) as arrays_after:
                    state_dict = {key: arrays_after[key] for key in arrays_after.files}
                outcomes[field.contenders[name].title] = agreement.Outcome(tuple(answer["losses"]), state_dict)
        differences = agreement.check(cell.dtype, before, outcomes)
        processes = [worker.process.pid for worker in field.workers.values()]
        began = load.read(processes)
        programs = {name: answer.get("steps_per_program", 1) for name, answer in found.items()}
        samples = _samples(field, sizes, programs)
        others = load.share_of_others(began, load.read(processes))
        for name in list(field.workers):
            if name != CEILINGS:
                found[name] |= field.ask(name, "memory", workers.START_SECONDS) or {}
        ceilings = {kind: max(sample[kind] for sample in samples[CEILINGS]) for kind in samples[CEILINGS][0]}
    rows = {}
    for name in field.workers:
        if name != CEILINGS:
            title = field.contenders[name].title
            apart = {"differs_by": asdict(differences[title])} if title in differences else {}
            rows[name] = {
                "title": title,
                "step_seconds": [sample["seconds"] / sample["steps"] for sample in samples[name]],
                "last_loss": samples[name][-1]["loss"],
                **found[name],
                **apart,
            }
    return {
        **asdict(cell),
        "multiply_adds": cost.multiply_adds,
        "bytes": cost.bytes,
        "used_by_others": others,
        "ceilings": ceilings,
        "contenders": rows,
        "left_out": {field.contenders[name].title: reason for name, reason in field.left_out.items()},
    }


def _whole(steps: float, of: int) -> int:
    """Returns the number of steps, at least, that is a multiple of `of`."""
    return max(1, math.ceil(steps / of)) * of


def _samples(field: _Field, sizes: Sizes, programs: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Times the workers in turns, after a warm-up, from the first to the last and then from the last to the first.

    `programs` says how many steps each dispatches at once, as it does in training: a sample is of whole programs.
    """
    requests: dict[str, dict[str, int]] = {CEILINGS: {}}
    for name in list(field.workers):
        if name != CEILINGS and (warm := field.ask(name, "sample", SAMPLE_SECONDS, steps=1)):
            requests[name] = {"steps": _whole(sizes.sample_seconds / warm["seconds"], programs[name])}
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in field.workers}
    for repeat in range(sizes.repeats):
        for name in list(field.workers) if repeat % 2 == 0 else list(field.workers)[::-1]:
            if answer := field.ask(name, "sample", SAMPLE_SECONDS, **requests[name]):
                samples[name].append(answer | requests[name])
            time.sleep(PAUSE_SECONDS)
    return samples
