"""Sinks: what takes a run's metric lines beside metrics.jsonl, such as TensorBoard.

A sink can neither stop nor slow a run.  Each is a process of its own (sink_process.py), into whose pipe lines are
written without waiting for it.  One that fails is off, which is said in one line; metrics.jsonl has every line.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.runs.fields import AnyConfig, flatten

# The package that each needs; the extra of normres that installs it has the sink's name.
SINKS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
PROGRAM = Path(__file__).with_name("sink_process.py")
CLOSING_SECONDS = 5.0  # for all sinks together
WAITING_BYTES = 2**22  # after which a sink that takes none is off

Line = Mapping[str, Any]


def check(names: Sequence[str]) -> None:
    """Raises UserError if the package that a sink needs is not installed."""
    for name in names:
        spec = importlib.util.find_spec(SINKS[name])
        # A folder of that name without code, such as the one that wandb leaves where it ran, is no package.
        if spec is None or spec.origin is None:
            raise UserError(f"config.train.sinks={name!r} needs {SINKS[name]}: pip install 'normres[{name}]'")


def numbers(line: Line) -> dict[str, float]:
    """Returns a line's numbers by "train/loss" and the like, those of a list by "corrupted/contrast/1" and so on."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, list):
            flat |= {f"{name}/{place}": item for place, item in enumerate(value, start=1)}
        elif name not in ("step", "split"):
            flat[name] = value
    return {f"{line['split']}/{name}": float(value) for name, value in flat.items() if value is not None}


class _Sink:
    """The process of one sink, and the bytes that its pipe did not yet take."""

    def __init__(self, name: str, say: Callable[[str], Any]):
        self.name, self.say, self.is_on, self.waiting = name, say, True, b""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", PROGRAM, name],
            stdin=subprocess.PIPE,
            stdout=self.errors,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C is not meant for it
        )
        assert self.process.stdin
        self.stdin = self.process.stdin
        os.set_blocking(self.stdin.fileno(), False)

    def write(self, value: Any) -> None:
        if not self.is_on:
            return
        self.waiting += json.dumps(value).encode() + b"\n"
        try:
            self.waiting = self.waiting[os.write(self.stdin.fileno(), self.waiting) :]
        except BlockingIOError:
            if len(self.waiting) > WAITING_BYTES:
                self.is_on, self.waiting = False, b""
                self.tell("hangs and is off")
        except BrokenPipeError:
            self.process.wait()
            self.fail()

    def fail(self) -> None:
        self.is_on = False
        self.errors.seek(0)
        why = (self.errors.read().decode(errors="replace").strip() or "the process ended").splitlines()[-1]
        self.tell(f"failed and is off ({why})")

    def tell(self, what: str) -> None:
        self.say(f"train.sinks: {self.name} {what}; metrics.jsonl has every line")

    def close(self, deadline: float) -> None:
        try:
            self.process.communicate(self.waiting, timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.stdin.close()
            self.tell(f"did not finish within {CLOSING_SECONDS:g} s and may lack its last lines")
        else:
            if self.is_on and self.process.returncode:
                self.fail()
        self.errors.close()


@contextmanager
def open_sinks(
    names: Sequence[str], path: Path, config: AnyConfig, say: Callable[[str], Any], step: int = 0
) -> Iterator[Callable[[Line], None]]:
    """Opens the sinks `names` of the run in `path` as a context of a function that gives them a line of metrics.jsonl.

    `say` takes the lines in which their troubles are told.  What they have of steps after `step`, at which the run goes
    on, is written again.  At the end they write what they have, for CLOSING_SECONDS at most.
    """
    opened = [_Sink(name, say) for name in names]

    def write(value: Any) -> None:
        for sink in opened:
            sink.write(value)

    try:
        write({"path": str(path.resolve()), "step": step, "config": flatten(config)})
        yield lambda line: write({"step": line["step"], "numbers": numbers(line)})
    finally:
        deadline = time.monotonic() + CLOSING_SECONDS
        for sink in opened:
            sink.close(deadline)
