"""Several workers of one sweep on one machine: a process each, which shares the queue with the others."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from normres import signals
from normres.errors import InterruptedRun, UserError
from normres.runs import machine, progress, queue
from normres.runs.provenance import now

RESTARTS = 3  # of a worker that dies


def count(wanted: str, per_device: int) -> int:
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


def start(number: int, arguments: Sequence[str]) -> int:
    """Runs `number` workers, `normres ARGUMENTS` each, until all have ended; one that dies is started again.

    Each has an accelerator, or its share of the cores.  Returns the greatest exit status, 0 if all ended well.

    Raises:
      InterruptedRun: told to stop, as the workers were then.
    """
    environments, share = _shares(number)
    bound = machine.cores() and not machine.accelerators()
    errors, said = dict[int, IO[bytes]](), set[str]()

    def begin(worker: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "normres", *arguments, "--workers=1"]
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

    print(
        f"{number} workers train arms at the same time, each with {share} (--workers=1: one after the other)",
        flush=True,
    )
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
    common = {queue.SINCE: os.environ.get(queue.SINCE) or now(), progress.WORKERS: str(number)}
    if not (devices := machine.accelerators()):
        return [common] * number, f"{len(machine.share_of_cores(0, number)) or 'all'} of the cores"
    sharing = -(-number // len(devices))
    if sharing > 1:
        common["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    words = f"1/{sharing} of an accelerator" if sharing > 1 else "an accelerator"
    return [common | devices[worker % len(devices)] for worker in range(number)], words
