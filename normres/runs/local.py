"""Runs on this machine's devices: everything that touches files, signals and the screen around `fit`."""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console

from normres import data, files, signals
from normres.data import Dataset, corruptions, splits
from normres.errors import InterruptedRun, UserError
from normres.runs import checkpoint, claims, finished, hosts, machine, results, sinks, traps
from normres.runs.config import to_dict
from normres.runs.fields import digest, flatten
from normres.runs.journal import Journal
from normres.runs.progress import Reporter, say
from normres.runs.provenance import provenance
from normres.training.loop import fit
from normres.training.networks import count_parameters, user_module
from normres.training.programs import Programs
from normres.training.step import TrainState


def load_data(config: ConfigDict) -> Dataset:
    """Loads the data set that the config names, and takes of it what the config's splits say."""
    wanted = config.data
    where = (wanted.name, wanted.source, wanted.path)
    whole = data.load(*where, wanted.verify, wanted.image_size, wanted.stream, wanted.styles)
    if wanted.source == "auto":
        print(f"data.source=auto: took {whole.source}{f' at {wanted.path}' if wanted.path else ''}")
    if whole.source == "synthetic":
        print("data.source=synthetic: random pixels, for tests of shapes and speed; the errors mean nothing")
    if "test_set" in whole.splits:
        print(f"data.source={whole.source}: the test set is the split {whole.splits['test_set']['split']!r}")
    if "image_size" in data.sources.SOURCES[whole.source].reads and whole.source != "synthetic":
        print(f"data.source={whole.source}: images of {wanted.image_size} pixels (config.data.image_size)")
    if whole.why_streamed:
        print(f"streaming images from disk: {whole.why_streamed}")
    return splits.apply(whole, wanted)


def run(
    config: ConfigDict,
    path: Path,
    console: Console,
    label: str,
    load: Callable[[], Dataset] | None = None,
    dead_seconds: float = claims.DEAD_SECONDS,
    wait: bool = True,
) -> dict[str, Any]:
    """Trains one config in the run directory `path`, from its newest checkpoint if there is one; returns its record.

    A run that is done there is left as it is.

    Args:
      config: validated.
      path: made if need be.
      console, label: where progress goes, and what names the run there.
      load: returns the config's data; not called if the run is done.
      dead_seconds: after which a process that gives no sign is taken for dead (claims.hold).
      wait: for such a sign of a process on another machine.

    Raises:
      UserError: bad data, a directory that holds something else, or another process training there.
      InterruptedRun: told to stop.
    """
    sinks.check(config.train.sinks)
    checkpoint.check_path(path)
    load = load or partial(load_data, config)
    if not hosts.is_writer():
        journal = Journal(path, config)
        return journal.record if journal.done else _train(journal, config, load(), console, label)

    if results.status_of(path) in results.DONE:  # perhaps in a directory where nobody may write
        journal = Journal(path, config)
        if journal.done and journal.is_tidy:
            journal.tell()
            return _done(journal, config, console, label)
    with claims.hold(path, dead_seconds, partial(say, console, label) if wait else None) as claim:
        journal = Journal(path, config, claim)
        journal.tell()
        if journal.done:
            journal.tidy()
            return _done(journal, config, console, label)
        return _train(journal, config, load(), console, label)


def _done(journal: Journal, config: ConfigDict, console: Console, label: str) -> dict[str, Any]:
    """Returns the record of a run that is done, and says so if the user's module or data are others by now."""
    lines = finished.changed_module(journal.record, config), finished.other_data(journal.path, config)
    for line in filter(None, lines):
        say(console, label, f"warning: {line}; another --workdir trains it anew")
    return journal.record


def _check_hosts(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError if this process of several has other data or another config than process 0."""
    if hosts.from_writer(dataset.summary()["sha256"]) != dataset.summary()["sha256"]:
        raise UserError(f"config.data.path={config.data.path}: this process reads other data than process 0")
    own = {name: value for name, value in flatten(to_dict(config)).items() if name != "data.path"}
    theirs = hosts.from_writer(own)
    if other := [name for name in own if own[name] != theirs.get(name)]:
        raise UserError(f"config.{other[0]}={own[other[0]]!r}: process 0 has {theirs.get(other[0])!r}")


def _train(journal: Journal, config: ConfigDict, dataset: Dataset, console: Console, label: str) -> dict[str, Any]:
    """Trains from where the journal is to the end, and returns the record."""
    old = journal.record
    *size, channels = dataset.train_images.shape[1:]
    if not old:
        corruptions.check(config.data.corruptions, channels)
    if old and old["data"]["sha256"] != dataset.summary()["sha256"]:
        raise UserError(f"{journal.path}: the run began with other data ({old['data']['source']}); bring them back")
    dtype = old.get("dtype") or _dtype(config)  # of a resumed run its own, also on another machine
    _check_hosts(config, dataset)
    devices = jax.devices()
    ops, ops_in_words = machine.operations(config.train.ops, devices)
    programs = Programs(config, dataset, dtype, ops=ops)
    state = programs.initial_state()
    machine.return_freed_memory()
    journal.preprocess = {name: values.tolist() for name, values in programs.preprocess.arrays().items()}
    started_from, lines, others = old.get("init_from"), list[str](), list[str]()
    if journal.saved:
        state = journal.saved.state(state)
    elif config.init_from:
        state, started_from, lines = finished.init_from(state, config.init_from)
        others = finished.other_networks(config)
    if old:
        others = [line for line in old.get("warnings", ()) if "config.init_from was" in line]
    computed = {name: getattr(programs.model, name) for name in ("remat", "unrolled") if hasattr(programs.model, name)}
    computed["ops"] = "plain" if config.model.module else ops_in_words
    record = {
        "status": "running",
        "run_id": journal.path.resolve().name,
        "config_digest": digest(config),
        "seed": config.seed,
        "dtype": dtype,
        "parameters": count_parameters(state.params),
        "data": dataset.summary(),
        "preprocess": programs.preprocess.summary(),
        "init_from": started_from,
        "computed": computed,
        "warnings": [
            *traps.of(config, min(size), len(dataset.train_labels), len(devices)),
            *dataset.empty_classes(),
            *others,
        ],
        **_without_numbers(config, programs),
    }
    journal.begin(record, _attempt(config, devices))
    start = int(state.step)
    with Reporter(label, start, config.train.steps, console) as reporter:
        lines += [f"warning: {line}" for line in record["warnings"]] + [f"resumed at step {start}"] * (start > 0)
        for line in dict.fromkeys([*journal.lines, *lines]):
            reporter.say(line)
        programs.compile()
        machine.return_freed_memory()
        journal.started(programs.compile_seconds)
        reporter.compiled(programs.compile_seconds)
        names = config.train.sinks if hosts.is_writer() else ()
        opened = sinks.open_sinks(names, journal.path, config, reporter.say, start)
        with opened, signals.polled() as stop:
            _follow(programs, state, journal, hosts.agreement(stop.is_set), reporter)
    return journal.record


def _dtype(config: ConfigDict) -> str:
    """Returns the dtype of a run's activations; a user's module without a field `dtype` has float32."""
    if config.model.module and "dtype" not in user_module(config.model.module).__dataclass_fields__:
        return "float32"
    resolved: str = hosts.from_writer(machine.resolve_dtype(config.train.dtype))
    return resolved


def _attempt(config: ConfigDict, devices: Sequence[Any]) -> dict[str, Any]:
    """Returns what a record says of the process that trains."""
    device = {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}
    file, _, _ = config.model.module.rpartition(":")
    module = {"module": files.digest(Path(file))} if file else {}
    return {**provenance(), "device": device, **module}


def _without_numbers(config: ConfigDict, programs: Programs) -> dict[str, Any]:
    """Returns what a record says of the training before its first step."""
    return {
        "step": 0,
        "steps": config.train.steps,
        "diverged_at_step": None,
        "final": dict.fromkeys(f"{split}_{name}" for split in ("train", "test") for name in programs.task.measured),
        "best_test_error": None,
        "best_test_step": None,
        "corrupted": None,
    }


def _follow(
    programs: Programs, state: TrainState, journal: Journal, should_stop: Callable[[], bool], reporter: Reporter
) -> None:
    """Writes down what happens in training; raises InterruptedRun if that was told to stop."""
    record = journal.record
    # What the steps before the checkpoint have measured that is in no metric line yet.
    measured = journal.saved.document.get("measured", {}) if journal.saved else {}
    for event, at in fit(programs, state, should_stop, measured):
        values = {key: _finite(value) for key, value in event.values.items()}
        journal.advance(event.step)
        if event.kind == "test" and journal.is_best(values.get("error")):
            journal.save(event.step, at, {})
        if event.kind in ("train", "test", "probe", "corrupted"):
            journal.line(event.step, event.kind, values)
        match event.kind:
            case "train":
                error = f" error {event.values['error']:.1%}" if "error" in event.values else ""
                reporter.update(event.step, f"loss {event.values['loss']:.3f}{error}")
                if journal.claim:
                    journal.claim.note(**reporter.progress)
            case "test" | "probe":
                machine.return_freed_memory()  # the first one was compiled
            case "checkpoint":
                journal.save(event.step, at, event.values)
            case "corrupted":
                record["corrupted"] = values
            case "pictures":
                Image.fromarray(values["pictures"]).save(png := io.BytesIO(), "PNG")
                journal.pictures(png.getvalue())
            case "diverged":
                record["diverged_at_step"] = event.step
                journal.end("diverged")
                reporter.say(f"diverged at step {event.step}: the loss is not finite")
            case "finished":
                record["final"] = values
                journal.end("finished")
                what, form = ("error", ".1%") if programs.task.has_classes else ("loss", ".3f")
                on = {"train": "train", "test": record["data"]["evaluated_on"]}
                ends = ", ".join(f"{on[split]} {what} {event.values[f'{split}_{what}']:{form}}" for split in on)
                reporter.update(event.step, "")
                reporter.say(f"finished: {ends}, {record['seconds']:.0f} s")
    if record["status"] not in results.DONE:
        journal.end("interrupted")
        raise InterruptedRun(f"stopped by {signals.name()} at step {record['step']} of {record['steps']}")


def _finite(value: Any) -> Any:
    """Returns the value, or None if it is a number that JSON does not have; of a list each of its numbers."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
