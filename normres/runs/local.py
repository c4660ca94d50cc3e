"""Runs on this machine's devices: everything that touches files, signals and the screen around `fit`."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from normres import data
from normres.data import Dataset, splits
from normres.errors import InterruptedRun, UserError
from normres.models.resnet import count_parameters
from normres.runs import checkpoint, machine, results
from normres.runs.config import digest, to_dict
from normres.runs.progress import Reporter
from normres.training.group import Group, Member
from normres.training.loop import fit
from normres.training.programs import Programs
from normres.training.step import TrainState


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turns SIGTERM and the first Ctrl-C into a flag that training polls; a second Ctrl-C kills as usual."""
    flag = threading.Event()

    def on_signal(number: int, _frame: Any) -> None:
        flag.set()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def load_data(config: ConfigDict) -> Dataset:
    """Loads the data set that the config names, and takes of it what the config's splits say."""
    wanted = config.data
    whole = data.load(wanted.name, wanted.source, wanted.path, wanted.verify, wanted.image_size, wanted.stream)
    if wanted.source == "auto":
        print(f"data.source=auto: took {whole.source}{f' at {wanted.path}' if wanted.path else ''}")
    if whole.source == "synthetic":
        print("data.source=synthetic: random pixels, for tests of shapes and speed; the errors mean nothing")
    if "test_set" in whole.splits:
        print(f"data.source=tfds: the test set is the split {whole.splits['test_set']['split']!r}")
    if whole.why_streamed:
        print(f"streaming images from disk: {whole.why_streamed}")
    return splits.apply(whole, **{name: wanted[name] for name in splits.FIELDS})


def run(
    config: ConfigDict, path: Path, stop: threading.Event, console: Console, label: str, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Trains one config in the run directory `path`, from its newest checkpoint if there is one.

    Args:
      config: validated.
      path: made if need be; a run that is done there is left as it is.
      stop: when set, the run is saved and InterruptedRun is raised.
      console: where progress goes.
      label: names the run in the progress.
      dataset: the config's data, if loaded already.

    Returns:
      The run's record, see results.py.

    Raises:
      UserError: bad data, a directory that holds something else, or another process training there.
      InterruptedRun: told to stop.
    """
    with results.locked(path):
        begun = begin(config, path, dataset)
        if not isinstance(begun, Begun):
            return begun
        train_together([(label, begun)], stop, console)
        return begun.record


@dataclass(eq=False)
class Begun:
    """A run that is about to train: what it trains with and from, and its record so far."""

    path: Path
    programs: Programs
    state: TrainState
    start: int
    record: dict[str, Any]
    passed_over: list[str]

    def note(self, reporter: Reporter) -> None:
        """Writes down that the run begins: what was wrong with config or data has come out."""
        for line in self.passed_over:
            reporter.say(line)
        if self.start:
            reporter.say(f"resumed at step {self.start}")
        results.write_json(self.path / "config.json", to_dict(self.programs.config))
        results.keep_metrics_until(self.path, self.start)
        results.write_json(self.path / "record.json", self.record)


def begin(
    config: ConfigDict, path: Path, dataset: Dataset | None, like: Programs | None = None
) -> Begun | dict[str, Any]:
    """Returns a run ready to train in the locked directory `path`, or its record if it is done; see `run`."""
    held = results.find_run(path, to_dict(config))
    if held is not None and held.record["status"] in results.DONE:
        return held.record
    dataset = dataset or load_data(config)
    if held is not None and held.record["data"]["sha256"] != dataset.summary()["sha256"]:
        raise UserError(f"{path}: the run began with other data ({held.record['data']['source']}); bring them back")
    # A resumed run keeps the dtype it began with, also on another machine.
    dtype = held.record["dtype"] if held else machine.resolve_dtype(config.train.dtype)
    ops, in_words = machine.operations(config.train.ops, jax.devices())
    programs = Programs(config, dataset, dtype, like=like, ops=ops)
    state = programs.initial_state()
    machine.return_freed_memory()
    restored, passed_over = checkpoint.restore(path / "checkpoints", state)
    state = restored or state
    record = _record(config, state, dataset, dtype, held, path) | {
        "preprocess": programs.preprocess.summary(),
        "computed": {"remat": programs.model.remat, "unrolled": programs.model.unrolled, "ops": in_words},
    }
    return Begun(path, programs, state, int(state.step), record, passed_over)


def _record(
    config: ConfigDict, state: TrainState, dataset: Dataset, dtype: str, held: results.Run | None, path: Path
) -> dict[str, Any]:
    """Returns the record of a run that begins or goes on."""
    devices = jax.devices()
    before = held.record if held else {}
    return {
        "status": "running",
        "run_id": path.resolve().name,
        "config_digest": digest(config),
        "seed": config.seed,
        "dtype": dtype,
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        **results.provenance(),
        "restarts": before.get("restarts", -1) + 1,
        "parameters": count_parameters(state.params),
        "data": dataset.summary(),
        "step": 0,
        "steps": config.train.steps,
        # Training alone; of several runs in one program each has its share of the program's, so that sums are right.
        "seconds": before.get("seconds", 0.0),
        "compile_seconds": None,
        "runs_in_program": 1,
        "diverged_at_step": None,
        "final": dict.fromkeys(("train_loss", "train_error", "test_loss", "test_error")),
        "best_test_error": before.get("best_test_error"),
        "corrupted": None,
    }


def _train(
    programs: Programs | Member,
    state: Any,
    begun: Begun,
    should_stop: Callable[[], bool],
    reporter: Reporter,
) -> Iterator[None]:
    """Consumes fit's events, of which it yields one after the other, and writes them down in directory and record.

    Raises:
      InterruptedRun: told to stop.
    """
    record, path = begun.record, begun.path
    before, began = record["seconds"], time.perf_counter()
    for event, at in fit(programs, state, should_stop):
        values = {key: _finite(value) for key, value in event.values.items()}
        record |= {"step": event.step, "seconds": before + (time.perf_counter() - began) / record["runs_in_program"]}
        match event.kind:
            case "train" | "test":
                results.append_metrics(path, {"step": event.step, "split": event.kind, **values})
                if event.kind == "test" and values["error"] is not None:
                    best = record["best_test_error"]
                    record["best_test_error"] = values["error"] if best is None else min(best, values["error"])
                if event.kind == "test":
                    machine.return_freed_memory()  # the first evaluation was compiled
                if event.kind == "train":
                    reporter.update(event.step, f"loss {event.values['loss']:.3f} error {event.values['error']:.1%}")
            case "checkpoint":
                checkpoint.save(path / "checkpoints", event.step, programs.saved(at))
                results.write_json(path / "record.json", record)
            case "corrupted":
                results.append_metrics(path, {"step": event.step, "split": event.kind, **values})
                record["corrupted"] = values
            case "diverged":
                record |= {"status": "diverged", "diverged_at_step": event.step}
                reporter.say(f"diverged at step {event.step}: the loss is not finite")
            case "finished":
                record |= {"status": "finished", "final": values}
                errors = ", ".join(f"{split} error {event.values[f'{split}_error']:.1%}" for split in ("train", "test"))
                reporter.update(event.step, "")
                reporter.say(f"finished: {errors}, {record['seconds']:.0f} s")
        yield
    if record["status"] not in results.DONE:
        raise InterruptedRun(f"stopped at step {record['step']} of {record['steps']}")
    results.write_json(path / "record.json", record)
    checkpoint.remove(path / "checkpoints")


def _finite(value: Any) -> Any:
    """Returns the value, or None if it is a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def train_together(begun: list[tuple[str, Begun]], stop: threading.Event, console: Console) -> None:
    """Trains runs that are at one step, several in one program, event by event in turns.

    Raises:
      InterruptedRun: told to stop; every run is saved.
    """
    first = begun[0][1]
    label = begun[0][0] if len(begun) == 1 else f"{begun[0][0]} and {len(begun) - 1} more in one program"
    with Reporter(label, first.start, first.programs.config.train.steps, console) as reporter:
        # One bar for all; what is said is said of one.
        reporters = [reporter.of(own) for own, _ in begun]
        for own, (_, each) in zip(reporters, begun, strict=True):
            each.note(own)
        members: list[Any] = [first.programs]
        if len(begun) > 1:
            members = Group([each.programs for _, each in begun], [each.state for _, each in begun]).members
            seconds = members[0].group.compile()
        else:
            first.programs.compile(first.state)
            seconds = first.programs.compile_seconds
        machine.return_freed_memory()
        turns = []
        for member, own, (_, each) in zip(members, reporters, begun, strict=True):
            grouped = isinstance(member, Member)
            each.record |= {"compile_seconds": seconds / len(begun), "runs_in_program": len(begun)}
            should_stop = member.stops(stop.is_set) if grouped else stop.is_set
            turns.append((member, _train(member, member if grouped else each.state, each, should_stop, own)))
        interrupted: InterruptedRun | None = None
        while turns:
            for member, events in list(turns):
                try:
                    next(events)
                except (StopIteration, InterruptedRun) as end:
                    turns.remove((member, events))
                    if isinstance(member, Member):
                        member.leave()
                    interrupted = end if isinstance(end, InterruptedRun) else interrupted
        if interrupted:
            raise interrupted
