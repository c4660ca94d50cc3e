"""Sinks: what takes a run's metric lines beside metrics.jsonl, such as TensorBoard.

A sink can neither stop nor slow a run.  Each is a process of its own (sink_process.py), which follows metrics.jsonl
until its standard input is closed.  One that fails is reported in one line; metrics.jsonl has every line.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from normres.errors import UserError
from normres.runs.fields import AnyConfig, flatten

# The package that each needs; the extra of normres that installs it has the sink's name.
SINKS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
PROGRAM = Path(__file__).with_name("sink_process.py")
CLOSING_SECONDS = 5.0  # for all sinks together


def check(names: Sequence[str]) -> None:
    """Raises UserError if the package that a sink needs is not installed."""
    for name in names:
        spec = importlib.util.find_spec(SINKS[name])
        # A folder of that name without code, such as the one that wandb leaves where it ran, is no package.
        if spec is None or spec.origin is None:
            raise UserError(f"config.train.sinks={name!r} needs {SINKS[name]}: pip install 'normres[{name}]'")


@contextmanager
def open_sinks(
    names: Sequence[str], path: Path, config: AnyConfig, say: Callable[[str], Any], step: int = 0
) -> Iterator[None]:
    """Opens the sinks `names` of the run in `path` as a context, in which they have what metrics.jsonl gets.

    `say` takes the lines that report their troubles, at the end.  What they have of steps after `step`, at which
    the run goes on, is written again.  At the end they write what they have, for CLOSING_SECONDS at most.
    """
    start = {"path": str(path.resolve()), "step": step, "config": flatten(config)}
    start["offset"] = (path / "metrics.jsonl").stat().st_size if names else 0
    with ExitStack() as stack:
        opened = [(name, *_start(name, start, stack)) for name in names]
        try:
            yield
        finally:
            deadline = time.monotonic() + CLOSING_SECONDS
            for _, process, _ in opened:
                cast(IO[bytes], process.stdin).close()
            for name, process, output in opened:
                if trouble := _trouble(process, output, deadline):
                    say(f"train.sinks: {name} {trouble}; metrics.jsonl has every line")


def _start(name: str, start: Any, stack: ExitStack) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Returns a sink's process, and the file of what it says."""
    output = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115, closed with the others
    process = subprocess.Popen(
        [sys.executable, "-P", PROGRAM, name, json.dumps(start)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C is not meant for it
    )
    return process, output


def _trouble(process: subprocess.Popen[bytes], output: IO[bytes], deadline: float) -> str:
    """Waits for the end of a sink's process, and returns what went wrong; "" if nothing."""
    try:
        status = process.wait(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"did not finish within {CLOSING_SECONDS:g} s and may lack its last lines"
    output.seek(0)
    said = output.read().decode(errors="replace").strip() or "the process ended"
    return f"failed ({said.splitlines()[-1]})" if status else ""
