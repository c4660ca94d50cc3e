"""Sinks: what takes a run's metric lines beside metrics.jsonl, such as TensorBoard.

A sink can neither stop nor slow a run.  Each has a thread and a queue of its own.  Lines that do not fit into the queue
are dropped.  Whatever fails switches its sink off and is said in one line.  metrics.jsonl has every line in any case.
"""

import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from normres.errors import UserError, nearest
from normres.runs.fields import AnyConfig, flatten

QUEUED = 1_000  # lines at most
CLOSING_SECONDS = 5.0  # for all sinks together

Line = Mapping[str, Any]


class Place(NamedTuple):
    """The run that a sink writes for: its directory, its config, and the step at which it goes on."""

    path: Path
    config: AnyConfig
    step: int


class Sink(NamedTuple):
    """A kind of sink; the extra of normres that installs what it needs has its name.

    Attributes:
      module: the package that it needs.
      open: Place -> a context of a function that takes a line.  It runs in the sink's thread, and imports there.
    """

    module: str
    open: Callable[[Place], AbstractContextManager[Callable[[Line], None]]]


@contextmanager
def _tensorboard(place: Place) -> Iterator[Callable[[Line], None]]:
    """Event files in PATH/tensorboard; what an earlier attempt wrote after the resumed step is purged."""
    # Not SummaryWriter: it writes in a thread of its own, where a full disk ends in a traceback on the screen.
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    folder = place.path / "tensorboard"
    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{place.step}")

    def write_event(**content: Any) -> None:
        writer.write_event(Event(wall_time=time.time(), **content))
        writer.flush()

    def write(line: Line) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers(line).items()]
        write_event(step=line["step"], summary=Summary(value=values))

    if place.step:
        # Lines of the resumed step itself are kept, here as in metrics.jsonl.
        write_event(step=place.step + 1, session_log=SessionLog(status=SessionLog.START))
    config = flatten(place.config).items()
    fields = {name: value if isinstance(value, str | int | float) else str(value) for name, value in config}
    for part in summary.hparams(fields, {"test/error": 0}):
        write_event(summary=part)
    yield write
    writer.close()


@contextmanager
def _wandb(place: Place) -> Iterator[Callable[[Line], None]]:
    """An offline run in PATH/wandb, for `wandb sync`; each attempt is one, all with the same id."""
    # A process of its own, because wandb waits for its service when a process ends, without a limit.
    path = place.path.resolve()
    options = {
        "dir": str(path),
        "project": "normres",
        "group": path.parent.name,
        "name": path.name,
        "id": hashlib.sha256(str(path).encode()).hexdigest()[:16],
        "config": flatten(place.config),
    }
    command = [sys.executable, "-P", str(Path(__file__).with_name("wandb_sink.py"))]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, text=True, start_new_session=True
        )
        assert process.stdin

        def write(line: Mapping[str, Any]) -> None:
            print(json.dumps(line), file=process.stdin, flush=True)

        try:
            write(options)
            yield lambda line: write({"step": line["step"], **numbers(line)})
            process.stdin.close()
            failed = process.wait() != 0
        except BrokenPipeError:
            failed = True
        if failed:
            errors.seek(0)
            raise RuntimeError((errors.read().strip() or "the process ended").splitlines()[-1])


# To add a sink, add a row, and the extra to pyproject.toml.
SINKS: dict[str, Sink] = {
    "tensorboard": Sink("tensorboardX", _tensorboard),
    "wandb": Sink("wandb", _wandb),
}


def numbers(line: Line) -> dict[str, float]:
    """Returns a line's numbers by "train/loss" and the like, those of a list by "corrupted/contrast/1" and so on."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, list):
            flat |= {f"{name}/{place}": item for place, item in enumerate(value, start=1)}
        elif name not in ("step", "split"):
            flat[name] = value
    return {f"{line['split']}/{name}": float(value) for name, value in flat.items() if value is not None}


def check(names: Sequence[str]) -> None:
    """Raises UserError if there is no such sink, or if the package that it needs is not installed."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"config.train.sinks={name!r} does not exist; {nearest(name, SINKS)}")
        spec = importlib.util.find_spec(SINKS[name].module)
        # A folder of that name without code, such as the one that wandb leaves where it ran, is no package.
        if spec is None or spec.origin is None:
            raise UserError(f"config.train.sinks={name!r} needs {SINKS[name].module}: pip install 'normres[{name}]'")


class _Worker:
    """The thread of one sink; only the run's own thread calls `say`."""

    def __init__(self, name: str, place: Place, say: Callable[[str], Any]):
        self.name, self.say, self.failure, self.on, self.full = name, say, "", True, False
        self.lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, args=(place,), name=f"sink {name}", daemon=True)
        self.thread.start()

    def _work(self, place: Place) -> None:
        try:
            with SINKS[self.name].open(place) as write:
                while (line := self.lines.get()) is not None:
                    write(line)
        except BaseException as error:  # also what is no Exception: nobody else would hear of it
            self.failure = " ".join(f"{type(error).__name__}: {error}".split())

    def tell(self, what: str) -> None:
        with suppress(Exception):
            self.say(f"train.sinks: {self.name} {what}; metrics.jsonl has every line")

    def is_on(self) -> bool:
        """Tells of a failure, once, and returns whether there was none."""
        if self.on and self.failure:
            self.on = False
            self.tell(f"failed and is off ({self.failure})")
        return self.on

    def write(self, line: Line) -> None:
        if self.is_on() and self.lines.qsize() < QUEUED:
            self.lines.put(line)
        elif self.on and not self.full:
            self.full = True
            self.tell(f"does not keep up and loses lines from step {line['step']} on")

    def join(self, deadline: float) -> None:
        self.thread.join(max(deadline - time.monotonic(), 0))
        if self.is_on() and self.thread.is_alive():
            self.tell(f"did not finish within {CLOSING_SECONDS:g} s and may lack its last lines")


@contextmanager
def open_sinks(
    names: Sequence[str], path: Path, config: AnyConfig, say: Callable[[str], Any], step: int = 0
) -> Iterator[Callable[[Line], None]]:
    """Opens the sinks `names` of a run as a context of a function that gives them a line of metrics.jsonl at once.

    At the end the sinks write what they have, for CLOSING_SECONDS at most; then they are left to themselves.

    Args:
      names: rows of SINKS.
      path, config: of the run.
      say: takes the lines in which a sink's troubles are told.
      step: at which the run goes on; what a sink has of later steps is written again.

    Raises:
      UserError: see `check`.
    """
    check(names)
    workers = [_Worker(name, Place(path, config, step), say) for name in names]

    def write(line: Line) -> None:
        for worker in workers:
            worker.write(line)

    try:
        yield write
    finally:
        deadline = time.monotonic() + CLOSING_SECONDS
        for worker in workers:
            worker.lines.put(None)
        for worker in workers:
            worker.join(deadline)
