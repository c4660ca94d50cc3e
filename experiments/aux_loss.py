"""Auxiliary losses: classifiers on the inner stages help a deep plain network, and shortcuts help it more.

No paper has a table of the comparison over depth, so the claim is a conjecture: auxiliary losses shorten the path to
the lower stages but not the path within a stage.
"""

from normres.configs.aux_loss import VARIANTS
from normres.report.clauses import TRAIN, Lower, Setting, Trend
from normres.report.experiment import Experiment

PLAIN, AUXILIARY, RESIDUAL = VARIANTS
# He et al. 2015, table 6: CIFAR-10 test error (%); at depth 110 the mean of 5 runs, of which the best has 6.43.
PAPER_RESIDUAL = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}

EXPERIMENT = Experiment(
    title="Auxiliary losses: plain networks with inner classifiers, against plain and residual networks",
    claim=(
        "At the largest depth, auxiliary classifiers lower the training error of plain networks, but they do not "
        "replace shortcuts: the residual network’s is lower still, and with depth that of plain networks with "
        "auxiliary classifiers rises."
    ),
    source=(
        "Classifiers: Lee, Xie, Gallagher, Zhang, Tu 2015, Deeply-Supervised Nets, arXiv 1409.5185. Plain and residual "
        "networks: He, Zhang, Ren, Sun 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385, section "
        "4.2. Neither has the comparison over depth."
    ),
    config="configs/aux_loss.py",
    variants=VARIANTS,
    published={Setting(depth): {RESIDUAL: error} for depth, error in PAPER_RESIDUAL.items()},
    held={"model.order": "post", "model.norm": "batch", "model.auxiliary": ()},
    clauses=[
        Lower(
            "(a) At the largest depth, auxiliary classifiers lower the plain network’s training error",
            AUXILIARY,
            PLAIN,
            quantity=TRAIN,
        ),
        Lower(
            "(b) At the largest depth, the residual network’s training error is lower still",
            RESIDUAL,
            AUXILIARY,
            quantity=TRAIN,
        ),
        Trend(
            "(c) The training error of plain networks with auxiliary classifiers rises with depth",
            AUXILIARY,
            rises=True,
        ),
    ],
    notes=[
        "The papers have no number for plain networks of these depths with auxiliary classifiers; the residual "
        "networks’ are of He et al. 2015, table 6. The deeply-supervised net of Lee et al. 2015, another and shallower "
        "network, has 8.22 % on CIFAR-10 and 34.57 % on CIFAR-100, as quoted by He et al. 2016.",
    ],
    lines=True,
)
