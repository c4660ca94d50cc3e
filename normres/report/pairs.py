"""Two sets of runs side by side: each arm's mean in both, the interval of the difference, what differs around them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from normres.errors import UserError, nearest
from normres.report import facts, inference, tables
from normres.report.arms import Arm, distinguishing_fields, evaluated_on, final, group, metrics_of, seed, sort_key
from normres.report.clauses import Setting, quantity_of
from normres.report.experiment import PREFERRED, Experiment
from normres.report.inference import FALSE_VERDICTS, Comparison, summarize
from normres.report.labels import finals, joined, metric_words, scale_of, short_label, titled
from normres.runs.fields import before
from normres.runs.results import DONE, Run

SAME, AGREES, DIFFERS, OPEN, NOT_RUN = "the same", "agrees", "differs", "cannot be judged", "not run"
MARGIN_OF_ERROR, MARGIN_OF_LOSS = 0.01, 0.05  # named beforehand: one point, and a share of our loss


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
        missing = "no number (diverged, not finished or not measured)"
        text = judged[label].text(*quantity.of_difference) if label in judged else missing
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
    lines += [
        f"{joined(label, side)}: {note}"
        for side, arms in (("A", ours), ("B", theirs))
        for label in shared
        for note in facts.repeated(arms[label])
    ]
    return tables.markdown(table) + "".join(f"\n{line}" for line in lines)


def differ_between(first: Sequence[Run], second: Sequence[Run]) -> dict[str, tuple[Any, Any]]:
    """Returns the config fields whose values are one in each set, and not the same; the seed is none of them."""
    sides = [[run.identity for run in runs] for runs in (first, second)]
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


def certificate(experiment: Experiment, result: Sequence[Run], repeated: Sequence[Run]) -> tuple[str, int]:
    """Returns the certificate as Markdown, and 0 if every arm agrees, 1 if one differs, 3 if neither can be said.

    Runs of equal arm and seed are compared.  If all their numbers are equal, they are the same.  Otherwise d is the
    mean of the differences over the m seeds, and s the standard deviation of our n seeds.  On another machine the same
    seed becomes another run, so a difference varies by at most sqrt(2) s, and the interval is

        d +- t s sqrt(2 / m),   t with n - 1 degrees of freedom, 95 % for all arms together (Bonferroni).

    An arm agrees if the interval lies within the margin, and differs if it does not hold 0.
    """
    theirs = {arm.label: arm for arm in experiment.arms(repeated)}
    ours, metric = experiment.arms(result), finals(experiment.measure)[1]
    digits, on = facts.digits(ours, experiment.measure), evaluated_on(ours)
    rows = [_row(arm, theirs.get(arm.label), metric, len(ours), digits) for arm in ours]
    header = ("arm", f"ours, {titled(metric, on)}", "yours", "seeds", "difference", "+-", "verdict")
    table = tables.Table(header, rows, f"{metric_words(metric, on).capitalize()} of the seeds that both have.")
    # Those of our runs whose arm and seed were repeated; digests differ if the data came from another source.
    keys = {(arm.label, seed(run)) for arm in theirs.values() for run in arm.runs}
    shared = [run for arm in ours for run in arm.runs if (arm.label, seed(run)) in keys] or result
    differ = [differ_between(arm.runs, theirs[arm.label].runs) for arm in ours if arm.label in theirs]
    known = [pair for one in (*differ, facts.around(shared, repeated)) for pair in one.items()]
    around = dict.fromkeys(f"* {what}: ours {mine}; yours {yours}" for what, (mine, yours) in known)
    verdicts = [row[-1] for row in rows]
    counts = joined(*(f"{one}: {verdicts.count(one)} of {len(ours)}" for one in dict.fromkeys(verdicts)))
    text = [f"# {experiment.title}", "", f"**{counts}**", "", tables.markdown(table)]
    text += ["What else differs:", "", *around] if around else []
    status = 1 if DIFFERS in verdicts else 0 if set(verdicts) <= {SAME, AGREES} else 3
    return "\n".join(text), status


def _equal(ours: Mapping[str, Any], yours: Mapping[str, Any]) -> bool:
    """Returns whether two records have the same final numbers, as far as both have them, and diverged at one step."""
    same = all(ours["final"][name] == yours["final"][name] for name in ours["final"].keys() & yours["final"])
    return same and ours.get("diverged_at_step") == yours.get("diverged_at_step")


def _row(ours: Arm, yours: Arm | None, metric: str, arms: int, digits: int) -> tuple[str, ...]:
    """Returns label, both means, the number of shared seeds, the difference, half of its interval, and the verdict."""
    by_seed = {seed(run): run for run in yours.runs if run.record["status"] in DONE} if yours else {}
    pairs = [(run, by_seed[seed(run)]) for run in ours.runs if run.record["status"] in DONE and seed(run) in by_seed]
    ended = [pair for pair in pairs if any(run.record["status"] == "finished" for run in pair)]
    values = [(final(a, metric), final(b, metric)) for a, b in ended]
    numbers = [(a, b) for a, b in values if a is not None and b is not None]
    mine, theirs = (fmean(side) for side in zip(*numbers, strict=True)) if numbers else (math.nan, math.nan)
    spread, half = ours.summary(metric), math.nan
    if not pairs:
        verdict = NOT_RUN
    elif len(numbers) < len(ended):  # one of two diverged
        verdict = DIFFERS
    elif all(_equal(a.record, b.record) for a, b in pairs):
        verdict, half = SAME, 0.0
    elif not numbers or spread is None or spread.standard_deviation is None:
        verdict = OPEN
    else:
        t = stats.t.ppf(1 - FALSE_VERDICTS / (2 * arms), spread.count - 1)
        half = float(t * spread.standard_deviation * math.sqrt(2 / len(numbers)))
        margin = MARGIN_OF_ERROR if metric.endswith("error") else MARGIN_OF_LOSS * spread.mean
        difference = abs(theirs - mine)
        verdict = DIFFERS if difference > half else AGREES if difference + half <= margin else OPEN

    def cell(value: float, sign: str = "") -> str:
        return tables.NOTHING if math.isnan(value) else f"{scale_of(metric) * value:{sign}.{digits}f}"

    return (ours.label, cell(mine), cell(theirs), str(len(pairs)), cell(theirs - mine, "+"), cell(half), verdict)
