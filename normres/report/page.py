"""One self-contained HTML page per experiment: no script, and nothing is fetched from anywhere."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normres.report.style import Drawing
from normres.report.tables import Table, html_table
from normres.report.verdict import RULE, Clause, Outcome, together

# A second lock: even a text that were not escaped could load or run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --quiet: #595959; --line: #d0d0d0;
  --soft: #f5f5f3; --yes: #00614a; --no: #a33800; --open: #5c5c5c; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #16181b; --text: #e6e6e6; --quiet: #a8a8a8;
  --line: #3c4046; --soft: #202329; --yes: #4fd1a5; --no: #ff9a5c; --open: #b5b5b5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; } .quiet { color: var(--quiet); font-size: .875rem; }
.claim { font-size: 1.05rem; border-left: 3px solid var(--line); padding-left: .8rem; margin: .8rem 0; }
.outcome { font-weight: 650; white-space: nowrap; }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); }
.verdict { font-size: 1.15rem; } ul { padding-left: 1.4rem; }
ul.clauses { list-style: none; padding-left: 0; } li { margin: .5rem 0; }
figure { margin: 1.2rem 0; } figure .scroll { margin: 0; }
figcaption { font-size: .875rem; color: var(--quiet); margin-top: .4rem; }
/* Figures stay white in the dark: they are drawn for white paper. */
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: 4px; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; border-bottom: 2px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { dl { display: block; } dd { margin-bottom: .5rem; } }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, li { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } td:nth-child(-n + 3) { white-space: normal; overflow-wrap: anywhere; } }
"""

_CLASS: dict[Outcome, str] = {"borne out": "yes", "not borne out": "no", "cannot be judged yet": "open"}


@dataclass(frozen=True)
class Page:
    """All that a report says, as plain text; `html` escapes it."""

    title: str
    claim: str
    source: str
    clauses: Sequence[Clause]
    warnings: Sequence[str]
    drawings: Sequence[Drawing]
    table: Table
    paper_table: Table
    paper_notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    runs: Table

    def html(self, folder: Path) -> str:
        """Returns the page with the figures' PNG files, which lie in `folder`."""
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{_text(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
                f'<h1>{_text(self.title)}</h1>\n<p class="claim">{_text(self.claim)}</p>',
                f'<p class="quiet">{_text(self.source)}</p>',
                self._verdict(),
                "<h2>Figures</h2>",
                *(_figure(drawing, folder) for drawing in self.drawings),
                f"<h2>Results</h2>\n{html_table(self.table)}",
                f"<h2>The paper’s numbers</h2>\n{html_table(self.paper_table)}",
                *(f"<p>{_text(note)}</p>" for note in self.paper_notes),
                f"<h2>What was run</h2>\n<dl>\n{self._facts()}\n</dl>",
                f"<h2>Runs</h2>\n{html_table(self.runs)}",
                "</main>\n</body>\n</html>\n",
            ]
        )

    def _verdict(self) -> str:
        """Returns the verdict clause by clause, its rule, and the warnings."""
        overall = together([clause.outcome for clause in self.clauses])
        good = sum(clause.outcome == "borne out" for clause in self.clauses)
        items = "\n".join(
            f"<li>{_text(clause.claim)}: {_outcome(clause.outcome)}.<br>"
            f'<span class="quiet">{_text(clause.evidence)}</span></li>'
            for clause in self.clauses
        )
        lines = [
            f'<h2>Verdict</h2>\n<p class="verdict">{_outcome(overall)} '
            f'<span class="quiet">({good} of {len(self.clauses)} clauses borne out)</span></p>',
            f'<ul class="clauses">\n{items}\n</ul>\n<p class="quiet">{_text(RULE)}</p>',
        ]
        if self.warnings:
            warned = "\n".join(f"<li>{_text(warning)}</li>" for warning in self.warnings)
            lines.append(f"<h2>Warnings</h2>\n<ul>\n{warned}\n</ul>")
        return "\n".join(lines)

    def _facts(self) -> str:
        return "\n".join(f"<dt>{_text(what)}</dt><dd>{_text(value)}</dd>" for what, value in self.facts)


def _figure(drawing: Drawing, folder: Path) -> str:
    """Returns a figure with its PNG inside."""
    data = base64.b64encode((folder / f"{drawing.name}.png").read_bytes()).decode("ascii")
    inches = drawing.figure.get_figwidth()
    # 1.3 times the printed width, because a screen is farther from the eye than paper.  At least 0.8 times on a
    # telephone, where the figure scrolls sideways: its letters would be too small otherwise.
    return (
        f'<figure><div class="scroll"><img src="data:image/png;base64,{data}" '
        f'alt="{_text(drawing.alternative)}" '
        f'style="width: {1.3 * inches:.2f}in; min-width: {0.8 * inches:.2f}in"></div>'
        f"<figcaption>{_text(drawing.caption)}</figcaption></figure>"
    )


def _outcome(outcome: Outcome) -> str:
    return f'<span class="outcome {_CLASS[outcome]}">{_text(outcome)}</span>'


def _text(text: str) -> str:
    # No line break between a number and its percent sign.
    return html.escape(text, quote=True).replace(" %", "&nbsp;%")
