"""Style: instance norm is what a network that gives images a style should have.

Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022 (instance norm); Dumoulin, Shlens, Kudlur 2017, arXiv 1610.07629
(conditional instance norm: several styles in one network); Huang, Belongie 2017, arXiv 1703.06868 (AdaIN).
"""

from normres.configs.style import VARIANTS
from normres.report.clauses import Lower, quantity_of
from normres.report.experiment import Experiment

BATCH, INSTANCE, UNTOLD, CONDITIONAL, ADAPTIVE = VARIANTS
TRAIN, TEST = quantity_of("train_loss"), quantity_of("test_loss")

EXPERIMENT = Experiment(
    title="Style: what a network learns of a picture’s style, by norm",
    claim=(
        "With instance norm a network reaches a lower sum of content and style loss than with batch norm. One "
        "network learns several styles if scale and bias of its instance norms depend on the style."
    ),
    source=(
        "Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022; Dumoulin, Shlens, Kudlur 2017, arXiv 1610.07629; Huang, "
        "Belongie 2017, arXiv 1703.06868."
    ),
    config="configs/style.py",
    variants=VARIANTS,
    clauses=[
        Lower(
            "(a) One style: the training loss is lower with instance norm than with batch norm", INSTANCE, BATCH, TRAIN
        ),
        Lower("(b) One style: the loss on other photographs is lower with instance norm", INSTANCE, BATCH, TEST),
        Lower(
            "(c) Several styles: the loss is lower if the norms depend on the style’s number", CONDITIONAL, UNTOLD, TEST
        ),
        Lower(
            "(d) Several styles: the loss is lower if the norms depend on the style’s picture", ADAPTIVE, UNTOLD, TEST
        ),
    ],
    notes=[
        "The papers show pictures and curves of the loss, and print no numbers. Their losses are measured by a VGG "
        "network trained on ImageNet, ours by a small one that was trained on CIFAR-10 here, and relative to the size "
        "of its features: 1 is the loss of features of zero. Losses of different styles cannot be compared.",
        "A demo of 600 steps with half the weight of the style loss was run first: with four seeds the difference "
        "between batch and instance norm could not be judged. Steps and weight were then changed, as its pictures were "
        "poor.",
        "Adaptive instance norm here: the style’s picture goes through the same network, and each norm takes scale and "
        "bias from it. Huang and Belongie have one such norm, between a fixed network and a learned one.",
    ],
    measure="loss",
)
