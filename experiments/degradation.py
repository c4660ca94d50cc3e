"""Degradation: deeper plain nets train to a higher training error, residual nets do not.

He, Zhang, Ren, Sun 2015, arXiv 1512.03385, section 4.2: table 6 and figure 6.  The runs it needs are the
sweep of `CONFIG`; `draw` reads their result files only.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from normres.errors import UserError
from normres.report import facts, figures, tables
from normres.report.evidence import chance, digits, diverged_note, scale_notes, training_images
from normres.report.lines import DEPTH, SHORTCUT, arms_of, context_of, lines_of, missing_arms
from normres.report.publication import Sketch, curves_sketch, publish, seeds_text
from normres.report.statistics import Arm, Summary, field
from normres.report.style import COLUMN_INCHES
from normres.report.verdict import Clause, Difference, Outcome, together
from normres.runs.results import Run

CONFIG = "configs/degradation.py"
TITLE = "Degradation: training error of plain and residual nets against depth"
CLAIM = (
    "With depth, the training error of plain nets rises, although a deeper net could copy a shallower one; "
    "with shortcuts it does not rise, and at the largest depth the residual net is the better of the two."
)
SOURCE = "He, Zhang, Ren, Sun 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2."

# Table 6: CIFAR-10 test error (%) of residual nets (shortcut A, width 16, 64,000 steps, 50,000 images).
PAPER_RESIDUAL = {20: "8.75", 32: "7.51", 44: "7.17", 56: "6.97", 110: "6.43 (6.61 ± 0.16)", 1202: "7.93"}
# Figure 6 draws the plain nets and tabulates none of them.
PAPER_PLAIN = (
    "For plain nets the paper gives an order and no table: training error of plain-20 < plain-32 < "
    "plain-44 < plain-56 (figure 6); plain-110 stays above 60 % error and is not drawn. "
    "6.43 is the best of 5 runs."
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py.

    Lines are compared only with lines that differ in the shortcut and in nothing else.
    """
    contexts: dict[str, dict[str, list[Arm]]] = {}
    for label, members in lines_of(arms).items():
        contexts.setdefault(context_of(members[0].key), {})[label] = members
    clauses = []
    for context, lines in (contexts or {"": {}}).items():
        suffix = f" [{context}]" if context else ""
        plain = [members for members in lines.values() if members[0].key[SHORTCUT] == "none"]
        residual = {label: members for label, members in lines.items() if members[0].key[SHORTCUT] != "none"}
        clauses += _judge_plain(plain[0] if plain else [], suffix)
        for label, members in (residual or {f"residual{suffix}": []}).items():
            clauses += _judge_residual(label, members, plain[0] if plain else [])
    return clauses


def _judge_plain(arms: Sequence[Arm], suffix: str) -> list[Clause]:
    """Judges clause (a): plain nets degrade, and at every step of depth."""
    ends = f"(a) Plain nets{suffix}: the training error is higher at the deepest than at the shallowest"
    steps = f"(a′) Plain nets{suffix}: the training error rises at every step of depth"
    judged, lack = _judged(arms, "plain")
    if lack:
        return [Clause(claim, "cannot be judged yet", lack) for claim in (ends, steps)]
    steps_up = [(a[0], b[0], Difference(a[1], b[1])) for a, b in pairwise(judged)]
    rises = "; ".join(f"{a} → {b}: {difference.text()}" for a, b, difference in steps_up)
    each = together([difference.is_higher() for _, _, difference in steps_up])
    overall = Difference(judged[0][1], judged[-1][1])
    return [
        Clause(ends, overall.is_higher(), f"{_listed(judged)}; difference {overall.text()}.{_notes(judged)}"),
        Clause(steps, each, f"{rises}."),
    ]


def _judge_residual(label: str, arms: Sequence[Arm], plain: Sequence[Arm]) -> list[Clause]:
    """Judges clauses (b), residual nets do not degrade, and (c), the deepest one beats the plain net."""
    name = label[0].upper() + label[1:]
    ends = f"(b) {name}: the training error is no higher at the deepest than at the shallowest"
    below = f"(c) {name}: at the largest depth the training error is below the plain net’s"
    clauses = []
    judged, lack = _judged(arms, "residual")
    if lack:
        clauses.append(Clause(ends, "cannot be judged yet", lack))
    else:
        overall = Difference(judged[0][1], judged[-1][1])
        evidence = f"{_listed(judged)}; difference {overall.text()}.{_notes(judged)}"
        clauses.append(Clause(ends, overall.is_not_higher(), evidence))
    return [*clauses, _judge_below(below, arms, plain)]


def _judge_below(claim: str, arms: Sequence[Arm], plain: Sequence[Arm]) -> Clause:
    """Judges clause (c) at the largest depth that was run; both variants must have it."""
    unknown: Outcome = "cannot be judged yet"
    if not arms or not plain:
        return Clause(claim, unknown, f"There is no {'residual' if not arms else 'plain'} run.")
    deepest = max(arm.key[DEPTH] for arm in (*arms, *plain))
    found = {}
    for name, members in (("plain", plain), ("residual", arms)):
        found[name] = [entry for entry in _entries(members) if entry[0] == deepest]
        if not found[name]:
            return Clause(claim, unknown, f"There is no {name} run of depth {deepest} that is done.")
    ((_, plain_error, _),) = found["plain"]
    ((_, residual_error, _),) = found["residual"]
    difference = Difference(plain_error, residual_error)
    notes = _notes([*found["plain"], *found["residual"]])
    numbers = f"plain {tables.percent(plain_error)} %, residual {tables.percent(residual_error)} %"
    text = f"Depth {deepest}: {numbers}; difference {difference.text()}.{notes}"
    return Clause(claim, difference.is_lower(), text)


# A depth, its training error with diverged runs at chance, and its arm.
Entry = tuple[int, Summary, Arm]


def _entries(arms: Sequence[Arm]) -> list[Entry]:
    """Returns the depths whose arms have a run that is done."""
    entries = []
    for arm in arms:
        if summary := arm.summary("train_error", diverged_as=chance(arm)):
            entries.append((arm.key[DEPTH], summary, arm))
    return entries


def _judged(arms: Sequence[Arm], name: str) -> tuple[list[Entry], str]:
    """Returns the depths that can be judged, and what is missing if they are not enough."""
    entries = _entries(arms)
    if not arms:
        return entries, f"There is no {name} run."
    waiting = [str(arm.key[DEPTH]) for arm in arms if arm.key[DEPTH] not in [entry[0] for entry in entries]]
    if waiting:
        return entries, f"No {name} run is done at depth {', '.join(waiting)}."
    if len(entries) < 2:
        return entries, f"There is only one depth of {name} nets ({entries[0][0]}); two are needed."
    return entries, ""


def _listed(entries: Sequence[Entry]) -> str:
    return ", ".join(f"depth {depth}: {tables.percent(summary)} %" for depth, summary, _ in entries)


def _notes(entries: Sequence[Entry]) -> str:
    return diverged_note([arm for _, _, arm in entries])


def _overfitting(lines: dict[str, list[Arm]]) -> str:
    """Says where the test error rises with depth although the training error does not: that is not degradation."""
    sentences = []
    for label, members in lines.items():
        ends = [members[0], members[-1]]
        shallow, deep = ([arm.summary(f"{split}_error") for split in ("train", "test")] for arm in ends)
        if not (shallow[0] and shallow[1] and deep[0] and deep[1]):
            continue
        train, test = Difference(shallow[0], deep[0]), Difference(shallow[1], deep[1])
        if train.is_lower() == test.is_higher() == "borne out":
            sentences.append(
                f" From depth {ends[0].key[DEPTH]} to {ends[1].key[DEPTH]} the test error of {label} rises, but its "
                f"training error falls: the deeper net overfits the {training_images(ends[1]):,} training images, "
                "which is not degradation."
            )
    return "".join(sentences)


def table(arms: Sequence[Arm]) -> tables.Table:
    """Returns the table of results, one row per arm."""
    places = digits(arms)
    rows = tuple(
        (
            label,
            str(arm.key[DEPTH]),
            tables.parameters_cell(arm),
            tables.seeds_cell(arm),
            tables.error_cell(arm, "train_error", places),
            tables.error_cell(arm, "test_error", places),
            _paper_cell(arm),
        )
        for label, members in lines_of(arms).items()
        for arm in members
    )
    header = (
        "network",
        "depth",
        "parameters",
        "seeds",
        "training error (%)",
        "test error (%)",
        "paper, test (%)",
    )
    caption = (
        "Errors at the last step over the whole training and test set; mean ± sample standard deviation over "
        "the seeds that finished. " + facts.provenance([run for arm in arms for run in arm.runs])
    )
    return tables.Table(header, rows, caption)


def _paper_cell(arm: Arm) -> str:
    """Returns the paper's number for this net, where the paper has this net."""
    run = arm.runs[0]
    same = {"data.name": "cifar10", SHORTCUT: "A", "model.order": "post", "model.norm": "batch"}
    if any(field(run, name) != value for name, value in same.items()):
        return tables.NOTHING
    return PAPER_RESIDUAL.get(arm.key[DEPTH], tables.NOTHING)


def _paper_table(arms: Sequence[Arm]) -> tables.Table:
    """Returns the paper's test errors beside ours at the same depths."""
    lines = {label: members for label, members in lines_of(arms).items() if members[0].key[SHORTCUT] != "none"}
    rows = []
    for depth, number in PAPER_RESIDUAL.items():
        ours = [next((arm for arm in members if arm.key[DEPTH] == depth), None) for members in lines.values()]
        cells = [tables.error_cell(arm, "test_error") if arm else "not run" for arm in ours]
        rows.append((str(depth), number, *cells))
    header = ("depth", "paper, residual (A)", *(f"here, {label}" for label in lines))
    return tables.Table(header, tuple(rows), "Test error (%) of residual nets: the paper’s table 6, and here.", 0)


def _paper_notes(arms: Sequence[Arm]) -> list[str]:
    """Returns what the paper says of plain nets, our order beside it, and in what the scale differs."""
    notes = [PAPER_PLAIN]
    for label, members in lines_of(arms).items():
        entries = sorted(_entries(members), key=lambda entry: entry[1].mean)
        if members[0].key[SHORTCUT] == "none" and entries:
            order = " < ".join(f"plain-{depth} ({tables.percent(summary)} %)" for depth, summary, _ in entries)
            notes.append(f"Here, {label}, training error: {order}.{_notes(entries)}")
    return notes + scale_notes(arms)


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes degradation.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths.

    Raises:
      UserError: there is no run, or a result file lacks a field.
    """
    if not runs:
        raise UserError(f"there is no run to report; `normres sweep --config={CONFIG}` makes them")
    arms = arms_of(runs)
    lines = lines_of(arms)
    seeds, several = seeds_text(arms)
    against_depth = Sketch(
        "degradation",
        figures.error_against_depth(lines),
        "Final training and test error against depth, one line per variant; the table has the numbers.",
        f"Error at the last step against depth, {seeds} per point"
        + (": the line joins the means, dashes are seeds" if several else "")
        + ". A cross at the upper edge marks diverged runs; means are over the runs that finished."
        + _overfitting(lines),
        COLUMN_INCHES,
    )
    return publish(
        output_directory,
        [against_depth, curves_sketch(lines)],
        title=TITLE,
        claim=CLAIM,
        source=SOURCE,
        clauses=judge(arms),
        arms=arms,
        missing=missing_arms(arms),
        table=table(arms),
        paper_table=_paper_table(arms),
        paper_notes=_paper_notes(arms),
    )
