"""Draws all sets of results/ into docs/results/, and writes docs/results.md and the README's table: `make results`.

All numbers, verdicts and figures of the documentation's results come from the records; none is typed.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from normres import experiments
from normres.errors import UserError
from normres.report import page, paper, probes, tables
from normres.report.arms import Arm, seeds_text
from normres.report.charts import Chart, Panel, Series
from normres.report.commands import experiment_of, load_experiment
from normres.report.experiment import Experiment
from normres.report.inference import RULE, together
from normres.report.labels import counted
from normres.runs import durable, results

ROOT = Path(__file__).parent.parent
RESULTS, DRAWN = ROOT / "results", ROOT / "docs/results"
SETS_OF_README = {
    "degradation-short": ", 3,200 steps",
    "degradation-paper": ", 64,000 steps",
}  # and what is added to a setting
OF_README = ("variant", "setting", "seeds", "training error (%)", "test error (%)", "paper, test (%)")
# What is drawn of networks before training, from the first and last number of each quantity.
STARTS = {title: probes.NUMBERS[title] for title in probes.ALONG}
INTRODUCTION = f"""# Results

Every number of our own runs in the tables comes from a record in `results/`: one small file a run, with its config,
seed, curve, commit, versions and hardware. `make results` draws the page again. `make reproduce RESULT=NAME` runs a
set again (`SEEDS=3`: with three seeds) and writes `runs/reproduce/NAME/certificate.md`. An arm is *the same* if all
numbers of the repeated seeds are equal. Expect this on the same kind of machine with the same versions. Otherwise it
*agrees* if the interval of the difference lies within 1 point, and *differs* if the interval does not contain 0. Three
seeds rarely suffice for an interval within 1 point, so on another machine expect *cannot be judged*.
`scripts/reproduce.py`, which make calls, ends with status 0 if all agree, 1 if one differs, and 3 if some cannot be
judged.

Sets are named CONFIG-SIZE. `demo` sets are small (a few hundred steps of a narrow network on images that come with
packages): they show what an experiment looks like, and decide little. `short` sets have the full CIFAR-10, width 16 and
3,200 steps, the paper's schedule in proportion. `paper` sets have all of the paper's 64,000 steps. In sets of
`batch_size` every arm sees the same number of images, so small batches take more steps; `style` sets have photographs
and the recipe `johnson2016`.

{RULE}
"""


def not_run() -> str:
    """Returns a sentence that names the experiments which no set of the full data belongs to."""
    sets = {folder.name for folder in RESULTS.iterdir()}
    names = sorted(path.stem for path in Path(experiments.__file__).parent.glob("[a-z]*.py"))
    left = [f"`{name}`" for name in names if not sets & {f"{name}-short", f"{name}-paper"}]
    return f"*What is missing.* No set of the full data is here yet of {', '.join(left)}."


def runs_of(name: str) -> list[results.Run]:
    """Returns the runs of a set; a UserError if one cannot be read, since the page would not say so."""
    runs, files = results.read_runs(RESULTS / name), [*(RESULTS / name).glob(f"**/*{results.KEPT}")]
    if len(runs) != len(files):
        raise UserError(f"{RESULTS / name}: {len(runs)} of {len(files)} records can be read")
    return runs


def sections() -> Iterator[str]:
    """Yields the part of each set, those of the full data first."""
    names = sorted(
        (folder.name for folder in RESULTS.iterdir() if folder.is_dir()), key=lambda name: ("demo" in name, name)
    )
    for name in names:
        runs = runs_of(name)
        experiment: Experiment = experiment_of(RESULTS / name) or load_experiment(name)
        arms = experiment.arms(runs)
        verdicts = experiment.judge(arms)
        shutil.rmtree(DRAWN / name, ignore_errors=True)
        (figure,) = paper.save(experiment.main_chart(arms), DRAWN / name, ["page"], ["png"])
        durable.write(DRAWN / name / "table.md", tables.markdown(experiment.table(arms)))
        yield "\n".join(
            [
                f"## {name}",
                "",
                f"{experiment.claim} *{experiment.source}*",
                "",
                f"**{together([one.outcome for one in verdicts])}**",
                "",
                *(f"* {one.claim}: **{one.outcome}**. {one.evidence}" for one in verdicts),
                "",
                f"![{experiment.title}](results/{name}/{figure.name})",
                "",
                f"{counted(len(runs), 'run')}, {seeds_text(arms)} per arm. "
                f'<a href="sets/{name}/index.html">All figures, tables and runs</a> (in the site).',
                "",
                *(f"* {warning}" for warning in experiment.warnings(arms)),
                "",
                *pictures(name, arms),
                f"<details><summary>Table</summary>\n\n```{{include}} results/{name}/table.md\n```\n\n</details>",
                "",
                *(f"{note}\n" for note in experiment.notes),
                *(file.read_text() for file in [RESULTS / name / "notes.md"] if file.exists()),
            ]
        )


def pictures(name: str, arms: Sequence[Arm]) -> Iterator[str]:
    """Writes what the networks of a set make of images, and yields the pictures as Markdown; nothing of classifiers."""
    for label, content in page.pictures(arms).items():
        file = f"{re.sub('[^a-z0-9]+', '-', label.lower()).strip('-')}.png"
        durable.write(DRAWN / name / file, content)
        yield f"![What {label} makes of photographs, a row for each style](results/{name}/{file})\n\n*{label}*\n"


def signals() -> str:
    """Draws what make_signals.py has measured, and returns its table: norms and forms against depth."""
    networks = json.loads((ROOT / "docs/signals/start.json").read_text())["networks"]
    depths = sorted({network["depth"] for network in networks})
    panels, rows = [], dict[tuple[str, str], list[str]]()
    for title, number in STARTS.items():
        for shortcut, form in {"none": "plain", "A": "residual (A)"}.items():
            series = []
            for norm in dict.fromkeys(network["norm"] for network in networks):
                of = [network for network in networks if (network["norm"], network["shortcut"]) == (norm, shortcut)]
                values = {depth: [number(one) for one in of if one["depth"] == depth] for depth in depths}
                means = {depth: fmean(each) for depth, each in values.items() if None not in each}
                series.append(Series(norm, "line", list(means), list(means.values())))
                points = [(depth, value) for depth, each in values.items() for value in each if value is not None]
                series.append(Series(norm, "points", *zip(*points, strict=True)))
                cells = (f"{means[depth]:.2g}" if depth in means else "not finite" for depth in depths)
                rows.setdefault((form, norm), []).extend(cells)
            panels.append(Panel(f"{form}: {title}", series, own_scale=True))
    chart = Chart("start", panels, "", "", "depth", "", ticks=depths, log_x=True, unit="", columns=2)
    paper.save(chart, ROOT / "docs/signals", ["page"], ["png"])
    header = ["form", "norm", *(f"{title.partition(',')[0]}, depth {depth}" for title in STARTS for depth in depths)]
    table = [[*names, *cells] for names, cells in rows.items()]
    return tables.markdown(tables.Table(header, table, text_columns=2)).rstrip()


def of_readme() -> str:
    """Returns the README's table: networks on the full data beside the paper."""
    rows, captions = [], []
    for name, addition in SETS_OF_README.items():
        experiment = experiment_of(RESULTS / name)
        table = experiment.table(experiment.arms(runs_of(name)))
        places = [table.header.index(column) for column in OF_README]
        for row in table.rows:
            cells = dict(zip(OF_README, (row[place] for place in places), strict=True))
            rows.append(list((cells | {"setting": cells["setting"] + addition}).values()))
        captions.append(re.sub("; median[^.]*", "", table.caption))
    first, *others = captions
    _, _, made = others[-1].partition(" Run in ")
    return tables.markdown(
        tables.Table(OF_README, rows, f"{first} Rows with 64,000 steps: run in {made}", text_columns=2)
    ).rstrip()


def put(page: Path, name: str, text: str) -> None:
    """Replaces what stands in a page between the comments "begin NAME" and "end NAME"."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    """Writes the page, and the tables of docs/signals.md and of the README."""
    put(ROOT / "docs/signals.md", "probe", signals())
    put(ROOT / "README.md", "results", of_readme())
    text = "\n\n".join([INTRODUCTION, not_run(), *sections()])
    (ROOT / "docs/results.md").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
