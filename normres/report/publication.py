"""An experiment's files: figures as PNG and PDF, the table as Markdown and LaTeX, and the page that holds it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from normres.report import curves, facts, tables
from normres.report.files import write_file
from normres.report.page import Drawing, Page
from normres.report.statistics import Arm, field
from normres.report.style import PAGE_INCHES, save
from normres.report.verdict import RULE, Clause


@dataclass(frozen=True)
class Sketch:
    """A figure that is not written yet: its file name, the text for who cannot see it, caption, width in inches."""

    name: str
    figure: Figure
    alternative: str
    caption: str
    inches: float


def seeds_text(arms: Sequence[Arm]) -> tuple[str, bool]:
    """Returns "3 seeds" or "1 to 3 seeds", for a caption, and whether any arm has several."""
    counts = {len(arm.runs) for arm in arms}
    number = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{number} seed{'' if counts == {1} else 's'}", max(counts) > 1


def curves_sketch(lines: Mapping[str, Sequence[Arm]]) -> Sketch:
    """Returns error over training steps, a panel per line and a curve per depth."""
    arms = [arm for members in lines.values() for arm in members]
    steps = max(field(run, "train.steps") for arm in arms for run in arm.runs)
    _, several = seeds_text(arms)
    return Sketch(
        "curves",
        curves.training_curves(lines, label=lambda arm: str(arm.key["model.depth"]), steps=steps),
        "Training and test error over training steps, one curve per depth and one panel per variant.",
        "Error over training steps; the number at the end of a curve is the depth. Thin: training error, "
        "running mean of the mini-batches, as augmented. Bold: test error"
        + (", both averaged over seeds." if several else ".")
        + " The vertical axis ends at about twice the largest final error, or at 100 %.",
        PAGE_INCHES,
    )


def publish(
    output_directory: Path,
    sketches: Sequence[Sketch],
    *,
    title: str,
    claim: str,
    source: str,
    clauses: Sequence[Clause],
    arms: Sequence[Arm],
    missing: Sequence[str],
    table: tables.Table,
    paper_table: tables.Table,
    paper_notes: Sequence[str],
) -> list[Path]:
    """Writes NAME.png and NAME.pdf of each sketch, table.md, table.tex and index.html; returns their paths."""
    written: list[Path] = []
    drawings = []
    for sketch in sketches:
        pair = save(sketch.figure, output_directory / sketch.name)
        drawings.append(Drawing(pair[0], sketch.alternative, sketch.caption, sketch.inches))
        written += pair
    runs = [run for arm in arms for run in arm.runs]
    names = {run.path: arm.label for arm in arms for run in arm.runs}
    page = Page(
        title=title,
        claim=claim,
        source=source,
        clauses=clauses,
        rule=RULE,
        warnings=facts.warnings(arms, missing=missing),
        drawings=drawings,
        table=table,
        paper_table=paper_table,
        paper_notes=paper_notes,
        facts=facts.what_was_run(runs),
        runs=facts.run_table(runs, lambda run: names[run.path]),
    )
    return [
        *written,
        write_file(output_directory / "table.md", tables.markdown(table)),
        write_file(output_directory / "table.tex", tables.latex(table)),
        write_file(output_directory / "index.html", page.html()),
    ]
