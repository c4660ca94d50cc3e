"""Whether runs that repeat a result agree with it: numbers of both, the interval, and what differs around them."""

import math
from collections.abc import Sequence
from statistics import fmean

from scipy import stats

from normres.report import facts, tables
from normres.report.arms import Arm, final, finals, joined, measure_of, metric_words, scale_of, seed, titled
from normres.report.experiment import Experiment
from normres.report.inference import FALSE_VERDICTS, summarize
from normres.runs.results import Run

SAME, AGREES, DIFFERS, OPEN, NOT_RUN = "the same", "agrees", "differs", "cannot be judged", "not run"
MARGIN_OF_ERROR, MARGIN_OF_LOSS = 0.01, 0.05  # named beforehand: one point, and a share of our loss
# What need not be equal, and may explain a difference.
AROUND = ("Commit", "Versions", "Processor", "Operating system", "Number format", "Device", "Data")


def certificate(experiment: Experiment, result: Sequence[Run], repeated: Sequence[Run]) -> tuple[str, int]:
    """Returns the certificate as Markdown, and 0 if every arm agrees, 1 if one differs, 3 if neither can be said.

    Runs of equal arm and seed are compared.  If all their numbers are equal, they are the same.  Otherwise d is the
    mean of the differences over the m seeds, and s the standard deviation of our n seeds.  On another machine the same
    seed becomes another run, so a difference varies by at most sqrt(2) s, and the interval is

        d +- t s sqrt(2 / m),   t with n - 1 degrees of freedom, 95 % for all arms together (Bonferroni).

    An arm agrees if the interval lies within the margin, and differs if it does not hold 0.
    """
    theirs = {arm.label: arm for arm in experiment.arms(repeated)} if repeated else {}
    ours = experiment.arms(result)
    metric = finals(measure_of(result))[1]
    judged = [_judged(arm, theirs.get(arm.label), metric, len(ours)) for arm in ours]
    verdicts = [row[-1] for row in judged]
    digits = facts.digits(ours, measure_of(result))
    header = ("arm", f"ours, {titled(metric)}", "yours", "seeds", "difference", "+-", "verdict")
    rows = [_cells(row, digits, scale_of(metric)) for row in judged]
    table = tables.Table(header, rows, f"{metric_words(metric).capitalize()} of the seeds that both have.", 1)
    known = {
        what: [facts.distinct(runs, facts.FACTS[what]) for runs in (_shared(result, repeated), repeated)]
        for what in AROUND
    }
    around = [f"* {what}: ours {mine}; yours {yours}" for what, (mine, yours) in known.items() if mine != yours]
    counts = joined(*(f"{one}: {verdicts.count(one)} of {len(ours)}" for one in dict.fromkeys(verdicts)))
    text = [f"# {experiment.title}", "", f"**{counts}**", "", tables.markdown(table)]
    text += ["What else differs:", "", *around] if around else []
    status = 1 if DIFFERS in verdicts else 0 if set(verdicts) <= {SAME, AGREES} else 3
    return "\n".join(text), status


Row = tuple[str, float | None, float | None, int, float | None, str]


def _judged(ours: Arm, yours: Arm | None, metric: str, arms: int) -> Row:
    """Returns label, both means, the number of shared seeds, half of the interval, and the verdict."""
    pairs = _pairs(ours, yours) if yours else []
    ended = [(a, b) for a, b in pairs if "finished" in (a.record["status"], b.record["status"])]
    first, second = ([final(run, metric) for run in side] for side in (zip(*ended, strict=True) if ended else ((), ())))
    numbers = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    means = (fmean(a for a, _ in numbers), fmean(b for _, b in numbers)) if numbers else (None, None)
    half: float | None = None
    spread = summarize(ours.values(metric))
    if not pairs:
        verdict = NOT_RUN
    elif len(numbers) < len(ended):  # one of two diverged
        verdict = DIFFERS
    elif all(a == b for a, b in numbers):
        verdict, half = SAME, 0.0
    elif spread is None or spread.standard_deviation is None:
        verdict = OPEN
    else:
        t = stats.t.ppf(1 - FALSE_VERDICTS / (2 * arms), spread.count - 1)
        half = float(t * spread.standard_deviation * math.sqrt(2 / len(numbers)))
        difference = abs(means[1] - means[0])  # type: ignore[operator]
        margin = MARGIN_OF_ERROR if metric.endswith("error") else MARGIN_OF_LOSS * spread.mean
        verdict = DIFFERS if difference > half else AGREES if difference + half <= margin else OPEN
    return (ours.label, *means, len(pairs), half, verdict)


def _pairs(ours: Arm, yours: Arm) -> list[tuple[Run, Run]]:
    """Returns the runs of equal seed that ended on both sides."""
    done = ("finished", "diverged")
    theirs = {seed(run): run for run in yours.runs if run.record["status"] in done}
    return [(run, theirs[seed(run)]) for run in ours.runs if run.record["status"] in done and seed(run) in theirs]


def _shared(result: Sequence[Run], repeated: Sequence[Run]) -> list[Run]:
    """Returns those of our runs whose config and seed were repeated."""
    digests = {run.record.get("config_digest") for run in repeated}
    return [run for run in result if run.record.get("config_digest") in digests] or list(result)


def _cells(row: Row, digits: int, scale: float) -> tuple[str, ...]:
    label, mine, yours, seeds, half, verdict = row
    known = mine is not None and yours is not None
    shown = [tables.NOTHING if value is None else f"{scale * value:.{digits}f}" for value in (mine, yours, half)]
    difference = f"{scale * (yours - mine):+.{digits}f}" if known else tables.NOTHING  # type: ignore[operator]
    return (label, *shown[:2], str(seeds), difference, shown[2], verdict)
