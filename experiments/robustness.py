"""Robustness: instance norm takes an image's own contrast and colour out of it, and what it knew by them too.

Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022, section 2, introduce instance norm as contrast normalization; Pan,
Luo, Shi, Tang 2018, arXiv 1807.09441 (IBN-Net), find its features invariant to changes of appearance, such as colour;
Nam, Kim 2018, arXiv 1805.07925, that a classifier with it alone is worse.  Corruptions and the mean over severities
are of Hendrycks, Dietterich 2019, arXiv 1903.12261.  Expected: under contrast, brightness and colour cast the error
of instance norm rises less than that of batch norm, from a higher clean error.  The runs are the sweep of `CONFIG`;
`draw` reads their result files only.
"""

from collections.abc import Sequence
from pathlib import Path

from normres.configs.robustness import VARIANTS
from normres.errors import UserError
from normres.report import robustness, tables
from normres.report.clauses import Lower
from normres.report.comparison import Comparison, network_of
from normres.report.evidence import scale_notes
from normres.report.publication import Sketch, curves_sketch, publish, seeds_text
from normres.report.robustness import SmallerRise
from normres.report.severities import error_against_severity
from normres.report.statistics import Arm
from normres.report.style import PAGE_INCHES
from normres.report.verdict import Clause
from normres.runs.results import Run

CONFIG = "configs/robustness.py"
TITLE = "Robustness: test error under corruptions, by norm"
CLAIM = (
    "An instance norm removes each image’s own mean and contrast in every channel: under changes of contrast, "
    "brightness and colour the test error rises less with it than with batch norm, and by more than it rises less "
    "under blur and noise, which it does not remove; the clean error is higher."
)
SOURCE = (
    "Ulyanov, Vedaldi, Lempitsky 2016, Instance Normalization, arXiv 1607.08022, section 2 (contrast normalization); "
    "Pan, Luo, Shi, Tang 2018, IBN-Net, arXiv 1807.09441 (invariance to appearance, such as colour); Nam, Kim 2018, "
    "Batch-Instance Normalization, arXiv 1805.07925 (worse alone in classification); corruptions: Hendrycks, "
    "Dietterich 2019, arXiv 1903.12261."
)

BATCH, INSTANCE, LAYER, GROUP, BATCH_INSTANCE = VARIANTS
APPEARANCE = ("contrast", "brightness", "color_cast")  # what an instance norm is said to remove
OTHERS = ("gaussian_blur", "gaussian_noise")  # and what not
# Wu, He 2018, arXiv 1803.08494, figure 1 and table 1: ImageNet, ResNet-50, validation error (%), no corruption.
PAPER_IMAGENET = {BATCH: 23.6, INSTANCE: 28.4, LAYER: 25.3, GROUP: 24.1}

COMPARISON = Comparison(
    title=TITLE,
    claim=CLAIM,
    source=SOURCE,
    config=CONFIG,
    variants=VARIANTS,
    published={},
    held={"model.shortcut": "A", "model.order": "post"},
    clauses=[
        *(
            SmallerRise(
                f"({letter}) Under {robustness.word(name)}, the error of instance norm rises less than batch norm’s",
                INSTANCE,
                BATCH,
                under=(name,),
            )
            for letter, name in zip("abc", APPEARANCE, strict=True)
        ),
        SmallerRise(
            "(d) That is more than what it rises less under blur and noise",
            INSTANCE,
            BATCH,
            under=APPEARANCE,
            beyond=OTHERS,
        ),
        Lower("(e) The clean test error of batch norm is lower than that of instance norm", BATCH, INSTANCE),
    ],
)
NOTES = (
    "None of the papers reports these corruptions for these nets. The table has the clean errors of ResNet-50 on "
    "ImageNet from Wu, He 2018, arXiv 1803.08494, of which the order of the norms can be compared.",
    "A rise starts from the clean error, so a net that has learned less has less to lose; clause (d) holds the others "
    "against that.",
    "Instance norm removes a change exactly if it scales and shifts a whole channel of its input. Contrast and color "
    "cast do so in the image, but for clipping; not so in what the first convolution makes of it, which sees zeros "
    "beyond the edge that do not change with the image. Brightness scales each pixel by another factor.",
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py."""
    return COMPARISON.judge(arms)


def _name(arms: Sequence[Arm], arm: Arm) -> str:
    """Returns the arm's norm, its network where there are several, and what else tells it from the others."""
    network = network_of(arm).name if len({network_of(other) for other in arms}) > 1 else ""
    return ", ".join(filter(None, (COMPARISON.variant(arm), network, COMPARISON.context(arm))))


def _paper_table(arms: Sequence[Arm]) -> tables.Table:
    """Returns the clean errors of the paper's nets beside ours."""
    here = {_name(arms, arm): arm for arm in arms}
    rows = tuple(
        (
            name,
            f"{PAPER_IMAGENET[norm]:.1f}" if (norm := COMPARISON.variant(arm)) in PAPER_IMAGENET else tables.NOTHING,
            tables.error_cell(arm, "test_error"),
        )
        for name, arm in here.items()
    )
    header = ("norm", "ImageNet, ResNet-50, in the paper (%)", "here (%)")
    return tables.Table(header, rows, "Clean error: of Wu, He 2018 on ImageNet’s validation set, and here.")


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes robustness.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths.

    Raises:
      UserError: there is no run, no run names a corruption, or a result file lacks a field.
    """
    if not runs:
        raise UserError(f"there is no run to report; `normres sweep --config={CONFIG}` makes them")
    arms = COMPARISON.arms(runs)
    corruptions = robustness.corruptions_of(arms)
    seeds, several = seeds_text(arms)
    against_severity = Sketch(
        Path(CONFIG).stem,
        error_against_severity({_name(arms, arm): arm for arm in arms}, corruptions),
        "Test error against the severity of each corruption, one line per norm; the table has the means.",
        f"Test error against severity, {seeds} per norm"
        + (": the line joins the means, bars go from the least to the largest of the seeds" if several else "")
        + ". Contrast, brightness, blur and noise as in CIFAR-10-C, color cast of our own. The vertical axis does not "
        "begin at zero; lines stand a little apart so that they do not hide each other.",
        PAGE_INCHES,
    )
    return publish(
        output_directory,
        [against_severity, curves_sketch(COMPARISON.lines(arms))],
        title=TITLE,
        claim=CLAIM,
        source=SOURCE,
        clauses=judge(arms),
        arms=arms,
        missing=[*COMPARISON.missing(arms), *robustness.unmeasured(arms, corruptions)],
        table=robustness.table(arms, lambda arm: _name(arms, arm), corruptions),
        paper_table=_paper_table(arms),
        paper_notes=[*NOTES, *scale_notes(arms)],
    )
