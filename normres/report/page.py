"""One self-contained HTML page per experiment: its figures can be zoomed and its tables sorted, without a network."""

import base64
import hashlib
import os
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from normres.report import facts, interactive, tables
from normres.report.arms import Arm, run_id
from normres.report.charts import Chart
from normres.report.inference import RULE, together
from normres.runs import durable, note, papers
from normres.runs.results import Run

if TYPE_CHECKING:
    from normres.report.experiment import Experiment

CLASSES = {"supported": "yes", "contradicted": "no", "cannot be judged yet": "open"}


def write(experiment: "Experiment", arms: Sequence[Arm], charts: Sequence[Chart], output: Path) -> list[Path]:
    """Writes table.md, table.tex, table.csv and index.html to `output`; returns their paths."""
    runs = [run for arm in arms for run in arm.runs]
    verdicts, table = experiment.judge(arms), experiment.table(arms)
    copies = {
        "CSV": facts.runs_csv(arms),
        "LaTeX (booktabs)": tables.latex(table),
        "Markdown": tables.markdown(table),
        "BibTeX": bibtex(runs),
    }
    html = _render(
        "page.html",
        experiment=experiment,
        verdicts=verdicts,
        overall=together([verdict.outcome for verdict in verdicts]),
        good=sum(verdict.outcome == "supported" for verdict in verdicts),
        rule=RULE,
        warnings=experiment.warnings(arms),
        figures=[(chart, interactive.figure(chart)) for chart in charts],
        pictures={label: base64.b64encode(content).decode() for label, content in pictures(arms).items()},
        results=table,
        links_of_arms=[f"#{quote(run_id(arm.runs[0]))}" for arm in arms],
        copies=copies,
        paper_table=experiment.paper_table(arms),
        paper_notes=experiment.notes,
        facts=facts.what_was_run(runs),
        scopes=[Markup(_asset(name)) for name in _scopes(runs)],
        runs=facts.run_table(arms),
        links_of_runs=[f"#{quote(run_id(run))}" for run in runs],  # of two copies of a run to the same details
        commands={run_id(run): shlex.join(note.repeat_command(run.config, Path("runs/again"))) for run in runs},
        records={run_id(run): quote(os.path.relpath(run.record_file, output)) for run in runs},
    )
    texts = {"table.md": copies["Markdown"], "table.tex": copies["LaTeX (booktabs)"], "table.csv": copies["CSV"]}
    return [durable.write(output / name, text) for name, text in {**texts, "index.html": html}.items()]


def pictures(arms: Sequence[Arm]) -> dict[str, bytes]:
    """Returns by arm the mosaic, a PNG file, of its first run that finished; nothing of arms that make no images."""
    files = {arm.label: arm.finished[0].pictures_file for arm in arms if arm.finished}
    return {label: path.read_bytes() for label, path in files.items() if path.is_file()}


def write_index(rows: Sequence[tuple[str, str, str, int]], output: Path) -> Path:
    """Writes the page that lists all experiments: folder, title, outcome and number of runs; returns its path."""
    return durable.write(output / "index.html", _render("index.html", rows=rows))


def bibtex(runs: Sequence[Run]) -> str:
    """Returns the entries of the software and of the papers whose parts the runs have."""
    attempts = [attempt for run in runs for attempt in run.record.get("attempts") or ()]
    versions = ((attempt.get("versions") or {}).get("normres") for attempt in attempts)
    commits = (attempt.get("commit") for attempt in attempts)
    version, commit = (", ".join(dict.fromkeys(filter(None, each))) for each in (versions, commits))
    entries = [papers.software(version, commit)]
    return "\n\n".join([*entries, *papers.cited([run.config for run in runs])])


def _scopes(runs: Sequence[Run]) -> list[str]:
    """Returns the pictures of what the runs' norms average over; an unnamed combination of axes has none."""
    names = dict.fromkeys(f"scopes/{run.config['model'].get('norm')}.svg" for run in runs)
    return [name for name in names if name in _environment().list_templates(extensions=["svg"])]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("normres.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["outcome_class"] = CLASSES.__getitem__
    return environment


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    """Renders a template.  Only the scripts whose checksums the policy names can run: no text of a run can."""
    scripts = [_asset("page.js")]
    if "figures" in values:
        scripts.insert(0, get_plotlyjs())  # in the page, so that it needs no network
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sums}; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(**values, policy=policy, style=Markup(_asset("page.css")), scripts=[Markup(one) for one in scripts])
    )
