"""Cells, one after another: all contenders side by side, checked against each other and then timed in turns."""

import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import normres
from normres.bench import output
from normres.bench.step import agreement, workers
from normres.bench.step.cells import Cell, arrays
from normres.bench.step.workers import Contender, Worker
from normres.errors import UserError
from normres.runs.durable import write_json
from normres.runs.provenance import provenance

HEADER = """\
One training step of a CIFAR ResNet: forward, backward, SGD with momentum and weight decay.  Every contender has a
process of its own and its own flags.  Losses, gradients, updates and running statistics are compared, then all are
timed in turns.  normres reads its batch from uint8 images; the others have theirs ready-made in float32.
  step          median of {repeats} samples of {sample_seconds:g} s (or one program) after a warm-up (quartiles)
  normres / it  time of normres over this one's, pair by pair: median (quartiles); below 1 normres is faster
  compile       seconds until the first step is done, less those of a step
  memory        most memory of the process (of the accelerator, where there is one), imports and compiler included
on {device}"""

WRITTEN = ("step", {"cells", "conditions"})  # see output.read
COLUMNS = ("contender", "step (ms)", "normres / it", "images/s", "compile (s)", "memory (MB)")
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
        running, answers, left_out = dict[str, Worker](), dict[str, dict[str, Any]](), dict[str, str]()
        for name, contender in contenders.items():
            worker = stack.enter_context(Worker(contender, folder / f"{name}.log"))
            try:
                answers[name] = worker.ask("prepare", spec=cell.spec(), **files)
            except UserError as error:
                if not running:
                    raise
                left_out[name] = str(error)
                continue
            running[name] = worker
            with np.load(files["destination"]) as after:
                answers[name]["after"] = dict(after)
        yield running, answers, left_out


def measure(cell: Cell, contenders: Mapping[str, Contender], repeats: int) -> dict[str, Any]:
    """Returns what was measured, as JSON: see measure_all.  A contender that does not run here is left out.

    Raises:
      UserError: two contenders do not compute the same, or the first, normres, does not run.
    """
    weights = {key.removeprefix("weights/"): array for key, array in arrays(cell).items() if key.startswith("weights/")}
    with prepared(cell, contenders) as (running, rows, left_out):
        outcomes = {name: agreement.Outcome(row["losses"], row.pop("after")) for name, row in rows.items()}
        for name, difference in agreement.check(cell.dtype, weights, outcomes).items():
            rows[name]["differs_by"] = difference
        for name, samples in take_samples(running, repeats, rows).items():
            rows[name] |= {"title": running[name].title, "step_seconds": samples} | running[name].ask("memory")
    return {**cell._asdict(), "contenders": rows, "left_out": left_out}


def take_samples(
    running: Mapping[str, Worker], repeats: int, rows: Mapping[str, Mapping[str, Any]]
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
    for name, worker in running.items():
        most = rows[name]["steps_per_program"]
        programs = max(1, math.ceil(SAMPLE_SECONDS / worker.ask("sample", steps=1)["seconds"] / most))
        samplers[name] = partial(sample, worker, most * programs)
    return output.in_turns(samplers, repeats)


def measure_all(
    cells: Sequence[Cell],
    names: Sequence[str],
    repeats: int,
    torch: str | None = None,
    before: Path | None = None,
    json: Path | None = None,
    until: float = math.inf,
) -> dict[str, Any]:
    """Measures every cell, `repeats` samples of each contender, and prints each when it is done.

    Returns "conditions", which must be equal for measurements to stand in one table, "provenance" and "cells", which
    are what `measure` returns.

    Args:
      cells: all of one batch size and width.
      names, torch, before: see workers.contenders.
      json: a file that gets each cell when it is done; the cells in it are kept if their conditions are the same.
      until: after this time.monotonic() no other cell than the first is begun.
    """
    contenders, version = workers.contenders(names, torch, before)
    if version == workers.ABSENT:
        print("no PyTorch here: its rows are left out; --torch=PYTHON names a Python that has it", flush=True)
    origin, git = provenance(), ["git", "-C", str(before), "rev-parse", "HEAD"]
    conditions = {
        "code": output.digest(Path(normres.__file__).parent, *([before / "normres"] if before else [])),
        "before_commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() if before else "",
        "device": output.device_name(),
        "versions": {**origin["versions"], "torch": version},
        "host": origin["host"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "contenders": list(contenders),
        "repeats": repeats,
        "sample_seconds": SAMPLE_SECONDS,
        "batch": cells[0].batch,
        "width": cells[0].width,
    }
    document: dict[str, Any] = {"conditions": conditions, "provenance": origin, "cells": []}
    if json and json.is_file() and (earlier := output.read(json, *WRITTEN))["conditions"] == conditions:
        document = earlier
        print(f"{json}: kept {len(earlier['cells'])} cells, which were measured under the same conditions", flush=True)
    print(HEADER.format(**conditions), flush=True)
    for cell in cells:
        if cell != cells[0] and time.monotonic() > until:
            break
        measured = next((each for each in document["cells"] if cell._asdict().items() <= each.items()), None)
        if measured is None:
            measured = measure(cell, contenders, repeats)
            document["cells"].append(measured)
            if json:
                write_json(json, document)
        print(f"\n{text_of_cell(measured)}", flush=True)
    return document


def texts(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row of texts for each contender of a cell, see COLUMNS."""
    ours, lines = cell["contenders"]["normres"]["step_seconds"], list[tuple[str, ...]]()
    for name, contender in cell["contenders"].items():
        times = contender["step_seconds"]
        low, seconds, high = output.quartiles(times)
        ratio = output.NOTHING if name == "normres" else output.spread(output.quartiles(ours, times), 2)
        step = output.spread([1e3 * low, 1e3 * seconds, 1e3 * high], 0 if seconds > 0.1 else 1)
        compiling = max(0.0, contender["seconds_to_first_step"] - seconds)
        sizes = (f"{cell['batch'] / seconds:,.0f}", f"{compiling:.1f}", f"{contender['peak_bytes'] / 1e6:,.0f}")
        lines.append((contender["title"], step, ratio, *sizes))
    return lines


def text(document: dict[str, Any]) -> str:
    """Returns all cells for the terminal."""
    return "\n\n".join(map(text_of_cell, document["cells"]))


def text_of_cell(cell: dict[str, Any]) -> str:
    """Returns one cell for the terminal."""
    title = "ResNet-{depth}, {dtype}, {norm} norm, batch {batch}, width {width}".format(**cell)
    angles = [one["differs_by"]["angle"] for one in cell["contenders"].values() if "differs_by" in one]
    agreed = f"; gradients agree, 1 - cosine is at most {max(angles):.0e}" if angles else ""
    return "\n".join([f"{title}{agreed}", output.table(COLUMNS, texts(cell)), *cell["left_out"].values()])


def markdown(document: dict[str, Any]) -> str:
    """Returns all cells as one Markdown table, with the conditions above it."""
    conditions, origin, cells = document["conditions"], document["provenance"], document["cells"]
    changed = " with uncommitted changes" if origin.get("diff") else ""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    before = f" Before is commit {conditions['before_commit'][:12]}." if conditions.get("before_commit") else ""
    caption = (
        f"Batch {conditions['batch']}, width {conditions['width']}, on {conditions['device']}; {versions}; "
        f"measured on {origin['started'][:10]} at commit {(origin['commit'] or 'unknown')[:12]}{changed}."
        f"{before} Medians of {conditions['repeats']} samples (lower–upper quartile)."
    )
    lines = [(f"ResNet-{cell['depth']}", cell["norm"], cell["dtype"], *row) for cell in cells for row in texts(cell)]
    header = ("network", "norm", "dtype", *COLUMNS)
    return f"{caption}\n\n{output.table(header, lines, text_columns=4, markdown=True)}\n"
