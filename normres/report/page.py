"""One self-contained HTML page per experiment: its figures can be zoomed and its tables sorted, without a network."""

import base64
import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from normres.report import facts, interactive, tables
from normres.report.arms import Arm, run_id
from normres.report.charts import Chart
from normres.report.clauses import Verdict
from normres.report.files import write_file
from normres.report.inference import RULE, together
from normres.report.tables import Table
from normres.runs import note, papers
from normres.runs.results import Run

CLASSES = {"borne out": "yes", "not borne out": "no", "cannot be judged yet": "open"}


@dataclass(frozen=True)
class Page:
    """All that a report says, as plain text, which the template escapes."""

    title: str
    claim: str
    source: str
    verdicts: Sequence[Verdict]
    warnings: Sequence[str]
    charts: Sequence[Chart]
    table: Table
    paper_table: Table | None
    paper_notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    arms: Sequence[Arm]
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, output: Path) -> list[Path]:
        """Writes table.md, table.tex, table.csv and index.html to `output`; returns their paths."""
        texts = {
            "table.md": tables.markdown(self.table),
            "table.tex": tables.latex(self.table),
            "table.csv": facts.runs_csv(self.arms),
        }
        runs = [run for arm in self.arms for run in arm.runs]
        html = _render(
            "page.html",
            page=self,
            overall=together([verdict.outcome for verdict in self.verdicts]),
            good=sum(verdict.outcome == "borne out" for verdict in self.verdicts),
            rule=RULE,
            runs=facts.run_table(self.arms),
            links_of_arms=[f"#{run_id(arm.runs[0])}" for arm in self.arms],
            links_of_runs=[f"#{run_id(run)}" for run in runs],  # of two copies of a run to the same details
            commands={run_id(run): shlex.join(note.repeat_command(run.config, Path("runs/again"))) for run in runs},
            records={run_id(run): _relative(run, output) for run in runs},
            copies={
                "CSV": texts["table.csv"],
                "LaTeX (booktabs)": texts["table.tex"],
                "Markdown": texts["table.md"],
                "BibTeX": bibtex(runs),
            },
            scopes=[Markup(_asset(name)) for name in _scopes(runs)],
            pictures={label: base64.b64encode(content).decode() for label, content in self.pictures.items()},
            figures=[(chart, interactive.figure(chart)) for chart in self.charts],
        )
        return [
            *(write_file(output / name, text) for name, text in texts.items()),
            write_file(output / "index.html", html),
        ]


@dataclass(frozen=True)
class Entry:
    """A line of the index page: an experiment's title, its outcome, its address and how many runs it has."""

    title: str
    outcome: str
    address: str
    runs: int

    @classmethod
    def of(cls, experiment: Any, folder: str, runs: Sequence[Run]) -> "Entry":
        """Returns the entry of an experiment, or of runs without one (None), whose page is in `folder`."""
        verdicts = experiment.judge(experiment.arms(runs)) if getattr(experiment, "clauses", ()) else []
        outcome = together([verdict.outcome for verdict in verdicts]) if verdicts else "no claim"
        return cls(getattr(experiment, "title", folder), outcome, quote(f"{folder}/index.html"), len(runs))


def write_index(entries: Sequence[Entry], output: Path) -> Path:
    """Writes the page that lists all experiments, and returns its path."""
    return write_file(output / "index.html", _render("index.html", entries=entries))


def bibtex(runs: Sequence[Run]) -> str:
    """Returns the entries of the software and of the papers whose parts the runs have."""
    versions = runs[-1].attempt.get("versions") or {}
    entries = [papers.software(versions.get("normres", ""), runs[-1].attempt.get("commit"))]
    return "\n\n".join([*entries, *papers.cited([run.config for run in runs])])


def _scopes(runs: Sequence[Run]) -> list[str]:
    """Returns the pictures of what the runs' norms average over; an unnamed combination of axes has none."""
    names = dict.fromkeys(f"scopes/{run.config['model'].get('norm')}.svg" for run in runs)
    return [name for name in names if name in _environment().list_templates(extensions=["svg"])]


def _relative(run: Run, output: Path) -> str:
    """Returns the address of a run's record, from the page's folder."""
    return quote(Path(os.path.relpath(run.record_file, output)).as_posix())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("normres.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["outcome_class"] = CLASSES.__getitem__
    return environment


@cache
def _asset(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _render(template: str, **values: Any) -> str:
    """Renders a template.  Only the scripts whose checksums the policy names can run: no text of a run can."""
    scripts = [_asset("page.js")]
    if "figures" in values:
        scripts.insert(0, interactive.script())
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
