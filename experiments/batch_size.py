"""Batch size: the error of batch norm rises as batches get small, that of group norm does not."""

from normres.configs.batch_size import VARIANTS
from normres.report.clauses import TEST, Lower, Setting, Trend
from normres.report.experiment import Experiment

BATCH, GROUP = VARIANTS
OVER = "train.batch_size"
# Table 2: validation error (%) by images per device.
PAPER = {32: (23.6, 24.1), 16: (23.7, 24.2), 8: (24.8, 24.0), 4: (27.3, 24.2), 2: (34.7, 24.1)}

EXPERIMENT = Experiment(
    title="Batch size: error of batch and group norm against images per batch",
    claim=(
        "At equal numbers of images, the error of batch norm is higher with the smallest batches than with the "
        "largest, and there group norm has the lower error; the error of group norm does not rise as batches get small."
    ),
    source="Wu, He 2018, Group Normalization, arXiv 1803.08494, figure 1 and table 2.",
    config="configs/batch_size.py",
    variants=VARIANTS,
    published={
        Setting(images, "bottleneck", "imagenet", OVER): {BATCH: batch, GROUP: group}
        for images, (batch, group) in PAPER.items()
    },
    scale={},
    clauses=[
        Trend(
            "(a) Batch norm: the test error falls from the smallest to the largest batch",
            BATCH,
            rises=False,
            quantity=TEST,
            margin=0.0,
        ),
        Lower(
            "(b) With the smallest batches, group norm has a lower test error than batch norm", GROUP, BATCH, first=True
        ),
        Trend(
            "(c) Group norm: from the largest to the smallest batch, the test error rises by no more than 1 point",
            GROUP,
            rises=False,
            quantity=TEST,
            backwards=True,
        ),
    ],
    notes=[
        "The paper’s numbers are errors on ImageNet’s validation set: their order can be compared with ours. Both "
        "norms have one recipe, with the rate in proportion to the batch, as in the paper."
    ],
    over=OVER,
    lines=True,
    follows=("train.steps", "optim.learning_rate", "optim.warmup_steps", "optim.boundaries", "model.norm_groups"),
)
