"""Writes the lines of its standard input to TensorBoard or Weights & Biases: a process of its own, see sinks.py.

The argument is the sink.  The first line is {"path", "step", "config"} of the run, each other line {"step", "numbers"}.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Lines = Iterable[dict[str, Any]]


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
    for line in lines:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in line["numbers"].items()]
        write(step=line["step"], summary=Summary(value=values))
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
    for line in lines:
        run.log({"step": line["step"], **line["numbers"]})
    run.finish()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends when its input does, after the run has saved
    write = {"tensorboard": tensorboard, "wandb": wandb}[sys.argv[1]]
    run = json.loads(sys.stdin.readline())
    write(Path(run["path"]), run["step"], run["config"], map(json.loads, sys.stdin))
