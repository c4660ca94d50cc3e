"""One run on the devices of several processes, on one host or on many, by jax.distributed.

Under `srun` with several tasks, or with --coordinator, --processes and --process, `join` joins the processes.  All of
them then run the same program, and what one decides alone the others must learn: `agreement`, `from_writer`, `barrier`.
Each of these is called by every process, in the same order.  Process 0 writes the run's files.

Nothing here imports jax before it is needed.
"""

import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from normres import signals
from normres.errors import UserError

LATE = 2  # calls after which all processes know what one of them has said
WAIT_SECONDS = 120  # for the other processes, when the run begins
DEAD_SECONDS = 30  # after which jax ends the others of a process that gives no sign

_several = False  # whether this process is one of several
_agreed = False  # whether all of them have agreed to stop


def place(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int, int] | None:
    """Returns (coordinator's address, number of processes, number of this one), or None for a run of one process.

    They are the arguments, or what Slurm says to each task of an `srun`; the script of an `sbatch` is alone.

    Raises:
      UserError: some of the three are missing, or they cannot be.
    """
    options = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in options.items() if value is None]
    if coordinator is not None and processes is not None and process is not None:
        if not re.fullmatch(r".+:\d{1,5}", coordinator) or not 0 < int(coordinator.rpartition(":")[2]) < 2**16:
            raise UserError(f"--coordinator={coordinator}: write HOST:PORT, such as node1:7000")
        if not 0 <= process < processes:
            raise UserError(f"--process={process} must be from 0 to {processes - 1}, below --processes={processes}")
        return (coordinator, processes, process) if processes > 1 else None
    if len(missing) < 3:
        raise UserError(f"{' and '.join(missing)} missing: a run of several processes needs {', '.join(options)}")
    names = ("JOB_ID", "STEP_ID", "STEP_NUM_TASKS", "PROCID")
    job, step, tasks, task = (int(os.environ.get(f"SLURM_{name}") or 0) for name in names)
    nodes = re.match(r"([^,[]+)(?:\[(\d+))?", os.environ.get("SLURM_STEP_NODELIST", ""))  # node1 | node[1-3,7],other
    if tasks < 2 or not nodes:
        return None
    # Each step has a port of its own, as several may run on a node; they are above those that systems give out.
    return f"{nodes[1]}{nodes[2] or ''}:{2**16 - 2**12 + (job + 61 * step) % 2**12}", tasks, task


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins this process with the others of its run, if it is one of several; call before jax knows its devices.

    Raises:
      UserError: see `place`.
    """
    global _several
    if not (where := place(coordinator, processes, process)):
        return
    import jax

    _several = True
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take the place of our handler of SIGTERM
    # Where jax finds a cluster by itself, it gives a task the one GPU of its number, also if all that it sees are its.
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0] == "1"
    sees_one = "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")
    jax.distributed.initialize(
        *where,
        cluster_detection_method="deactivate" if alone or sees_one else None,
        initialization_timeout=WAIT_SECONDS,
        heartbeat_timeout_seconds=DEAD_SECONDS,
    )
    barrier()  # Gloo makes its connections at the first call and waits 30 s for them; later calls may take long.


def leave(status: int) -> int:
    """Returns the exit status, as the last thing that is called.

    If the run failed or was stopped in this process alone, the process ends here: jax would wait for the other
    processes, and they for this one.  They get no more signs of it, and after DEAD_SECONDS jax ends them too.
    """
    if _several and status and not (_agreed and status in (signals.AGAIN, signals.INTERRUPTED)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def is_writer() -> bool:
    """Returns whether this process writes the run's files."""
    import jax

    return jax.process_index() == 0


def _sum(row: np.ndarray) -> Any:
    """Returns the sum of the int32 (n,) of all processes, an array of jax that is not waited for."""
    import jax

    rows, total = _rows_and_sum()
    local = [jax.device_put((row * (i == 0))[None], device) for i, device in enumerate(jax.local_devices())]
    return total(jax.make_array_from_single_device_arrays((jax.device_count(), len(row)), rows, local))


@cache
def _rows_and_sum() -> tuple[Any, Any]:
    """Returns the sharding of an array that has a row on each device, and the compiled sum of its rows."""
    import jax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,), devices=jax.devices())
    total = jax.jit(lambda rows: rows.sum(axis=0), out_shardings=NamedSharding(mesh, P()))
    return NamedSharding(mesh, P("all")), total


def agreement(flag: Callable[[], bool]) -> Callable[[], bool]:
    """Returns a function that is true in all processes at the same call, soon after `flag` was true in one of them.

    Every process calls it equally often.  It is cheap: it tells of LATE calls before, so that nothing waits for it.
    """
    import jax

    if jax.process_count() == 1:
        return flag
    asked: deque[Any] = deque()

    def ask() -> bool:
        global _agreed
        if not _agreed:
            asked.append(_sum(np.array([flag()], np.int32)))
            _agreed = len(asked) > LATE and bool(asked.popleft()[0])
        return _agreed

    return ask


def barrier() -> None:
    """Waits until every process is here."""
    from_writer(None)


def from_writer(value: Any) -> Any:
    """Returns process 0's value, which JSON can say, in every process."""
    import jax

    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_writer() else b"", np.uint8).astype(np.int32)
    size = int(_sum(np.array([len(text)], np.int32))[0])
    codes = _sum(text if is_writer() else np.zeros(size, np.int32))
    return json.loads(np.asarray(codes, np.uint8).tobytes())
