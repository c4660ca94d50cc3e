"""Tables as Markdown, LaTeX and HTML, which tabulate writes; and the cells that all tables share."""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from normres.report.statistics import Arm, Summary

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Plain texts in rows; the first `text_columns` columns are aligned left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells under a header of {len(self.header)}: {row}")


def of_columns[Item](columns: Mapping[str, Callable[[Item], str]], items: Iterable[Item], caption: str) -> Table:
    """Returns a table with a row per item, whose cells the columns' functions make; two columns are text."""
    rows = [tuple(cell(item) for cell in columns.values()) for item in items]
    return Table(tuple(columns), rows, caption, 2)


def percent(summary: Summary | None, digits: int = 2) -> str:
    """Returns "8.75" for one seed, "8.75 ± 0.12" (sample standard deviation) for several, "–" for none."""
    if summary is None:
        return NOTHING
    mean = f"{100 * summary.mean:.{digits}f}"
    if summary.standard_deviation is None:
        return mean
    return f"{mean} ± {100 * summary.standard_deviation:.{digits}f}"


def error_cell(arm: Arm, metric: str, digits: int = 2) -> str:
    """Returns an arm's error over the seeds that finished, and the steps at which the others diverged."""
    summary = arm.summary(metric)
    if not arm.diverged:
        return percent(summary, digits) if summary or not arm.unfinished else "not finished"
    steps = sorted({int(run.record["diverged_at_step"] or 0) for run in arm.diverged})
    diverged = f"diverged at step {', '.join(f'{step:,}' for step in steps)}"
    return f"{percent(summary, digits)} ({len(arm.diverged)} {diverged})" if summary else diverged


def seeds_cell(arm: Arm) -> str:
    """Returns the number of seeds that finished, "2 of 3" if others did not."""
    finished = len(arm.finished)
    return str(finished) if finished == len(arm.runs) else f"{finished} of {len(arm.runs)}"


def parameters_cell(arm: Arm) -> str:
    """Returns the number of parameters, 272,474; more than one number if the runs disagree."""
    counts = sorted({run.record["parameters"] for run in arm.runs if run.record.get("parameters") is not None})
    return " / ".join(f"{count:,}" for count in counts) or NOTHING


def markdown(table: Table) -> str:
    """Returns the table as a Markdown (GitHub) table under its caption."""
    caption = f"{_markdown_text(table.caption)}\n\n" if table.caption else ""
    return f"{caption}{_written(table, 'pipe', _markdown_text)}\n"


def latex(table: Table) -> str:
    r"""Returns the table as a LaTeX tabular for \usepackage{booktabs}; the caption is a comment above it."""
    caption = f"% {_one_line(table.caption)}\n" if table.caption else ""
    text = _written(table, "latex_booktabs").translate(_LATEX)
    # At the start of a row, these two would be read as arguments of the \\ before it.
    text = re.sub(r"^ (?=[\[*])", " {}", text, flags=re.M)
    return f"{caption}% needs \\usepackage{{booktabs}}\n{text}\n"


def html_table(table: Table) -> str:
    """Returns the table as an HTML table inside a box that scrolls sideways on a narrow screen."""
    # Above the box and not a <caption> in it, because it would scroll away with the columns.
    caption = f'<p class="quiet">{html.escape(table.caption)}</p>\n' if table.caption else ""
    name = html.escape(table.caption or "table", quote=True)
    # tabindex lets a keyboard scroll the box.
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
    return f"{caption}{box}\n{_written(table, 'html')}\n</div>"


def _one_line(text: str) -> str:
    """Returns the text without line breaks and other control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _markdown_text(text: str) -> str:
    """Escapes what Markdown would read as markup or as the end of a cell."""
    return re.sub(r"([\\|`*_<>\[\]#~])", r"\\\1", _one_line(text).replace("&", "&amp;"))


def _written(table: Table, style: str, cleaned: Callable[[str], str] = _one_line) -> str:
    """Returns what tabulate makes of the cleaned cells; for LaTeX and HTML, tabulate escapes them itself."""
    header, *rows = [list(map(cleaned, row)) for row in (table.header, *table.rows)]
    alignment = ["left" if column < table.text_columns else "right" for column in range(len(header))]
    return str(tabulate(rows, header, tablefmt=style, colalign=alignment, disable_numparse=True))


# The symbols of reports that an older LaTeX does not read.
_LATEX = str.maketrans({"±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "–": "--"})
