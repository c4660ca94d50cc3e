"""What was run, and what weakens the numbers, read from the runs' own records."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from normres.report.evidence import runs_text
from normres.report.statistics import Arm, final, flatten, metric_words, metrics_of, run_id, seed
from normres.report.tables import NOTHING, Table, csv_text
from normres.runs.results import Run

OPTIMIZER = ("learning_rate", "schedule", "warmup_steps", "momentum", "weight_decay")


def what_was_run(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (what, value) pairs; values that differ among the runs stand side by side."""
    seconds = sum(_number(run, "seconds") for run in runs)
    compiling = sum(_number(run, "compile_seconds") for run in runs)
    values: list[tuple[str, Callable[[Run], Any]]] = [
        ("Recipe", lambda run: _config(run, "recipe")),
        ("Data", _data_text),
        ("Depths", lambda run: _config(run, "model.depth")),
        ("Width of the first stage", lambda run: _config(run, "model.width")),
        ("Norm", lambda run: _config(run, "model.norm")),
        ("Block order", lambda run: _config(run, "model.order")),
        ("Steps", lambda run: _config(run, "train.steps")),
        ("Batch size", lambda run: _config(run, "train.batch_size")),
        ("Optimizer", _optimizer_text),
        ("Number format", _dtype),
        ("Device", _device_text),
        ("Host", lambda run: f"{_processor(run)}, {_host(run, 'system')}"),
        ("Seeds", seed),
        ("Commit", _commit_text),
        ("Versions", _versions_text),
    ]
    time = f"{duration(seconds)} in {_runs(len(runs))}, and {duration(compiling)} of compilation"
    return [*((what, _distinct(runs, value)) for what, value in values), ("Training time", time)]


def provenance(runs: Sequence[Run]) -> str:
    """Returns a sentence for a caption: where the numbers come from."""
    hosts, commits = _distinct(runs, _processor), _distinct(runs, _commit_text)
    return f"Run in {_distinct(runs, _dtype)} on {hosts}, at commit {commits}."


def warnings(arms: Sequence[Arm], *, missing: Iterable[str] = ()) -> list[str]:
    """Returns what weakens the numbers of `arms`, a sentence each; `missing` names arms without runs."""
    runs = [run for arm in arms for run in arm.runs]
    sentences = []
    if single := [arm.label for arm in arms if len({str(seed(run)) for run in arm.runs}) == 1]:
        which = "every arm" if len(single) == len(arms) else "; ".join(single)
        sentences.append(f"One seed only, so no spread: {which}.")
    sentences += [sentence for arm in arms for sentence in _warnings_of(arm)]
    sentences += [f"No run of {name}." for name in missing]
    data = [run.record.get("data") or {} for run in runs]
    if any(of_run.get("source") == "synthetic" for of_run in data):
        sentences.append("Synthetic images: random pixels, for tests of shapes and speed. These errors mean nothing.")
    if any(of_run.get("evaluated_on") == "validation" for of_run in data):
        sentences.append("What is called test error was measured on a validation set, part of the training images.")
    differing: list[tuple[str, Callable[[Run], Any]]] = [
        ("Number formats", _dtype),
        ("Devices", _device_text),
        ("Commits", _commit_text),
        ("Data", _data_text),
        ("Versions", _versions_text),
    ]
    for what, value in differing:
        counts = Counter(str(value(run)) for run in runs)
        if len(counts) > 1:
            listed = "; ".join(f"{name} ({_runs(count)})" for name, count in counts.most_common())
            sentences.append(f"{what} differ among the runs: {listed}.")
    if changed := [run_id(run) for run in runs if run.record.get("uncommitted_changes")]:
        which = "every run" if len(changed) == len(runs) else ", ".join(changed)
        sentences.append(f"Code with uncommitted changes: {which}. The commit alone does not reproduce it.")
    if any(run.record.get("commit") is None for run in runs):
        sentences.append("The commit is not known for every run.")
    return sentences


def _warnings_of(arm: Arm) -> list[str]:
    """Returns what weakens the numbers of one arm."""
    sentences = []
    if arm.diverged:
        which = ", ".join(f"{run_id(run)} at step {run.record.get('diverged_at_step')}" for run in arm.diverged)
        sentences.append(f"Diverged, {runs_text(len(arm.diverged), len(arm.runs))} of {arm.label}: {which}.")
    if arm.unfinished:
        which = ", ".join(map(run_id, arm.unfinished))
        sentences.append(f"Not finished, and in no mean: {which} of {arm.label}.")
    if without := [run_id(run) for run in arm.finished if final(run, "train_error") is None]:
        sentences.append(f"Finished without a final training error: {', '.join(without)} of {arm.label}.")
    seeds = Counter(str(seed(run)) for run in arm.runs)
    if repeated := [name for name, count in seeds.items() if count > 1]:
        sentences.append(
            f"{arm.label} has more than one run of seed {', '.join(repeated)}: these are not independent, and the "
            "spread is understated."
        )
    return sentences


def run_table(arms: Sequence[Arm]) -> Table:
    """Returns one row per run: arm, id, status, seed, seconds and every final number."""
    metrics = metrics_of(run for arm in arms for run in arm.runs)
    rows = tuple(
        (
            arm.label,
            run_id(run),
            _status_text(run),
            str(seed(run)),
            f"{run.record.get('step') or 0:,}",
            f"{_number(run, 'seconds'):,.0f}",
            *(_metric_cell(metric, final(run, metric)) for metric in metrics),
            _metric_cell("best_test_error", run.record.get("best_test_error")),
        )
        for arm in arms
        for run in arm.runs
    )
    header = ("arm", "run", "status", "seed", "steps", "seconds", *map(_metric_title, [*metrics, "best_test_error"]))
    caption = (
        "Every run. Numbers are of the last step over the whole set. The best test error is the lowest of all "
        "evaluations, so it was chosen on the test set."
    )
    return Table(header, rows, caption, 3)


def runs_csv(arms: Sequence[Arm]) -> str:
    """Returns one row per run as CSV: its arm and the arm's config fields, status, and every final number.

    Numbers are as in the records: errors from 0 to 1, losses in nats, seconds.
    """
    metrics = metrics_of(run for arm in arms for run in arm.runs)
    fields = list(dict.fromkeys(name for arm in arms for name in arm.key))
    known = ("status", "step", "seconds", "parameters")
    rows = [
        [
            *(arm.label, *map(arm.key.get, fields), run_id(run), seed(run)),
            *(*map(run.record.get, known), *(final(run, metric) for metric in metrics)),
        ]
        for arm in arms
        for run in arm.runs
    ]
    return csv_text(["arm", *fields, "run", "seed", *known, *metrics], rows)


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


def _distinct(runs: Sequence[Run], value: Callable[[Run], Any]) -> str:
    """Returns the distinct values in order, numbers by size."""
    values = {value(run) for run in runs} - {None}
    numbers = all(isinstance(item, int | float) for item in values)
    texts = [f"{item:,}" if numbers else str(item) for item in sorted(values, key=None if numbers else str)]
    return "; ".join(texts) or "not recorded"


def _config(run: Run, name: str) -> Any:
    """Returns a config field to be shown; None if this config does not have it."""
    return flatten(run.config).get(name)


def _optimizer_text(run: Run) -> str:
    settings = [(name.replace("_", " "), _config(run, f"optim.{name}")) for name in OPTIMIZER]
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


def _dtype(run: Run) -> Any:
    return run.record.get("dtype")


def _device_text(run: Run) -> str:
    device = run.record.get("device") or {}
    return f"{device.get('count', '?')} × {device.get('kind', '?')} ({device.get('platform', '?')})"


def _host(run: Run, name: str) -> Any:
    return (run.record.get("host") or {}).get(name, "?")


def _processor(run: Run) -> str:
    return f"{_host(run, 'cpu')} ({_host(run, 'cpu_count')} cores)"


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


def _metric_title(metric: str) -> str:
    return metric_words(metric) + (" (%)" if metric.endswith("error") else "")


def _metric_cell(metric: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return NOTHING
    return f"{100 * value:.2f}" if metric.endswith("error") else f"{value:.3f}"
