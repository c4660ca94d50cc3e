"""Degradation: deeper plain networks train to a higher training error, residual networks do not."""

from normres.configs.degradation import VARIANTS
from normres.report.clauses import TRAIN, Lower, Setting, Trend
from normres.report.experiment import Experiment

PLAIN, RESIDUAL = VARIANTS
# Table 6: CIFAR-10 test error (%).
PAPER_RESIDUAL = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}

EXPERIMENT = Experiment(
    title="Degradation: training error of plain and residual networks against depth",
    claim=(
        "With depth, the training error of plain networks rises, although a deeper network could copy a shallower one. "
        "With shortcuts it does not rise, and at the largest depth the residual network is the better of the two."
    ),
    source="He, Zhang, Ren, Sun 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2.",
    config="configs/degradation.py",
    variants=VARIANTS,
    published={Setting(depth): {RESIDUAL: error} for depth, error in PAPER_RESIDUAL.items()},
    held={"model.order": "post", "model.norm": "batch"},
    clauses=[
        Trend("(a) Plain: the training error is higher at the deepest than at the shallowest", PLAIN, rises=True),
        Trend(
            "(b) Residual: from the shallowest to the deepest, the training error rises by no more than 1 point",
            RESIDUAL,
            rises=False,
        ),
        Lower(
            "(c) Residual: at the largest depth, the training error is below that of the plain network",
            RESIDUAL,
            PLAIN,
            quantity=TRAIN,
        ),
    ],
    notes=[
        "At depth 110 the paper has 6.61 ± 0.16 % over 5 runs; the best of them has 6.43 %.",
        "For plain networks the paper gives an order and no table: training error of plain-20 < plain-32 < plain-44 < "
        "plain-56 (figure 6). Plain-110 stays above 60 % error and is not drawn.",
    ],
    lines=True,
)
