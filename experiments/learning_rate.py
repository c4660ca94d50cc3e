"""Learning rate: is batch norm still ahead if each norm has the learning rate that suits it?

Every table of norms has one recipe for all of them; this experiment asks what that costs.
"""

from normres.configs.learning_rate import VARIANTS
from normres.report.clauses import Lower
from normres.report.experiment import Experiment

BATCH, *OTHERS = VARIANTS

EXPERIMENT = Experiment(
    title="Learning rate: validation error of each norm against the learning rate",
    claim="Batch norm has a lower validation error than every other norm, each at its own best learning rate.",
    source="Our own question; the order of norms at one recipe is that of Wu, He 2018, arXiv 1803.08494.",
    config="configs/learning_rate.py",
    variants=VARIANTS,
    clauses=[
        Lower(f"Batch norm has a lower error than {other}, each at its best rate", BATCH, other, best=True)
        for other in OTHERS
    ],
    over="optim.learning_rate",
    lines=True,
    follows=("model.norm_groups",),
)
