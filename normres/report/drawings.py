"""The figures of a report with their captions: error against depth, error per variant, error over training steps."""

from collections.abc import Mapping, Sequence

from normres.report.curves import training_curves
from normres.report.dots import error_per_variant
from normres.report.evidence import overfitting_note
from normres.report.figures import error_against_depth
from normres.report.page import Drawing
from normres.report.statistics import Arm, field
from normres.report.style import PAGE_INCHES


def seeds_text(arms: Sequence[Arm]) -> tuple[str, bool]:
    """Returns "3 seeds" or "1 to 3 seeds", and whether any arm has several."""
    counts = {len(arm.runs) for arm in arms}
    number = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{number} seed{'' if counts == {1} else 's'}", max(counts) > 1


def depth_drawing(
    name: str, lines: Mapping[str, Sequence[Arm]], published: Mapping[str, Mapping[int, float]]
) -> Drawing:
    """Returns final error against depth, and the papers' numbers in a panel of their own."""
    seeds, several = seeds_text([arm for arms in lines.values() for arm in arms])
    return Drawing(
        name,
        error_against_depth(lines, published),
        "Final training and test error against depth, one line per variant; the table has the numbers.",
        f"Error at the last step against depth, {seeds} per point"
        + (": the line joins the means, dashes are seeds" if several else "")
        + ". A cross at the upper edge marks diverged runs; means are over the runs that finished."
        + (" The panel of the paper’s numbers has its own axes." if published else "")
        + overfitting_note(lines),
        PAGE_INCHES if published else 0.5 * PAGE_INCHES,
    )


def dots_drawing(
    name: str,
    panels: Mapping[str, Mapping[str, Arm]],
    published: Mapping[str, Mapping[str, float | str]],
    variants: Sequence[str],
) -> Drawing:
    """Returns a row per variant and a panel per network, and the papers' numbers in a panel of their own."""
    seeds, several = seeds_text([arm for arms in panels.values() for arm in arms.values()])
    return Drawing(
        name,
        error_per_variant(panels, published, variants),
        "Final training and test error, one row per variant; the table has the numbers.",
        f"Error at the last step, {seeds} per variant"
        + (": the marker is the mean, dashes are seeds" if several else "")
        + ". A cross at the right edge marks diverged runs; means are over the runs that finished."
        + (" The panel of the paper’s numbers has its own axis; “fail” is an error above 20 %." if published else ""),
        PAGE_INCHES,
    )


def curves_drawing(lines: Mapping[str, Sequence[Arm]]) -> Drawing:
    """Returns error over training steps, a panel per line and a curve per depth."""
    arms = [arm for members in lines.values() for arm in members]
    steps = max(field(run, "train.steps") for arm in arms for run in arm.runs)
    _, several = seeds_text(arms)
    return Drawing(
        "curves",
        training_curves(lines, steps),
        "Training and test error over training steps, one curve per depth and one panel per variant.",
        "Error over training steps; the number at the end of a curve is the depth. Thin: training error, "
        "running mean of the augmented mini-batches. Bold: test error"
        + (", both averaged over seeds." if several else ".")
        + " The vertical axis ends at about twice the largest final error, or at 100 %.",
        PAGE_INCHES,
    )
