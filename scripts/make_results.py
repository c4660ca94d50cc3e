"""Draws every set of runs in results/ into docs/results/, and writes docs/results.md: `make results`.

All numbers, verdicts and figures of the documentation's results come from the records; none is typed.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from normres import files
from normres.report.clauses import Verdict
from normres.report.commands import experiment_of
from normres.report.experiment import Experiment
from normres.report.inference import together
from normres.runs import results

ROOT = Path(__file__).parent.parent
RESULTS, DRAWN = ROOT / "results", ROOT / "docs/results"
INTRODUCTION = """# Results

Every number on this page comes from a record in `results/`: one small file a run, with its config, seed, curve, commit,
versions and hardware. `make results` draws the page again. `make reproduce RESULT=NAME` runs a set again and compares.

Sets are named CONFIG-SIZE. `demo` sets are small (width 8, 2,560 embedded images, 400 steps): they show what an
experiment looks like, and decide little. `short` sets have the full CIFAR-10, width 16 and 3,200 steps, the paper's
schedule in proportion.
"""


def sections() -> Iterator[str]:
    """Yields the part of each set, those of the full data first."""
    names = sorted(
        (folder.name for folder in RESULTS.iterdir() if folder.is_dir()), key=lambda name: ("demo" in name, name)
    )
    for name in names:
        runs = results.read_runs(RESULTS / name)
        experiment: Experiment = files.load(experiment_of(RESULTS / name) or name, "experiments").EXPERIMENT
        arms = experiment.arms(runs)
        shutil.rmtree(DRAWN / name, ignore_errors=True)
        for path in experiment.draw(runs, DRAWN / name):
            if not path.name.endswith(("-page.png", "table.md")):
                path.unlink()
        figure = f"{Path(experiment.config).stem}-page.png"
        seeds = sorted({run.record["seed"] for run in runs})
        yield "\n".join(
            [
                f"## {name}",
                "",
                f"{experiment.claim} *{experiment.source}*",
                "",
                *verdict(experiment.judge(arms)),
                "",
                f"![{experiment.title}](results/{name}/{figure})",
                "",
                f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}. "
                f'<a href="sets/{name}/index.html">All figures, tables and runs</a> (in the site).',
                "",
                *(f"* {warning}" for warning in experiment.warnings(arms)),
                "",
                f"<details><summary>Table</summary>\n\n```{{include}} results/{name}/table.md\n```\n\n</details>",
                "",
                *(f"{note}\n" for note in experiment.notes),
            ]
        )


def verdict(verdicts: Sequence[Verdict]) -> list[str]:
    """Returns the outcome of the claim and of its clauses as Markdown."""
    lines = [f"**{together([one.outcome for one in verdicts])}**", ""]
    return [*lines, *(f"* {one.claim}: **{one.outcome}**. {one.evidence}" for one in verdicts)]


def main() -> None:
    """Writes the page."""
    text = "\n\n".join([INTRODUCTION, *sections()])
    (ROOT / "docs/results.md").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
