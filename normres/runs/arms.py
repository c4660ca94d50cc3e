"""The arms of a sweep on this machine's devices, one after the other or several in one program."""

import threading
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from normres.data import Dataset
from normres.errors import InterruptedRun, UserError
from normres.runs import results
from normres.runs.local import Begun, begin, load_data, train_together
from normres.runs.sweep import Arm
from normres.training.programs import shape_of


def run_sweep(arms: list[Arm], workdir: Path, stop: threading.Event, console: Console) -> int:
    """Runs the arms one after the other and returns the exit status.

    An arm that fails for a reason of its own leaves its traceback in its directory, as do those that train in one
    program with it and are not done, and the sweep goes on; the status is then 1.  An arm that another process is
    training is left to it.
    """
    failed: list[str] = []
    busy: list[str] = []
    loaded: dict[str, Dataset] = {}
    for arms_of_program in programs_of(arms):
        labelled = [(f"[{arms.index(arm) + 1}/{len(arms)}] {arm.label}", arm) for arm in arms_of_program]
        config = arms_of_program[0].config
        key = repr(config.data)
        try:
            if key not in loaded:
                loaded = {key: load_data(config)}
            busy += run_together(labelled, workdir, stop, console, loaded[key])
        except (UserError, InterruptedRun, OSError):
            # What would stop every other arm too, or was asked for.
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            for label, arm in labelled:
                path = workdir / arm.run_id
                run = results.read_run(path)
                if run and run.record["status"] in results.DONE:
                    continue  # it was done before another in its program failed
                failed.append(arm.run_id)
                (path / "error.txt").write_text(traceback.format_exc())
                console.print(f"{label}: failed: {reason}; see {path / 'error.txt'}", markup=False, soft_wrap=True)
    done = len(arms) - len(failed) - len(busy)
    print(f"{done} of {len(arms)} arms done, {len(failed)} failed, {len(busy)} with another process: {workdir}")
    return 1 if failed else 0


def run_together(
    arms: list[tuple[str, Arm]], workdir: Path, stop: threading.Event, console: Console, dataset: Dataset
) -> list[str]:
    """Trains arms of one shape, with their labels, in one program, each in its own directory as `run` would.

    Those that are done are left as they are; one that cannot train with the others, because it goes on from another
    step, trains after them.  Returns the arms that other processes are training.

    Raises:
      InterruptedRun: told to stop; every arm is saved.
    """
    busy: list[str] = []
    begun: list[tuple[str, Begun]] = []
    with ExitStack() as locks:
        for label, arm in arms:
            path = workdir / arm.run_id
            try:
                locks.enter_context(results.locked(path))
            except results.Busy:
                busy.append(arm.run_id)
                console.print(f"{label}: another process is training this arm", markup=False, highlight=False)
                continue
            found = begin(arm.config, path, dataset, begun[0][1].programs if begun else None)
            if isinstance(found, Begun):
                begun.append((label, found))
        while begun:
            first = begun[0][1]
            together = [
                each for each in begun if each[1].start == first.start and each[1].programs.trains_like(first.programs)
            ]
            begun = [each for each in begun if each not in together]
            train_together(together, stop, console)
    return busy


def programs_of(arms: list[Arm]) -> list[list[Arm]]:
    """Returns the arms by the program that trains them: up to train.seeds_per_program of one shape, in their order."""
    programs: list[list[Arm]] = []
    filling: dict[Any, list[Arm]] = {}
    for arm in arms:
        shape = shape_of(arm.config)
        if shape not in filling or len(filling[shape]) == arm.config.train.seeds_per_program:
            filling[shape] = []
            programs.append(filling[shape])
        filling[shape].append(arm)
    return programs
