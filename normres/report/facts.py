"""What was run, and what a reader should be warned of, read from the runs' own records."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from normres.report.statistics import Arm, final, run_id, seed
from normres.report.tables import NOTHING, Table
from normres.runs.results import Run

OPTIMIZER = ("learning_rate", "schedule", "warmup_steps", "momentum", "weight_decay")


def what_was_run(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (what, value) pairs; values that differ among the runs stand side by side."""
    seconds = sum(_number(run, "seconds") for run in runs)
    compiling = sum(_number(run, "compile_seconds") for run in runs)
    return [
        ("Recipe", _distinct(runs, lambda run: _config(run, "recipe"))),
        ("Data", _distinct(runs, _data_text)),
        ("Depths", _distinct(runs, lambda run: _config(run, "model", "depth"))),
        ("Width of the first stage", _distinct(runs, lambda run: _config(run, "model", "width"))),
        ("Norm", _distinct(runs, lambda run: _config(run, "model", "norm"))),
        ("Block order", _distinct(runs, lambda run: _config(run, "model", "order"))),
        ("Steps", _distinct(runs, lambda run: _config(run, "train", "steps"))),
        ("Batch size", _distinct(runs, lambda run: _config(run, "train", "batch_size"))),
        ("Optimizer", _distinct(runs, _optimizer_text)),
        ("Number format", _distinct(runs, lambda run: run.record.get("dtype"))),
        ("Device", _distinct(runs, _device_text)),
        ("Host", _distinct(runs, _host_text)),
        ("Seeds", _distinct(runs, seed)),
        ("Commit", _distinct(runs, _commit_text)),
        ("Versions", _distinct(runs, _versions_text)),
        (
            "Training time",
            f"{duration(seconds)} in {_runs(len(runs))}, and {duration(compiling)} of compilation",
        ),
    ]


def warnings(arms: Sequence[Arm], *, missing: Iterable[str] = ()) -> list[str]:
    """Returns what weakens the numbers of `arms`, a sentence each; `missing` names arms without runs."""
    runs = [run for arm in arms for run in arm.runs]
    found = []
    single = [arm.label for arm in arms if len({str(seed(run)) for run in arm.runs}) == 1]
    if single:
        which = "every arm" if len(single) == len(arms) else "; ".join(single)
        found.append(f"One seed only, so no spread: {which}.")
    for arm in arms:
        if arm.diverged:
            which = ", ".join(f"{run_id(run)} at step {run.record.get('diverged_at_step')}" for run in arm.diverged)
            found.append(f"Diverged, {len(arm.diverged)} of {_runs(len(arm.runs))} of {arm.label}: {which}.")
        if arm.unfinished:
            which = ", ".join(run_id(run) for run in arm.unfinished)
            found.append(f"Not finished, and in no mean: {which} of {arm.label}.")
        without = [run for run in arm.finished if final(run, "train_error") is None]
        if without:
            found.append(f"Finished without a final training error: {', '.join(map(run_id, without))} of {arm.label}.")
        repeated = [name for name, count in Counter(str(seed(run)) for run in arm.runs).items() if count > 1]
        if repeated:
            found.append(
                f"{arm.label} has more than one run of seed {', '.join(repeated)}: these are not "
                "independent, and the spread is understated."
            )
    found += [f"No run of {name}." for name in missing]
    found += _data_warnings(runs)
    for what, value in (
        ("Number formats", lambda run: run.record.get("dtype")),
        ("Devices", _device_text),
        ("Commits", _commit_text),
        ("Data", _data_text),
        ("Versions", _versions_text),
    ):
        found += _mixed(what, runs, value)
    changed = [run_id(run) for run in runs if run.record.get("uncommitted_changes")]
    if changed:
        which = "every run" if len(changed) == len(runs) else ", ".join(changed)
        found.append(f"Code with uncommitted changes: {which}. The commit alone does not reproduce it.")
    if any(run.record.get("commit") is None for run in runs):
        found.append("The commit is not known for every run.")
    return found


def run_table(runs: Sequence[Run], label: Callable[[Run], str]) -> Table:
    """Returns one row per run: arm, id, status, seed, seconds and final numbers."""
    header = (
        "arm",
        "run",
        "status",
        "seed",
        "steps",
        "seconds",
        "training loss",
        "training error (%)",
        "test loss",
        "test error (%)",
        "best test error (%)",
    )
    rows = [
        (
            label(run),
            run_id(run),
            _status_text(run),
            str(seed(run)),
            f"{run.record.get('step') or 0:,}",
            f"{_number(run, 'seconds'):,.0f}",
            _text(final(run, "train_loss"), 1, 3),
            _text(final(run, "train_error"), 100, 2),
            _text(final(run, "test_loss"), 1, 3),
            _text(final(run, "test_error"), 100, 2),
            _text(run.record.get("best_test_error"), 100, 2),
        )
        for run in runs
    ]
    return Table(
        header,
        tuple(rows),
        "Every run.  Numbers are of the last step over the whole set, but for the best test error, the least "
        "of all evaluations, which was chosen on the test set.",
        3,
    )


def duration(seconds: float) -> str:
    """Returns "48 s", "5 min 7 s" or "2 h 30 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def provenance(runs: Sequence[Run]) -> str:
    """Returns a sentence for a caption: where the numbers come from."""
    dtypes = _distinct(runs, lambda run: run.record.get("dtype"))
    hosts = _distinct(
        runs,
        lambda run: "{cpu} ({cpu_count} cores)".format_map(
            {"cpu": "?", "cpu_count": "?"} | (run.record.get("host") or {})
        ),
    )
    return f"Run in {dtypes} on {hosts}, at commit {_distinct(runs, _commit_text)}."


def _distinct(runs: Sequence[Run], value: Callable[[Run], Any]) -> str:
    """Returns the distinct values in order, numbers by size."""
    values = {value(run) for run in runs} - {None}
    numbers = all(isinstance(item, int | float) for item in values)
    texts = [f"{item:,}" if numbers else str(item) for item in sorted(values, key=None if numbers else str)]
    return "; ".join(texts) or "not recorded"


def _mixed(what: str, runs: Sequence[Run], value: Callable[[Run], Any]) -> list[str]:
    """Returns a warning if `value` differs among the runs."""
    counts = Counter(str(value(run)) for run in runs)
    if len(counts) < 2:
        return []
    listed = "; ".join(f"{name} ({_runs(count)})" for name, count in counts.most_common())
    return [f"{what} differ among the runs: {listed}."]


def _config(run: Run, *names: str) -> Any:
    """Returns a config field to be shown; None if this config has none."""
    value: Any = run.config
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _optimizer_text(run: Run) -> str:
    settings = [(name.replace("_", " "), _config(run, "optim", name)) for name in OPTIMIZER]
    return ", ".join(f"{name} {value}" for name, value in settings if value is not None)


def _data_text(run: Run) -> str:
    data = run.record.get("data") or {}
    train, test = (
        f"{data[key]:,}" if isinstance(data.get(key), int) else "?" for key in ("train_examples", "test_examples")
    )
    evaluated_on = data.get("evaluated_on", "test")
    text = f"{data.get('name', '?')} ({data.get('source', '?')}), {train} training and {test} {evaluated_on} images"
    for name, split in (data.get("splits") or {}).items():
        settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in split.items())
        text += f", {name.replace('_', ' ')} ({settings})"
    return text + (f", SHA-256 {str(data['sha256'])[:12]}…" if data.get("sha256") else "")


def _data_warnings(runs: Sequence[Run]) -> list[str]:
    """Returns a warning if the images are random, and one if they are not the test set's."""
    data = [run.record.get("data") or {} for run in runs]
    found = []
    if any(of_run.get("source") == "synthetic" for of_run in data):
        found.append("Synthetic images: random pixels, for tests of shapes and speed. These errors mean nothing.")
    if any(of_run.get("evaluated_on") == "validation" for of_run in data):
        found.append("What is called test error was measured on a validation set, part of the training images.")
    return found


def _device_text(run: Run) -> str:
    device = run.record.get("device") or {}
    return f"{device.get('count', '?')} × {device.get('kind', '?')} ({device.get('platform', '?')})"


def _host_text(run: Run) -> str:
    host = run.record.get("host") or {}
    return f"{host.get('cpu', '?')}, {host.get('cpu_count', '?')} cores, {host.get('system', '?')}"


def _commit_text(run: Run) -> str:
    changed = " with uncommitted changes" if run.record.get("uncommitted_changes") else ""
    return str(run.record.get("commit") or "unknown")[:12] + changed


def _versions_text(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in (run.record.get("versions") or {}).items())


def _status_text(run: Run) -> str:
    status = str(run.record.get("status"))
    return f"{status} at step {run.record.get('diverged_at_step')}" if status == "diverged" else status


def _number(run: Run, name: str) -> float:
    value = run.record.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _text(value: Any, scale: float, digits: int) -> str:
    return f"{scale * value:.{digits}f}" if isinstance(value, int | float) else NOTHING
