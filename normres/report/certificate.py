"""Whether runs that repeat a result agree with it: numbers of both, the interval, and what differs around them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from scipy import stats

from normres.report import facts, tables
from normres.report.arms import Arm, evaluated_on, final, measure_of, seed
from normres.report.experiment import Experiment
from normres.report.inference import FALSE_VERDICTS
from normres.report.labels import finals, joined, metric_words, scale_of, titled
from normres.report.pairs import differ_between
from normres.runs.results import DONE, Run

SAME, AGREES, DIFFERS, OPEN, NOT_RUN = "the same", "agrees", "differs", "cannot be judged", "not run"
MARGIN_OF_ERROR, MARGIN_OF_LOSS = 0.01, 0.05  # named beforehand: one point, and a share of our loss


def certificate(experiment: Experiment, result: Sequence[Run], repeated: Sequence[Run]) -> tuple[str, int]:
    """Returns the certificate as Markdown, and 0 if every arm agrees, 1 if one differs, 3 if neither can be said.

    Runs of equal arm and seed are compared.  If all their numbers are equal, they are the same.  Otherwise d is the
    mean of the differences over the m seeds, and s the standard deviation of our n seeds.  On another machine the same
    seed becomes another run, so a difference varies by at most sqrt(2) s, and the interval is

        d +- t s sqrt(2 / m),   t with n - 1 degrees of freedom, 95 % for all arms together (Bonferroni).

    An arm agrees if the interval lies within the margin, and differs if it does not hold 0.
    """
    theirs = {arm.label: arm for arm in experiment.arms(repeated)}
    ours, measure = experiment.arms(result), measure_of(result)
    metric, digits, on = finals(measure)[1], facts.digits(ours, measure), evaluated_on(ours)
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
