"""Activation order: with norm and ReLU before the convolutions, the path from block to block is an identity."""

from normres.configs.activation_order import VARIANTS
from normres.report.clauses import Lower, Setting
from normres.report.experiment import Experiment

ORIGINAL, AFTER, BEFORE, RELU_ONLY, FULL = VARIANTS

EXPERIMENT = Experiment(
    title="Activation order: test error by where norm and ReLU stand",
    claim=(
        "At depth 110 and 164, full pre-activation has a lower test error than the original order, and what changes "
        "the signal after the addition (a norm) or the branch’s sign before it (a ReLU) has a higher one."
    ),
    source=(
        "He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027, section 4.1 and "
        "table 2."
    ),
    config="configs/activation_order.py",
    variants=VARIANTS,
    # Table 2: CIFAR-10 test error (%), median of 5 runs.
    published={
        Setting(110): {ORIGINAL: 6.61, AFTER: 8.17, BEFORE: 7.84, RELU_ONLY: 6.71, FULL: 6.37},
        Setting(164, "bottleneck"): {ORIGINAL: 5.93, AFTER: 6.50, BEFORE: 6.14, RELU_ONLY: 5.91, FULL: 5.46},
    },
    held={"model.shortcut": "A", "model.norm": "batch"},
    clauses=[
        Lower(f"({letter}) {sentence}", better, worse, at_least=110)
        for letter, sentence, better, worse in (
            ("a", "Full pre-activation has a lower test error than the original order", FULL, ORIGINAL),
            ("b", "A norm after the addition has a higher one than the original order", ORIGINAL, AFTER),
            ("c", "A ReLU before the addition has a higher one than the original order", ORIGINAL, BEFORE),
            ("d", "ReLU-only pre-activation has a higher one than full pre-activation", FULL, RELU_ONLY),
        )
    ],
    notes=["The paper’s errors are medians of 5 runs."],
)
