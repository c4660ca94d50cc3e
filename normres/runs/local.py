"""Runs on this machine's devices: everything that touches files, signals and the screen around `fit`."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from normres import data
from normres.data import Dataset, splits
from normres.errors import InterruptedRun, UserError
from normres.runs import checkpoint, machine, results, traps
from normres.runs.config import to_dict
from normres.runs.fields import digest
from normres.runs.progress import Reporter
from normres.training.loop import fit
from normres.training.metrics import METRICS
from normres.training.networks import count_parameters
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
        old = results.find_run(path, to_dict(config))
        if old is not None and old.record["status"] in results.DONE:
            return old.record
        dataset = dataset or load_data(config)
        if old is not None and old.record["data"]["sha256"] != dataset.summary()["sha256"]:
            raise UserError(f"{path}: the run began with other data ({old.record['data']['source']}); bring them back")
        # A resumed run keeps the dtype that it began with, also on another machine.
        dtype = old.record["dtype"] if old else machine.resolve_dtype(config.train.dtype)
        ops, in_words = machine.operations(config.train.ops, jax.devices())
        programs = Programs(config, dataset, dtype, ops=ops)
        state = programs.initial_state()
        machine.return_freed_memory()
        restored, passed_over = checkpoint.restore(path / "checkpoints", state)
        state = restored or state
        model = getattr(programs.network, "config", None)
        computed = {name: getattr(model, name) for name in ("remat", "unrolled") if hasattr(model, name)}
        record = _record(config, state, dataset, dtype, old, path) | {
            "preprocess": programs.preprocess.summary(),
            "computed": {**computed, "ops": in_words},
            "warnings": traps.of(config, len(dataset.train_labels)),
        }
        with Reporter(label, int(state.step), config.train.steps, console) as reporter:
            for line in [*passed_over, *(f"warning: {line}" for line in record["warnings"])]:
                reporter.say(line)
            if state.step:
                reporter.say(f"resumed at step {int(state.step)}")
            results.write_json(path / "config.json", to_dict(config))
            results.keep_metrics_until(path, int(state.step))
            results.write_json(path / "record.json", record)
            programs.compile()
            record["compile_seconds"] = programs.compile_seconds
            machine.return_freed_memory()
            _train(programs, state, path, record, stop.is_set, reporter)
    return record


def _record(
    config: ConfigDict, state: TrainState, dataset: Dataset, dtype: str, old: results.Run | None, path: Path
) -> dict[str, Any]:
    """Returns the record of a run that begins or goes on."""
    devices = jax.devices()
    before = old.record if old else {}
    examples = [name for name, metric in METRICS.items() if metric.of == "examples"]
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
        "seconds": before.get("seconds", 0.0),  # of training alone
        "compile_seconds": None,
        "diverged_at_step": None,
        "final": dict.fromkeys(f"{split}_{name}" for split in ("train", "test") for name in examples),
        "best_test_error": before.get("best_test_error"),
        "corrupted": None,
    }


def _train(
    programs: Programs,
    state: TrainState,
    path: Path,
    record: dict[str, Any],
    should_stop: Callable[[], bool],
    reporter: Reporter,
) -> None:
    """Writes down what happens in training, in directory and record.

    Raises:
      InterruptedRun: told to stop.
    """
    before, began = record["seconds"], time.perf_counter()
    for event, at in fit(programs, state, should_stop):
        values = {key: _finite(value) for key, value in event.values.items()}
        record |= {"step": event.step, "seconds": before + time.perf_counter() - began}
        match event.kind:
            case "train" | "test":
                results.append_metrics(path, {"step": event.step, "split": event.kind, **values})
                if event.kind == "test":
                    errors = [error for error in (values["error"], record["best_test_error"]) if error is not None]
                    record["best_test_error"] = min(errors, default=None)
                    machine.return_freed_memory()  # the first evaluation was compiled
                else:
                    reporter.update(event.step, f"loss {event.values['loss']:.3f} error {event.values['error']:.1%}")
            case "checkpoint":
                checkpoint.save(path / "checkpoints", event.step, at)
                results.write_json(path / "record.json", record)
            case "corrupted":
                results.append_metrics(path, {"step": event.step, "split": event.kind, **values})
                record["corrupted"] = values
            case "diverged":
                record |= {"status": "diverged", "diverged_at_step": event.step}
                reporter.say(f"diverged at step {event.step}: the loss is not finite")
            case "finished":
                record |= {"status": "finished", "final": values}
                errors_in_words = ", ".join(
                    f"{split} error {event.values[f'{split}_error']:.1%}" for split in ("train", "test")
                )
                reporter.update(event.step, "")
                reporter.say(f"finished: {errors_in_words}, {record['seconds']:.0f} s")
    if record["status"] not in results.DONE:
        raise InterruptedRun(f"stopped at step {record['step']} of {record['steps']}")
    results.write_json(path / "record.json", record)
    checkpoint.remove(path / "checkpoints")


def _finite(value: Any) -> Any:
    """Returns the value, or None if it is a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
