"""A sweep on Slurm: submitit submits an array of workers that share the sweep's queue, as any workers do.

Slurm tells a worker before its time is up (SIGUSR1) or taken from it (SIGTERM).  The worker saves and ends with status
75, and its job's script puts it back into Slurm's queue.
"""

import importlib.util
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normres import signals
from normres.errors import UserError

SIGNAL_SECONDS = 120  # before the time limit, in which a worker has to save
OPTION = "--slurm."
# These end the script of a worker's job.  A worker that was told to stop, or killed, is put into the queue again, a
# killed one not forever.  The number of an array's last job is that of the whole array, so a job is named by its index.
REQUEUE = f"""\
status=$?
if [ $status = {signals.AGAIN} ] || {{ [ $status -gt 128 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt 10 ]; }}; then
  scontrol requeue ${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
fi
exit $status"""


def submit(arguments: Sequence[str], count: int, workdir: Path, options: dict[str, str]) -> str:
    """Submits `count` workers, `python -m normres ARGUMENTS` each, and returns the lines that say so.

    The options are sbatch's by their long names, submitit's, and "workers", which may say fewer.

    Raises:
      UserError: there is no submitit or no Slurm, or it does not take an option.
    """
    if not importlib.util.find_spec("submitit"):
        raise UserError("--launcher=slurm needs submitit: pip install 'normres[slurm]'")
    for program in ("sbatch", "srun"):
        if not shutil.which(program):
            raise UserError(f"--launcher=slurm: {program} is not there; call this on a machine that submits to Slurm")
    import submitit

    pairs = zip(["", *arguments], arguments, strict=False)
    of_worker = [argument for before, argument in pairs if "--launcher" not in (before, argument.partition("=")[0])]
    executor = submitit.SlurmExecutor(folder=workdir / "slurm")
    options = {name.replace("-", "_"): value for name, value in options.items()}
    # An account may be called 0417.
    numbers = {name: int(value) for name, value in options.items() if value.isdecimal() and value == str(int(value))}
    values = {name: value or True for name, value in options.items()} | numbers
    workers = values.pop("workers", count)
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"--slurm.workers={workers} is no number from 1 on")
    known = executor._valid_parameters() - {"setup", "teardown", "srun_args", "additional_parameters", "signal_delay_s"}
    of_submitit = {name: values.pop(name) for name in [*values] if name in known}
    own = {"signal": f"USR1@{SIGNAL_SECONDS}", "requeue": True}
    defaults: dict[str, Any] = {"job_name": "normres", "time": None, "wckey": None, "stderr_to_stdout": True}
    # What ends the job's processes is not to end its script, which has to put the job into the queue.
    script = {"setup": ["trap : TERM USR1"], "teardown": [REQUEUE]}
    try:
        with warnings.catch_warnings(action="ignore"):
            executor.update_parameters(**defaults | of_submitit, **script, additional_parameters=own | values)
            jobs = executor.map_array(work, [of_worker] * min(count, workers))
    except (submitit.core.utils.FailedJobError, ValueError) as error:
        said = [line for line in str(error).splitlines() if line.startswith("sbatch: ")] or [str(error).strip()]
        raise UserError(f"--launcher=slurm: {said[0].splitlines()[-1]}") from None
    number = jobs[0].job_id.partition("_")[0]
    what = f"an array of {len(jobs)} workers" if len(jobs) > 1 else "one worker"
    return (
        f"job {number} submitted: {what}, whose logs will be in {workdir / 'slurm'}\nwatch it: normres status {workdir}"
    )


def work(arguments: list[str]) -> None:
    """Runs a worker in a job of Slurm, passes the signals on to it, and ends with its status."""
    process = subprocess.Popen([sys.executable, "-m", "normres", *arguments])
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = process.wait()
    if status:
        sys.exit(128 - status if status < 0 else status)
