"""Several workers of one sweep on one machine: a process each, which shares the queue with the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from normres import signals
from normres.errors import InterruptedRun, UserError
from normres.runs import machine, queue
from normres.runs.provenance import now

RESTARTS = 3  # of a worker that dies


def count(wanted: str, per_device: int) -> int:
    """Returns the number of workers that --workers=WANTED means; "auto": one an accelerator, and on a CPU one.

    Raises:
      UserError: neither "auto" nor a number from 1 on.
    """
    if per_device < 1:
        raise UserError(f"--workers-per-device={per_device} must be at least 1")
    if wanted == "auto":
        return max(len(machine.accelerators()), 1) * per_device
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"--workers={wanted} is neither auto nor a number from 1 on")
    return int(wanted)


def start(number: int, arguments: Sequence[str]) -> int:
    """Runs `number` workers, `normres ARGUMENTS` each, until all have ended; one that dies is started again.

    Returns the greatest exit status of a worker, 0 if all ended well.

    Raises:
      InterruptedRun: told to stop, as the workers were then.
    """
    devices: list[dict[str, str]] = machine.accelerators() or [{}]
    sharing = -(-number // len(devices))
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.3f}"} if devices[0] and sharing > 1 else {}
    common = os.environ | share | {queue.SINCE: os.environ.get(queue.SINCE) or now()}

    def begin(worker: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "normres", *arguments, "--workers=1"]
        return subprocess.Popen(command, env=common | devices[worker % len(devices)])

    with signals.polled() as stop:
        processes, restarts, told = [begin(worker) for worker in range(number)], 0, False
        while any(process.poll() is None for process in processes):
            if stop.is_set() and not told:
                told = True
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            for worker, process in enumerate(processes):
                died = process.poll() is not None and process.returncode not in (0, 1, 2, 3)
                if died and not told and restarts < RESTARTS * number:
                    restarts += 1
                    print(f"worker {worker} ended with status {process.returncode}; it is started again", flush=True)
                    processes[worker] = begin(worker)
            time.sleep(0.2)
        if stop.is_set():
            raise InterruptedRun(f"stopped by {signals.name()}")
    return max(abs(process.returncode) for process in processes)
