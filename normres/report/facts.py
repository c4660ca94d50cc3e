"""What was run, and what weakens the numbers, read from the runs' own records."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from normres.report.arms import Arm, evaluated_on, field, final, measure_of, metrics_of, run_id, seed, sort_key
from normres.report.labels import counted, grouped, titled, unit_of
from normres.report.tables import NOTHING, Table
from normres.runs.fields import flatten
from normres.runs.results import Run

OPTIMIZER = ("optimizer", "learning_rate", "schedule", "warmup_steps", "momentum", "weight_decay")


def _known(part: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a part of a record in which what is not known is "?"."""
    return defaultdict(lambda: "?", part or {})


def _optimizer(run: Run) -> str:
    values = {name: run.config.get("optim", {}).get(name) for name in OPTIMIZER}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _data(run: Run) -> str:
    data = _known(run.record.get("data"))
    train, test = (grouped(data[key]) for key in ("train_examples", "test_examples"))
    text = f"{data['name']} ({data['source']}), {train} training and {test} {data.get('evaluated_on', 'test')} images"
    for name, split in (data.get("splits") or {}).items():
        settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in split.items())
        text += f", {name.replace('_', ' ')} ({settings})"
    if data["source"] == "photographs":
        text += f", styles {', '.join(run.config['data']['styles'])}"
    return text + (f", SHA-256 {str(data['sha256'])[:12]}…" if data.get("sha256") else "")


def _commit(run: Run) -> str:
    """Returns the commits of all attempts of a run."""
    attempts = run.record.get("attempts") or [run.attempt]
    said = [
        str(one.get("commit") or "unknown")[:12] + " with uncommitted changes" * bool(one.get("diff"))
        for one in attempts
    ]
    return ", then ".join(dict.fromkeys(said))


# By its name on the page: a config field, or a function of the run.
FACTS: dict[str, str | Callable[[Run], Any]] = {
    "Recipe": "recipe",
    "Data": _data,
    "Network": lambda run: run.config["model"].get("module") or run.config["model"].get("family"),
    "Depths": "model.depth",
    "Width of the first stage": "model.width",
    "Norm": "model.norm",
    "Block order": "model.order",
    "Steps": "train.steps",
    "Batch size": "train.batch_size",
    "Optimizer": _optimizer,
    "Number format": lambda run: run.record.get("dtype"),
    "Device": lambda run: "{count} × {kind} ({platform})".format_map(_known(run.attempt.get("device"))),
    "Processor": lambda run: "{cpu} ({cpu_count} cores)".format_map(_known(run.attempt.get("host"))),
    "Operating system": lambda run: (run.attempt.get("host") or {}).get("system"),
    "Seeds": seed,
    "Commit": _commit,
    "Versions": lambda run: ", ".join(map(" ".join, (run.attempt.get("versions") or {}).items())),
}
# What is no field of a config, need not be equal in two sets, and may explain a difference.
AROUND = ("Commit", "Versions", "Processor", "Operating system", "Number format", "Device", "Data")
# Facts that should not differ among the runs of a report, by what a warning calls them.
EQUAL = {
    "Number formats": "Number format",
    "Devices": "Device",
    "Processors": "Processor",
    "Commits": "Commit",
    "Data": "Data",
    "Versions": "Versions",
}


def _fact(run: Run, name: str) -> Any:
    """Returns one of FACTS of a run; None of the network's fields where the user's module does not read them."""
    fact = FACTS[name]
    if not isinstance(fact, str):
        return fact(run)
    unread = fact.startswith("model.") and run.config["model"].get("module")
    return None if unread else flatten(run.config).get(fact)


def distinct(runs: Sequence[Run], name: str) -> str:
    """Returns the distinct values of one of FACTS in order, numbers by size."""
    values = {value for run in runs if (value := _fact(run, name)) is not None}
    return "; ".join(map(grouped, sorted(values, key=sort_key))) or "not recorded"


def around(first: Sequence[Run], second: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Returns those of AROUND that differ between two sets of runs, with the values in both."""
    known = {what: (distinct(first, what), distinct(second, what)) for what in AROUND}
    return {what: (one, other) for what, (one, other) in known.items() if one != other}


def what_was_run(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (what, value) pairs; values that differ among the runs stand side by side."""
    seconds = sum(run.record.get("seconds") or 0.0 for run in runs)
    # Older records have the seconds of compiling outside of their attempts.
    compiled = [part for run in runs for part in (run.record, *(run.record.get("attempts") or ()))]
    compiling = sum(part.get("compile_seconds") or 0.0 for part in compiled)
    time = f"{duration(seconds)} in {counted(len(runs), 'run')}, and {duration(compiling)} of compilation"
    return [*((name, distinct(runs, name)) for name in FACTS), ("Training time", time)]


def provenance(runs: Sequence[Run]) -> str:
    """Returns a sentence for a caption: where the numbers come from."""
    platforms = {_known(run.attempt.get("device"))["platform"] for run in runs}
    where = "Processor" if platforms <= {"cpu", "?"} else "Device"
    dtypes, machines, commits = (distinct(runs, name) for name in ("Number format", where, "Commit"))
    return f"Run in {dtypes} on {machines}, at commit {commits}."


def warnings(arms: Sequence[Arm], *, missing: Iterable[str] = ()) -> list[str]:
    """Returns what weakens all numbers of a page, a sentence each; `missing` names arms without runs."""
    runs = [run for arm in arms for run in arm.runs]
    sentences = [f"No run of {name}." for name in missing]
    data = [run.record.get("data") or {} for run in runs]
    if any(of_run.get("source") == "synthetic" for of_run in data):
        sentences.append("Synthetic images: random pixels, for tests of shapes and speed. These errors mean nothing.")
    if small := [of_run for of_run in data if of_run.get("source") == "embedded"]:
        counts = " and ".join(grouped(small[0].get(name)) for name in ("train_examples", "test_examples"))
        sentences.append(f"Embedded images: {counts} images in place of the full data set’s 50,000 and 10,000.")
    if any(of_run.get("evaluated_on") == "validation" for of_run in data):
        which = "Errors" if evaluated_on(arms) == "validation" else "Some errors"
        sentences.append(f"{which} were measured on a validation set, which is part of the training images.")
    for what, name in EQUAL.items():
        values = Counter(str(_fact(run, name)) for run in runs)
        if len(values) > 1:
            listed = "; ".join(f"{value} ({counted(count, 'run')})" for value, count in values.most_common())
            sentences.append(f"{what} differ among the runs: {listed}.")
    if changed := [run_id(run) for run in runs if "uncommitted" in _commit(run)]:
        which = "every run" if len(changed) == len(runs) else ", ".join(changed)
        sentences.append(f"Code with uncommitted changes: {which}. The commit alone does not reproduce it.")
    if any(run.attempt.get("commit") is None for run in runs):
        sentences.append("The commit is not known for every run.")
    return sentences


def notes_of(arm: Arm) -> list[str]:
    """Returns what weakens the numbers of one arm, and what its runs' records warn of, a sentence each."""
    sentences, every = [], counted(len(arm.runs), "run")
    if len({seed(run) for run in arm.runs}) == 1:
        sentences.append("One seed only, so no spread.")
    if arm.diverged:
        which = ", ".join(f"{run_id(run)} at step {run.record.get('diverged_at_step')}" for run in arm.diverged)
        sentences.append(f"Diverged, {len(arm.diverged)} of {every}: {which}.")
    if arm.unfinished:
        sentences.append(f"Not finished, and in no mean: {', '.join(map(run_id, arm.unfinished))}.")
    measure = measure_of(arm.finished)
    if without := [run_id(run) for run in arm.finished if final(run, f"train_{measure}") is None]:
        sentences.append(f"Finished without a final training {measure}: {', '.join(without)}.")
    sentences += repeated(arm)
    said = Counter(warning for run in arm.runs for warning in run.record.get("warnings") or [])
    some = {warning: f" ({count} of {every})" for warning, count in said.items() if count < len(arm.runs)}
    return sentences + [f"{warning}{some.get(warning, '')}." for warning in said]


def repeated(arm: Arm) -> list[str]:
    """Returns a sentence on the seeds of which an arm has several runs, if there are any."""
    seeds = Counter(str(seed(run)) for run in arm.runs)
    several = [name for name, count in seeds.items() if count > 1]
    return [f"More than one run of seed {', '.join(several)}: their mean counts as one seed."] if several else []


def lettered(arms: Sequence[Arm]) -> dict[str, str]:
    """Returns the letter of each sentence of `notes_of`: "a" to "z", then "aa"."""

    def letter(number: int) -> str:
        return (letter(number // 26 - 1) if number > 25 else "") + chr(ord("a") + number % 26)

    sentences = dict.fromkeys(sentence for arm in arms for sentence in notes_of(arm))
    return {sentence: letter(number) for number, sentence in enumerate(sentences)}


def digits(arms: Sequence[Arm], measure: str = "error") -> int:
    """Returns the decimals of an error in percent, 2 if every set has 5,000 images or more, else 1; 3 of a loss."""
    if measure != "error":
        return 3
    sizes = [arm.count(name) for arm in arms for name in ("train_examples", "test_examples")]
    return 2 if min(sizes, default=0) >= 5_000 else 1


# The training of He et al. 2015 and 2016 on CIFAR.
PAPER_SCALE = MappingProxyType({"model.width": 16, "train.steps": 64_000, "train.batch_size": 128})
PAPER_TRAINING_IMAGES = 50_000


def scale_notes(arms: Sequence[Arm], paper_scale: Mapping[str, Any] = PAPER_SCALE) -> list[str]:
    """Returns a sentence on how these runs differ in scale from the papers'; none if they do not."""
    if not paper_scale:
        return []
    runs = [run for arm in arms for run in arm.runs]
    scale = []
    for name, paper in paper_scale.items():
        here = sorted({field(run, name) for run in runs})
        if here != [paper]:
            word = name.rpartition(".")[2].replace("_", " ")
            scale.append(f"{word} {', '.join(map(grouped, here))} here, {paper:,} there")
    images = sorted({arm.count("train_examples") for arm in arms})
    if images != [PAPER_TRAINING_IMAGES]:
        scale.append(f"{', '.join(map(grouped, images))} training images here, {PAPER_TRAINING_IMAGES:,} there")
    return [f"The scale differs, so only the order can be compared: {'; '.join(scale)}."] if scale else []


def run_table(arms: Sequence[Arm]) -> Table:
    """Returns one row per run: id, arm, status, seed, seconds and every final number."""
    metrics = metrics_of(run for arm in arms for run in arm.runs)
    rows = []
    for arm in arms:
        for run in arm.runs:
            status = run.status
            status += f" at step {run.record.get('diverged_at_step')}" if status == "diverged" else ""
            times = (f"{run.record.get('step') or 0:,}", f"{run.record.get('seconds') or 0.0:,.0f}")
            numbers = {name: final(run, name) for name in metrics}
            numbers["best_test_error"] = run.record.get("best_test_error")
            cells = [
                NOTHING if value is None else f"{100 * value:.2f}" if unit_of(metric) else f"{value:.3f}"
                for metric, value in numbers.items()
            ]
            rows.append((run_id(run), arm.label, status, str(seed(run)), *times, *cells))
    on = evaluated_on(arms)
    titles = [titled(name, on) for name in (*metrics, "best_test_error")]
    caption = (
        f"Every run. Numbers are of the last step over the whole set. The best {on} error is the lowest of all "
        f"evaluations, so it was chosen on the {on} set."
    )
    return Table(("run", "arm", "status", "seed", "steps", "seconds", *titles), rows, caption, 3)


def runs_csv(arms: Sequence[Arm]) -> str:
    """Returns one row per run as CSV: its arm and the arm's config fields, status, and every final number.

    Numbers are as in the records, with every digit: errors from 0 to 1, losses in nats, seconds.
    """
    metrics = metrics_of(run for arm in arms for run in arm.runs)
    rows = [
        {"arm": arm.label, **arm.key, "run": run_id(run), "seed": seed(run)}
        | {name: run.record.get(name) for name in ("status", "step", "seconds", "parameters")}
        | {name: final(run, name) for name in metrics}
        for arm in arms
        for run in arm.runs
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def duration(seconds: float) -> str:
    """Returns "48 s", "5 min 7 s" or "2 h 30 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
