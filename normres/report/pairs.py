"""Two sets of runs side by side: each arm's mean in both, the difference and its confidence interval."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normres.errors import UserError, nearest
from normres.report import facts, inference, tables
from normres.report.arms import Arm, Setting, distinguishing_fields, evaluated_on, group, metrics_of, sort_key
from normres.report.clauses import quantity_of
from normres.report.experiment import PREFERRED
from normres.report.inference import Comparison, summarize
from normres.report.labels import joined, metric_words, short_label
from normres.runs.fields import before, identity
from normres.runs.results import Run


def compare(first: Sequence[Run], second: Sequence[Run], metric: str, names: tuple[Path, Path]) -> str:
    """Returns the comparison as a Markdown table, with the fields in which the sets differ, and the facts of AROUND.

    Arms are matched by the fields that vary within the sets, so that a field with one value in each set is what is
    compared: norm batch in A, group in B.

    Raises:
      UserError: the sets have no arm in common, or no run has the number.
    """
    known = metrics_of([*first, *second])
    if metric not in known:
        raise UserError(f"--metric={metric} is no final number of these runs; {nearest(metric, known)}")
    between = differ_between(first, second)
    within = distinguishing_fields([*first, *second], ignore=between, first=PREFERRED)
    ours, theirs = _arms(first, within), _arms(second, within)
    shared = [label for label in ours if label in theirs]
    if not shared:
        raise UserError(f"{names[0]} and {names[1]} have no arm in common; arms are told apart by {', '.join(within)}")
    words = metric_words(metric, evaluated_on([*ours.values(), *theirs.values()]))
    quantity = replace(quantity_of(metric), words=words)
    differences = {label: quantity.difference(ours[label], theirs[label]) for label in shared}
    measured = [label for label, one in differences.items() if one.before and one.after]
    comparisons = [Comparison(differences[label], above=True) for label in measured]
    judged = dict(zip(measured, inference.judge(comparisons), strict=True))
    rows = []
    for label, one in differences.items():
        means = [tables.number(summarize(side), quantity.digits, quantity.scale) for side in one.sides]
        text = (
            judged[label].text(quantity.difference_unit, quantity.scale, quantity.digits)
            if label in judged
            else "no number (diverged, not finished or not measured)"
        )
        rows.append((label or "all", *means, text))
    caption = (
        f"Final {quantity.words}{' in percent' * (quantity.unit == '%')}, mean ± sample standard deviation; B minus A. "
        "Where A and B share two seeds or more, all numbers are of the shared seeds. The intervals are Holm’s "
        "for all rows together."
    )
    table = tables.Table(("arm", *map(str, names), "difference"), rows, caption)
    differ = [f"{name} ({a} in A, {b} in B)" for name, (a, b) in between.items()]
    lines = [f"Fields that differ between the sets: {joined(*differ) or 'none'}."]
    lines += [f"{what}: {a} in A; {b} in B." for what, (a, b) in facts.around(first, second).items()]
    only = {"A": sorted(ours.keys() - theirs), "B": sorted(theirs.keys() - ours)}
    lines += [f"Only in {side}: {'; '.join(labels)}." for side, labels in only.items() if labels]
    how = "count at the error of guessing" if quantity.chance else "are left out"
    lines += [
        f"{joined(label, side)}: diverged runs {how}, {len(arm.diverged)} of {len(arm.runs)}; "
        f"{len(arm.unfinished)} not finished."
        for side, arms in (("A", ours), ("B", theirs))
        for label in shared
        if (arm := arms[label]).diverged or arm.unfinished
    ]
    return tables.markdown(table) + "".join(f"\n{line}" for line in lines)


def differ_between(first: Sequence[Run], second: Sequence[Run]) -> dict[str, tuple[Any, Any]]:
    """Returns the config fields whose values are one in each set, and not the same; the seed is none of them."""
    sides = [[identity(run.config) for run in runs] for runs in (first, second)]
    names = sorted({name for side in sides for config in side for name in config} - {"seed"})
    then = before()  # of a younger field, a value that is not in the identity
    values = {name: [{str(config.get(name, then.get(name))) for config in side} for side in sides] for name in names}
    return {name: (a.pop(), b.pop()) for name, (a, b) in values.items() if a != b and len(a) == len(b) == 1}


def _arms(runs: Sequence[Run], within: Sequence[str]) -> dict[str, Arm]:
    """Returns the arms of one set by their label, numbers by size."""
    keyed = group(runs, within)
    keyed.sort(key=lambda pair: [sort_key(pair[0][name]) for name in within])
    arms = [Arm(short_label(key), Setting(None), "", key, members) for key, members in keyed]
    return {arm.variant: arm for arm in arms}
