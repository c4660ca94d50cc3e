"""Two sets of runs side by side: each arm's mean in both, the difference and its confidence interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normres.errors import UserError, nearest
from normres.report import inference, tables
from normres.report.arms import (
    Arm,
    Setting,
    distinguishing_fields,
    group,
    joined,
    metric_words,
    metrics_of,
    short_label,
    sort_key,
)
from normres.report.clauses import error
from normres.report.experiment import BLOCK, DATA, PREFERRED
from normres.report.inference import Comparison, summarize
from normres.runs.fields import identity
from normres.runs.results import Run

DEPTH = "model.depth"


def compare(first: Sequence[Run], second: Sequence[Run], metric: str, names: tuple[Path, Path]) -> str:
    """Returns the comparison as a Markdown table, with the fields in which the sets differ.

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
    quantity = error(metric)
    differences = [quantity.difference(ours[label], theirs[label]) for label in shared]
    measured = [number for number, one in enumerate(differences) if one.before and one.after]
    judged = inference.judge([Comparison(differences[number], above=True) for number in measured])
    rows = []
    unit, scale, words = ("points", 100.0, " in percent") if metric.endswith("error") else ("", 1.0, "")
    for number, label in enumerate(shared):
        sides = (differences[number].before, differences[number].after)
        means = [tables.percent(summarize(scale / 100 * value for value in side.values())) for side in sides]
        text = judged[measured.index(number)].text(unit, scale) if number in measured else "not finished"
        rows.append((label or "all", *means, text))
    table = tables.Table(
        ("arm", *map(str, names), "difference"),
        rows,
        f"Final {metric_words(metric)}{words}, mean ± sample standard deviation; B minus A. The intervals are "
        "Holm’s for all rows together.",
    )
    differ = [f"{name} ({a} in A, {b} in B)" for name, (a, b) in between.items()]
    lines = [f"Fields that differ between the sets: {joined(*differ) or 'none'}."]
    only = {"A": sorted(ours.keys() - theirs), "B": sorted(theirs.keys() - ours)}
    lines += [f"Only in {side}: {'; '.join(labels)}." for side, labels in only.items() if labels]
    return tables.markdown(table) + "".join(f"\n{line}" for line in lines)


def differ_between(first: Sequence[Run], second: Sequence[Run]) -> dict[str, tuple[Any, Any]]:
    """Returns the config fields whose values are one in each set, and not the same; the seed is none of them."""
    sides = [[identity(run.config) for run in runs] for runs in (first, second)]
    names = sorted({name for side in sides for config in side for name in config} - {"seed"})
    values = {name: [{str(config.get(name)) for config in side} for side in sides] for name in names}
    return {name: (a.pop(), b.pop()) for name, (a, b) in values.items() if a != b and len(a) == len(b) == 1}


def _arms(runs: Sequence[Run], within: Sequence[str]) -> Mapping[str, Arm]:
    """Returns the arms of one set by their label, numbers by size."""
    keyed = group(runs, [*dict.fromkeys([*within, DEPTH, BLOCK, DATA])])
    keyed.sort(key=lambda pair: [sort_key(pair[0][name]) for name in within])
    arms = {}
    for key, members in keyed:
        label = short_label({name: key[name] for name in within})
        arms[label] = Arm(label, Setting(key[DEPTH], key[BLOCK], key[DATA]), "", key, members)
    return arms
