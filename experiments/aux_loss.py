"""Auxiliary losses: classifiers on the inner stages help a deep plain net, and shortcuts help it more.

The heads are those of Lee, Xie, Gallagher, Zhang, Tu 2015 (deeply-supervised nets, arXiv 1409.5185), the nets those of
He et al. 2015, arXiv 1512.03385, which has the residual ones' errors in table 6.  No paper has a table of the
comparison over depth, so what is expected is a conjecture: auxiliary losses shorten the way to the lower stages and
leave the way within a stage as it is.  The runs are the sweep of `CONFIG`; `draw` reads their result files only.
"""

from collections.abc import Sequence
from pathlib import Path

from normres.configs.aux_loss import VARIANTS
from normres.report.clauses import Lower, Network, Trend
from normres.report.comparison import Comparison, Published
from normres.report.statistics import Arm
from normres.report.verdict import Clause
from normres.runs.results import Run

CONFIG = "configs/aux_loss.py"
TITLE = "Auxiliary losses: plain nets with inner classifiers, against plain and residual nets"
CLAIM = (
    "At the largest depth, auxiliary classifiers lower the training error of plain nets, but they do not replace "
    "shortcuts: the residual net’s is lower still, and with depth that of plain nets with auxiliary classifiers rises."
)
SOURCE = (
    "Heads: Lee, Xie, Gallagher, Zhang, Tu 2015, Deeply-Supervised Nets, arXiv 1409.5185. Plain and residual nets: He, "
    "Zhang, Ren, Sun 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2. The comparison "
    "over depth is not in either."
)

PLAIN, AUXILIARY, RESIDUAL = VARIANTS
# He et al. 2015, table 6: CIFAR-10 test error (%); at depth 110 the mean of 5 runs, of which the best has 6.43.
PAPER: Published = {
    Network(depth): {RESIDUAL: e} for depth, e in {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}.items()
}
# Another network than ours, as quoted by He et al. 2016: test error (%) with data augmentation.
PAPER_DEEPLY_SUPERVISED = {"CIFAR-10": 8.22, "CIFAR-100": 34.57}

COMPARISON = Comparison(
    title=TITLE,
    claim=CLAIM,
    source=SOURCE,
    config=CONFIG,
    variants=VARIANTS,
    published=PAPER,
    held={"model.order": "post", "model.norm": "batch", "model.auxiliary": ()},
    clauses=[
        Lower(
            "(a) At the largest depth, auxiliary classifiers lower the plain net’s training error",
            AUXILIARY,
            PLAIN,
            metric="train_error",
        ),
        Lower(
            "(b) At the largest depth, the residual net’s training error is lower still",
            RESIDUAL,
            AUXILIARY,
            metric="train_error",
        ),
        Trend("(c) The training error of plain nets with auxiliary classifiers rises with depth", AUXILIARY, True),
    ],
    notes=[
        "The papers have no number for plain nets of these depths with auxiliary classifiers; the residual nets’ are "
        "of He et al. 2015, table 6. The deeply-supervised net of Lee et al. 2015, another and shallower network, has "
        + " and ".join(f"{error} % on {name}" for name, error in PAPER_DEEPLY_SUPERVISED.items())
        + ", as quoted by He et al. 2016.",
    ],
    over_depth=True,
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py."""
    return COMPARISON.judge(arms)


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes aux_loss.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths."""
    return COMPARISON.draw(runs, output_directory)
