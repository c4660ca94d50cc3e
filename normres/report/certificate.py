"""Whether runs that repeat a result agree with it: numbers of both, the interval, and what differs around them."""

import math
from collections.abc import Sequence

from scipy import stats

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.arms import Arm, finals, joined, measure_of, metric_words, scale_of, unit_of
from normres.report.experiment import Experiment
from normres.report.inference import FALSE_VERDICTS, summarize
from normres.runs.results import Run

AGREES, DIFFERS, OPEN = "agrees", "differs", "cannot be judged"
# What need not be equal, and may explain a difference.
AROUND = ("Commit", "Versions", "Processor", "Operating system", "Number format", "Device", "Data")


def certificate(experiment: Experiment, result: Sequence[Run], repeated: Sequence[Run]) -> tuple[str, bool]:
    """Returns the certificate as Markdown, and whether no arm differs.

    An arm agrees if the mean of the repeated runs lies where that many new runs of the same kind would lie: within

        t s sqrt(1 / n + 1 / m)

    of our mean, s the standard deviation of our n seeds and m the number of repeated runs.  t is that of a 95 %
    interval for all arms together (Bonferroni).  One seed of ours has no spread, so it cannot be judged.

    Raises:
      UserError: nothing of the result was repeated.
    """
    metric = finals(measure_of(result))[1]
    theirs = {arm.label: arm for arm in experiment.arms(repeated)}
    pairs = [(arm, theirs[arm.label]) for arm in experiment.arms(result) if arm.label in theirs]
    pairs = [pair for pair in pairs if all(arm.values(metric) for arm in pair)]
    if not pairs:
        raise UserError("no arm of the result was run to its end")
    rows, verdicts = [], []
    for ours, yours in pairs:
        row, verdict = _judged(ours, yours, metric, len(pairs))
        rows.append(row)
        verdicts.append(verdict)
    unit = f" ({unit_of(metric)})".removesuffix(" ()")
    header = ("arm", f"ours{unit}", f"yours{unit}", "difference", "limit", "verdict")
    table = tables.Table(header, rows, f"{metric_words(metric).capitalize()}: mean ± sample standard deviation.", 1)
    known = {what: [facts.distinct(runs, facts.FACTS[what]) for runs in (result, repeated)] for what in AROUND}
    around = [f"{what}: ours {ours}; yours {yours}" for what, (ours, yours) in known.items() if ours != yours]
    counts = joined(*(f"{one}: {verdicts.count(one)} of {len(pairs)}" for one in dict.fromkeys(verdicts)))
    text = [
        f"# {experiment.title}",
        "",
        f"**{counts}**",
        "",
        tables.markdown(table),
        "What else differs:\n" if around else "",
    ]
    return "\n".join([*text, *(f"* {line}" for line in around)]), DIFFERS not in verdicts


def _judged(ours: Arm, yours: Arm, metric: str, arms: int) -> tuple[tuple[str, ...], str]:
    """Returns a row of the table, and its verdict."""
    scale, (first, second) = scale_of(metric), (summarize(arm.values(metric)) for arm in (ours, yours))
    assert first
    assert second
    difference = second.mean - first.mean
    limit = None
    if first.standard_deviation is not None:
        t = stats.t.ppf(1 - FALSE_VERDICTS / (2 * arms), first.count - 1)
        # Errors are counts of images: what one image changes is no difference.
        least = 1 / (ours.count("test_examples") or math.inf)
        limit = max(t * first.standard_deviation * math.sqrt(1 / first.count + 1 / second.count), least)
    verdict = OPEN if limit is None else AGREES if abs(difference) <= limit else DIFFERS
    numbers = (tables.number(one, scale=scale) for one in (first, second))
    shown = "one seed" if limit is None else f"{scale * limit:.2f}"
    return (ours.label, *numbers, f"{scale * difference:+.2f}", shown, verdict), verdict
