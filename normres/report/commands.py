"""The commands `normres report`, `compare` and `collect`: they read records and train nothing."""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normres import files
from normres.errors import UserError
from normres.options import REQUIRED, Command
from normres.runs import results
from normres.runs.results import Run


def _runs(folder: Path) -> list[Run]:
    if runs := results.read_runs(folder):
        return runs
    raise UserError(f"{folder}: no runs here; `normres sweep` makes them")


def _report(options: Namespace, _: dict[str, str]) -> None:
    if (options.runs is None) == (options.workdir is None):
        raise UserError("report: name the directory of the runs once, as RUNS or --workdir=RUNS")
    workdir = options.runs or options.workdir
    if options.all and options.experiment:
        raise UserError("--all finds the experiments itself; it goes without --experiment")
    output = options.output or workdir / "report"
    if options.all:
        paths = _draw_all(workdir, output)
    else:
        experiment = load_experiment(options.experiment) if options.experiment else None
        paths = _draw(experiment, _runs(workdir), output)
    print(*paths, sep="\n")


def _draw(experiment: Any, runs: Sequence[Run], output: Path) -> list[Path]:
    """Draws an experiment, or what the runs are if it is None."""
    from normres.report.experiment import of_unknown

    paths: list[Path] = (experiment or of_unknown(runs)).draw(runs, output)
    return paths


def _draw_all(workdir: Path, output: Path) -> list[Path]:
    """Draws each folder of runs below `workdir` and the index; returns the pages' paths.  A faulty one is left out."""
    from normres.report import page
    from normres.report.inference import together

    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such directory")
    rows, paths = [], []
    for folder in sorted(child for child in workdir.iterdir() if child.is_dir() and child != output):
        if not (runs := results.read_runs(folder)):
            continue
        experiment = experiment_of(folder)
        try:
            paths.append(_draw(experiment, runs, output / folder.name)[-1])
        except UserError as error:  # the other folders have their pages
            print(f"normres: {error}; {folder} left out", file=sys.stderr)
            continue
        verdicts = experiment.judge(experiment.arms(runs)) if experiment else []
        outcome = together([verdict.outcome for verdict in verdicts]) if verdicts else "no claim"
        rows.append((folder.name, experiment.title if experiment else folder.name, outcome, len(runs)))
    if not rows:
        raise UserError(f"{workdir}: no folder of runs here; `normres sweep` makes them")
    return [*paths, page.write_index(rows, output)]


def load_experiment(name: str) -> Any:
    """Returns the EXPERIMENT of a file: a path, or a name in experiments/."""
    from normres.report.experiment import Experiment

    module = files.load(name, "experiments")
    if not hasattr(module, "EXPERIMENT"):
        raise UserError(f"{name}: defines no EXPERIMENT")
    experiment = module.EXPERIMENT
    if not isinstance(experiment, Experiment):
        raise UserError(f"{name}: EXPERIMENT is a {type(experiment).__name__} and no Experiment")
    experiment.check()
    return experiment


def experiment_of(folder: Path) -> Any:
    """Returns the experiment that a sweep's folder is of, by its note's command or by its name; None if of none."""
    note = folder / "README.md"
    text = note.read_text() if note.is_file() else f"--config={folder.name.partition('-')[0]} "
    # A name, or a file of configs/; a file of the user's may have the same name.
    found = re.findall(r"--config[= ](?:configs/(\w+)\.py|(\w+))(?=[\s:])", text)
    names = files.names("experiments")
    name = next((word for words in found for word in words if word in names), None)
    return load_experiment(name) if name else None


def _compare(options: Namespace, _: dict[str, str]) -> None:
    from normres.report import pairs
    from normres.report.arms import measure_of
    from normres.report.labels import finals

    first, second = _runs(options.a), _runs(options.b)
    metric = options.metric or finals(measure_of([*first, *second]))[1]
    print(pairs.compare(first, second, metric, (options.a, options.b)))


def _collect(options: Namespace, _: dict[str, str]) -> None:
    from normres.report import collect

    runs = _runs(options.workdir)
    if options.to.suffix.lower() in collect.WRITERS or options.curves:
        print(collect.collect(runs, options.to, options.workdir, options.curves))
        return
    if options.to.suffix.lower() in (".json", ".jsonl", ".xlsx", ".tsv", ".feather", ".pq"):
        raise UserError(f"--to={options.to}: write FILE.parquet, FILE.csv, or the name of a folder")
    if options.to.resolve().is_relative_to(options.workdir.resolve()):
        raise UserError(f"--to={options.to} lies in {options.workdir}, where its runs would be read twice")
    done = [run for run in runs if run.record["status"] in results.DONE]
    if not done:
        raise UserError(f"{options.workdir}: none of {len(runs)} runs is done, so there is nothing to keep")
    print(*results.keep(done, options.to), f"{len(done)} of {len(runs)} runs kept", sep="\n")


COMMANDS = {
    "report": Command(
        _report,
        "Draw figures, tables and a page from finished runs; trains nothing.",
        "Without --experiment, the page shows the runs as they are: what differs, curves, error by setting.\n\n"
        "examples:\n  normres report --experiment=degradation --workdir=runs/demo\n  normres report runs/demo\n"
        "  normres report --all runs",
        {
            "RUNS": (None, "where the runs are"),
            "--workdir=DIR": (None, "the same"),
            "--experiment=NAME": (None, "a name in experiments/, or a file"),
            "--all": (False, "a page for each folder of RUNS, and an index of them"),
            "--output=DIR": (None, "where to write (default: RUNS/report)"),
        },
        takes_config=False,
    ),
    "compare": Command(
        _compare,
        "Compare two sets of runs, arm by arm: both means, difference, confidence interval; trains nothing.",
        "Arms are matched by the fields that vary within the sets.  What differs between the sets is named.\n\n"
        "example:\n  normres compare results/degradation-short runs/again",
        {
            "A": (REQUIRED, "a directory of runs"),
            "B": (REQUIRED, "another"),
            "--metric=NAME": (None, "a final number of the runs (default: test_error, or test_loss if none has it)"),
        },
        takes_config=False,
    ),
    "collect": Command(
        _collect,
        "Write the runs below a directory as one table, a row each, or as a folder of small files, one a run.",
        "A folder holds what report, compare and collect can read again, without weights; results/ is made of such.\n\n"
        "examples:\n  normres collect runs/demo --to=runs.parquet\n  normres collect runs/demo --to=results/demo",
        {
            "WORKDIR": (REQUIRED, "where the runs are"),
            "--to=FILE": (REQUIRED, "FILE.parquet, FILE.csv, or a folder"),
            "--curves": (False, "a row for each line of metrics.jsonl instead"),
        },
        takes_config=False,
    ),
}
