"""One table value, written as Markdown, LaTeX (booktabs) or HTML."""

import html
import re
from dataclasses import dataclass

from normres.report.statistics import Arm, Summary

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Plain texts in rows; the first `text_columns` columns are set left, the others right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells under a header of {len(self.header)}: {row}")

    def is_text(self, column: int) -> bool:
        """Whether a column is set left."""
        return column < self.text_columns


def percent(summary: Summary | None, digits: int = 2) -> str:
    """Returns "8.75" for one seed, "8.75 ± 0.12" (sample standard deviation) for several, "–" for none."""
    if summary is None:
        return NOTHING
    mean = f"{100 * summary.mean:.{digits}f}"
    if summary.standard_deviation is None:
        return mean
    return f"{mean} ± {100 * summary.standard_deviation:.{digits}f}"


def error_cell(arm: Arm, metric: str, digits: int = 2) -> str:
    """Returns an arm's error over the seeds that finished, and which steps the others diverged at."""
    parts = []
    if summary := arm.summary(metric):
        parts.append(percent(summary, digits))
    if arm.diverged:
        steps = sorted({int(run.record["diverged_at_step"] or 0) for run in arm.diverged})
        where = f"diverged at step {', '.join(f'{step:,}' for step in steps)}"
        parts.append(f"({len(arm.diverged)} {where})" if parts else where)
    return " ".join(parts) or ("not finished" if arm.unfinished else NOTHING)


def seeds_cell(arm: Arm) -> str:
    """Returns the number of seeds that finished, "2 of 3" if others did not."""
    finished = len(arm.finished)
    return str(finished) if finished == len(arm.runs) else f"{finished} of {len(arm.runs)}"


def parameters_cell(arm: Arm) -> str:
    """Returns the number of parameters, 272,474; more than one number if the runs disagree."""
    counts = sorted({run.record["parameters"] for run in arm.runs if run.record.get("parameters") is not None})
    return " / ".join(f"{count:,}" for count in counts) or NOTHING


def markdown(table: Table) -> str:
    """Returns the table as a Markdown (GitHub) table, padded so that the source reads as a table too."""
    rows = [[_markdown_text(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.header))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if table.is_text(column) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w if table.is_text(c) else "-" * (w - 1) + ":") for c, w in enumerate(widths)]
    lines = [line(rows[0]), line(rule), *(line(row) for row in rows[1:])]
    caption = [_markdown_text(table.caption), ""] if table.caption else []
    return "\n".join([*caption, *lines]) + "\n"


def latex(table: Table) -> str:
    r"""Returns the table as a LaTeX tabular for \usepackage{booktabs}; the caption is a comment above it."""
    caption = [f"% {_one_line(table.caption)}"] if table.caption else []
    columns = "".join("l" if table.is_text(column) else "r" for column in range(len(table.header)))
    rows = [" & ".join(_latex_text(cell) for cell in row) + r" \\" for row in (table.header, *table.rows)]
    lines = [
        *caption,
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def html_table(table: Table) -> str:
    """Returns the table as an HTML table inside a box that scrolls sideways on a narrow screen."""
    # Above the box and not a <caption> in it, because it would scroll away with the columns.
    caption = f'<p class="quiet">{html.escape(table.caption)}</p>\n' if table.caption else ""

    def row(cells: tuple[str, ...], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{'' if table.is_text(column) else ' class="number"'}>{html.escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    name = html.escape(table.caption or "table", quote=True)
    # tabindex lets a keyboard scroll the box.
    return (
        f'{caption}<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table>\n'
        f"<thead><tr>{row(table.header, 'th')}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _one_line(text: str) -> str:
    """Returns the text without line breaks and other control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _markdown_text(text: str) -> str:
    """Escapes what Markdown would read as markup or as the end of a cell."""
    return re.sub(r"([\\|`*_<>\[\]#~])", r"\\\1", _one_line(text).replace("&", "&amp;"))


_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # at the start of a row these two would be read as arguments of the \\\\ before it
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
}


def _latex_text(text: str) -> str:
    """Escapes LaTeX's special characters, and writes the few symbols that reports use as commands."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))
