"""The arms of a sweep as a queue in its work directory, which any number of workers share and nobody coordinates.

A worker takes the next arm that is neither done nor claimed (claims.py).  It ends when every arm is done or set aside,
and until then waits for those that others train, as a worker may die.  On one machine, `start_workers` starts several.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import IO

from rich.console import Console

from normres import signals
from normres.data import Dataset
from normres.errors import FaultInFile, InterruptedRun, UserError
from normres.runs import claims, machine, progress, results
from normres.runs.local import load_data, run
from normres.runs.progress import say
from normres.runs.provenance import now
from normres.runs.sweep import Arm

ALL_DONE, SET_ASIDE, LEFT = 0, 1, 3  # exit statuses; LEFT: arms were left to other workers
WAIT_SECONDS = 2.0  # between looks at arms that others train
RETRY_SECONDS = 5.0  # before a failed arm is tried again, twice as long each time
SINCE = "NORMRES_SWEEP_SINCE"  # for workers: when their sweep began
RESTARTS = 3  # of a worker that dies


@dataclass
class Worker:
    """Works off the arms of a sweep in `workdir`.

    Attributes:
      retries: how often an arm that failed is tried again before it is set aside.
      wait: for the arms that others train.
      dead_seconds: after which a worker that gives no sign is taken for dead.
    """

    arms: Sequence[Arm]
    workdir: Path
    console: Console
    retries: int = 2
    wait: bool = True
    dead_seconds: float = claims.DEAD_SECONDS
    _loaded: dict[str, Dataset] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _unreadable: bool = False

    def work(self) -> None:
        """Trains arms until all are done or set aside.

        Raises:
          UserError: what would stop every arm: their common data cannot be read.
          InterruptedRun: told to stop.
        """
        since = os.environ.get(SINCE) or now()
        # An arm that has ended its process before its first checkpoint comes last, as it may do so again.
        waiting = sorted(self.arms, key=lambda arm: _silent_ends(self.workdir / arm.run_id) > 0)
        while waiting:
            before, waiting = waiting, [arm for arm in waiting if not self._settle(arm, since)]
            if not waiting or (not self.wait and not self._not_before):
                return
            if len(waiting) == len(before):
                with signals.polled() as stop:
                    if stop.wait(WAIT_SECONDS):
                        raise InterruptedRun("stopped while other workers train the last arms")

    def _settle(self, arm: Arm, since: str) -> bool:
        """Trains an arm if it is free; returns whether it is done or set aside."""
        path = self.workdir / arm.run_id
        if signals.received():
            raise InterruptedRun(f"stopped by {signals.name()} between two arms")
        if failures(path, since) > self.retries:
            self._not_before.pop(arm.run_id, None)
            return True
        if time.monotonic() < self._not_before.get(arm.run_id, 0.0):
            return False
        self._not_before.pop(arm.run_id, None)
        try:
            if _silent_ends(path, since) > self.retries and results.status_of(path) != "running":
                raise UserError("its process was ended again and again before it saved anything (out of memory?)")
            load = partial(self._data, arm)
            run(arm.config, path, self.console, self._label(arm), load, self.dead_seconds, wait=False)
        except claims.Busy as busy:
            told = self._told.get(arm.run_id)
            if progress.WORKERS not in os.environ and told != (holder := claims.in_words(busy.holder)):
                self._told[arm.run_id] = holder
                self._say(arm, f"{holder} trains this arm")
            return False
        except InterruptedRun:
            raise
        except Exception as error:
            if self._unreadable and len({repr(arm.config.data) for arm in self.arms}) == 1:
                raise
            return self._failed(arm, path, error, since)
        return True

    def _failed(self, arm: Arm, path: Path, error: Exception, since: str) -> bool:
        """Notes a failure in the arm's error.txt; returns whether the arm is set aside."""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # What the user has to mend fails again.
        hopeless = isinstance(error, UserError) and not isinstance(error, FaultInFile)
        tries = self.retries + 1 - failures(path, since) if hopeless else 1
        self._failures[arm.run_id] += tries
        with suppress(OSError):  # the disk may be what failed
            path.mkdir(parents=True, exist_ok=True)
            with (path / "error.txt").open("a") as file:
                file.write(f"{results.FAILURE}{now()} (counts as {tries}): {reason}\n{traceback.format_exc()}\n")
        count = max(failures(path, since), self._failures[arm.run_id])
        if not (aside := count > self.retries):
            self._not_before[arm.run_id] = time.monotonic() + RETRY_SECONDS * 2 ** (count - 1)
        what = "is set aside" if aside else "will be tried again"
        self._say(arm, f"failed and {what}: {reason}; see {path / 'error.txt'}")
        return aside

    def _data(self, arm: Arm) -> Dataset:
        key = repr(arm.config.data)
        if key not in self._loaded:
            self._unreadable = True
            self._loaded.clear()  # before, as two may be more than the memory holds
            self._loaded[key] = load_data(arm.config)
            self._unreadable = False
        return self._loaded[key]

    def _label(self, arm: Arm) -> str:
        return f"[{self.arms.index(arm) + 1}/{len(self.arms)}] {arm.label}"

    def _say(self, arm: Arm, text: str) -> None:
        say(self.console, self._label(arm), text)


def failures(path: Path, since: str = "") -> int:
    """Returns how often the run in `path` has failed since a time."""
    try:
        text = (path / "error.txt").read_text(errors="replace")
    except OSError:
        return 0
    entries = re.findall(rf"^{results.FAILURE}(\S+) \(counts as (\d+)\)", text, re.MULTILINE)
    return sum(int(count) for time, count in entries if time >= since)


def _silent_ends(path: Path, since: str = "") -> int:
    """Returns how many of the last attempts, begun since a time, have ended without a word and saved nothing."""
    try:
        attempts = results.read_record(path)["attempts"]
    except (OSError, UserError):
        return 0
    silent = takewhile(lambda one: one.get("end") is None and one.get("step") == one.get("from_step"), attempts[::-1])
    return sum((one.get("started") or "") >= since for one in silent)


def conclude(arms: Sequence[Arm], workdir: Path) -> int:
    """Prints how the arms stand at this moment, and returns the exit status."""
    paths = [workdir / arm.run_id for arm in arms]
    done = [path for path in paths if results.status_of(path) in results.DONE]
    open_ = [path for path in paths if path not in done and results.status_of(path) == "running"]
    failed = [path for path in paths if path not in done and path not in open_ and failures(path)]
    left = [path for path in paths if path not in done and path not in failed]
    parts = [f"{len(done)} of {len(arms)} arms done"]
    parts += [f"{len(failed)} set aside (see error.txt in {failed[0]})"] if failed else []
    parts += [f"{len(left)} left, {results.status_of(left[0])}: {left[0].name}"] if left else []
    print(f"{', '.join(parts)}: {workdir}")
    return SET_ASIDE if failed else LEFT if left else ALL_DONE


def count_workers(wanted: str, per_device: int) -> int:
    """Returns the number of workers that --workers=WANTED means.

    With "auto" it is one an accelerator, else one a core: small networks train faster on one core each than one after
    the other on all cores.

    Raises:
      UserError: neither "auto" nor a number from 1 on, or workers that share an accelerator where there is none.
    """
    if per_device < 1:
        raise UserError(f"--workers-per-device={per_device} must be at least 1")
    devices = len(machine.accelerators())
    if per_device > 1 and not devices:
        raise UserError(f"--workers-per-device={per_device} needs an accelerator; on a CPU say --workers=N")
    if wanted == "auto":
        return devices * per_device or machine.processes_that_fit()
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"--workers={wanted} is neither auto nor a number from 1 on")
    return int(wanted)


def start_workers(number: int, arguments: Sequence[str]) -> int:
    """Runs `number` workers, `normres ARGUMENTS` each, until all have ended; one that dies is started again.

    Each has an accelerator, or its share of the cores.  Returns the greatest exit status, 0 if all ended well.

    Raises:
      InterruptedRun: told to stop, as the workers were then.
    """
    environments, share = _shares(number)
    # Of the command `normres`, no file of the directory that it is called in replaces one of Python's; nor here.
    apart = [] if "-m" in sys.orig_argv else ["-P"]
    bound = machine.cores() and not machine.accelerators()
    errors, said = dict[int, IO[bytes]](), set[str]()

    def begin(worker: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, *apart, "-m", "normres", *arguments, "--workers=1"]
        errors[worker] = tempfile.TemporaryFile()  # noqa: SIM115, closed in `ended`
        process = subprocess.Popen(command, env=os.environ | environments[worker], stderr=errors[worker])
        if bound:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, machine.share_of_cores(worker, number))
        return process

    def ended(worker: int) -> bool:
        """Whether the worker has ended; if so, passes on what it said of errors, unless another said the same."""
        if processes[worker].poll() is None:
            return False
        if file := errors.pop(worker, None):
            file.seek(0)
            text = file.read().decode(errors="replace")
            file.close()
            print("" if text in said else text, end="", file=sys.stderr, flush=True)
            said.add(text)
        return True

    alone = "--workers=1: one after the other"
    print(f"{number} workers train arms at the same time, each with {share} ({alone})", flush=True)
    with signals.polled() as stop:
        processes, restarts, told = [begin(worker) for worker in range(number)], 0, False
        while True:
            if stop.is_set() and not told:
                told = True
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            for worker, process in enumerate(processes):
                died = ended(worker) and process.returncode not in (0, 1, 2, 3)
                if died and not told and restarts < RESTARTS * number:
                    restarts += 1
                    print(f"worker {worker} ended with status {process.returncode}; it is started again", flush=True)
                    processes[worker] = begin(worker)
            if all(ended(worker) for worker in range(number)):
                break
            time.sleep(0.2)
        if stop.is_set():
            raise InterruptedRun(f"stopped by {signals.name()}")
    return max(abs(process.returncode) for process in processes)


def _shares(number: int) -> tuple[list[dict[str, str]], str]:
    """Returns what each worker's environment has beside this one's, and its share of the machine in words."""
    common = {SINCE: os.environ.get(SINCE) or now(), progress.WORKERS: str(number)}
    if not (devices := machine.accelerators()):
        return [common] * number, f"{len(machine.share_of_cores(0, number)) or 'all'} of the cores"
    sharing = -(-number // len(devices))
    if sharing > 1:
        common["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    words = f"1/{sharing} of an accelerator" if sharing > 1 else "an accelerator"
    return [common | devices[worker % len(devices)] for worker in range(number)], words
