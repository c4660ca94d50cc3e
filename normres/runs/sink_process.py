"""Writes the lines of a run's metrics.jsonl to TensorBoard or Weights & Biases: a process of its own, see sinks.py.

The arguments are the sink and, as JSON, {"path", "step", "config", "offset"}: the run, and where its new lines begin.
"""

import hashlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Lines = Iterator[tuple[int, dict[str, float]]]  # steps, and numbers by "train/loss" and the like

LOOK_SECONDS = 1.0  # between looks at the file


def follow(file: IO[bytes]) -> Lines:
    """Yields what an open file of metric lines has from here on, until the standard input is closed."""
    rest, ended = b"", False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], LOOK_SECONDS)[0])
        *lines, rest = (rest + file.read()).split(b"\n")
        for line in map(json.loads, lines):
            yield line["step"], numbers(line)


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Returns a line's numbers, those of a list by "corrupted/contrast/1" and so on."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, list):
            flat |= {f"{name}/{place}": item for place, item in enumerate(value, start=1)}
        elif name not in ("step", "split"):
            flat[name] = value
    return {f"{line['split']}/{name}": float(value) for name, value in flat.items() if value is not None}


def tensorboard(path: Path, step: int, config: dict[str, Any], lines: Lines) -> None:
    """Writes event files in PATH/tensorboard; what an earlier attempt wrote after the resumed step is purged."""
    # Not SummaryWriter: it writes in a thread of its own, of whose end nobody would hear.
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    folder = path / "tensorboard"
    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")

    def write(**content: Any) -> None:
        writer.write_event(Event(wall_time=time.time(), **content))
        writer.flush()

    if step:
        # Lines of the resumed step itself are kept, here as in metrics.jsonl.
        write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
    fields = {name: value if isinstance(value, str | int | float) else str(value) for name, value in config.items()}
    for part in summary.hparams(fields, {"test/error": 0}):
        write(summary=part)
    for at, values in lines:
        write(step=at, summary=Summary(value=[Summary.Value(tag=tag, simple_value=values[tag]) for tag in values]))
    writer.close()


def wandb(path: Path, step: int, config: dict[str, Any], lines: Lines) -> None:
    """Writes an offline run in PATH/wandb, for `wandb sync`; each attempt is one, all with the same id."""
    import wandb

    run = wandb.init(
        mode="offline",
        dir=str(path),
        project="normres",
        group=path.parent.name,
        name=path.name,
        id=hashlib.sha256(str(path).encode()).hexdigest()[:16],
        config=config,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False),
    )
    run.define_metric("*", step_metric="step")
    for at, values in lines:
        run.log({"step": at, **values})
    run.finish()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends when its input does, after the run has saved
    write = {"tensorboard": tensorboard, "wandb": wandb}[sys.argv[1]]
    run = json.loads(sys.argv[2])
    folder = Path(run["path"])
    # Opened before anything slow is imported: a later attempt puts another file there.
    with (folder / "metrics.jsonl").open("rb") as file:
        file.seek(run["offset"])
        write(folder, run["step"], run["config"], follow(file))
