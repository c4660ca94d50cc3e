"""Tables as Markdown and LaTeX, which tabulate writes; and the cells that all tables share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from normres.report.arms import Arm, seed
from normres.report.inference import Summary
from normres.report.labels import scale_of

NOTHING = "–"
# The symbols of reports that an older LaTeX does not read.
LATEX = str.maketrans({"±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "–": "--"})


@dataclass(frozen=True)
class Table:
    """Plain texts in rows; the first `text_columns` columns are aligned left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1
    footnotes: Sequence[str] = ()


def number(summary: Summary | None, digits: int = 2, scale: float = 1.0) -> str:
    """Returns "8.75" for one seed, "8.75 ± 0.12" (sample standard deviation) for several, "–" for none."""
    if summary is None:
        return NOTHING
    mean = f"{scale * summary.mean:.{digits}f}".replace("-", "−")
    if summary.standard_deviation is None:
        return mean
    return f"{mean} ± {scale * summary.standard_deviation:.{digits}f}"


def error_cell(arm: Arm, metric: str, digits: int) -> str:
    """Returns an arm's final number over the seeds that finished; "diverged" if none did, the number of those else."""
    summary = arm.summary(metric)
    text = number(summary, digits, scale_of(metric))
    if arm.diverged:
        return f"{text} ({len(arm.diverged)} diverged)" if summary else "diverged"
    return "not finished" if arm.unfinished and not summary else text


def seeds_cell(arm: Arm) -> str:
    """Returns the number of seeds that finished, "2 of 3" if others did not."""
    finished, every = (len(set(map(seed, runs))) for runs in (arm.finished, arm.runs))
    return str(finished) if finished == every else f"{finished} of {every}"


def parameters_cell(arm: Arm) -> str:
    """Returns the number of parameters, 272,474; more than one number if the runs disagree."""
    counts = sorted({run.record["parameters"] for run in arm.runs if run.record.get("parameters") is not None})
    return " / ".join(f"{count:,}" for count in counts) or NOTHING


def markdown(table: Table) -> str:
    """Returns the table as a Markdown (GitHub) table under its caption."""
    caption = f"{_markdown_text(table.caption)}\n\n" if table.caption else ""
    footnotes = "".join(f"\n{_markdown_text(note)}\n" for note in table.footnotes)
    return f"{caption}{written(table, 'pipe', _markdown_text)}\n{footnotes}"


def latex(table: Table) -> str:
    r"""Returns the table as a LaTeX tabular for \usepackage{booktabs}; the caption is a comment above it."""
    caption = f"% {_one_line(table.caption)}\n" if table.caption else ""
    text = written(table, "latex_booktabs", _one_line).translate(LATEX)
    # At the start of a row, these two would be read as arguments of the \\ before it.
    text = re.sub(r"^ (?=[\[*])", " {}", text, flags=re.M)
    footnotes = "".join(f"% {_one_line(note)}\n" for note in table.footnotes)
    return f"{caption}% needs \\usepackage{{booktabs}}\n{text}\n{footnotes}"


def _one_line(text: str) -> str:
    """Returns the text without line breaks and other control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _markdown_text(text: str) -> str:
    """Escapes what Markdown would read as markup or as the end of a cell."""
    return re.sub(r"([\\|`*_<>\[\]#~])", r"\\\1", _one_line(text).replace("&", "&amp;"))


def written(table: Table, style: str, cleaned: Callable[[str], str]) -> str:
    """Returns what tabulate makes of the cleaned cells; for LaTeX it escapes them itself."""
    header, *rows = [list(map(cleaned, row)) for row in (table.header, *table.rows)]
    alignment = ["left" if column < table.text_columns else "right" for column in range(len(header))]
    return str(tabulate(rows, header, tablefmt=style, colalign=alignment, disable_numparse=True))
