"""Pre-activation: the disadvantage of the original order against full pre-activation grows with depth."""

from normres.configs.preactivation import VARIANTS
from normres.report.clauses import TEST, Lower, Setting, Trend
from normres.report.experiment import Experiment

ORIGINAL, FULL = VARIANTS

EXPERIMENT = Experiment(
    title="Pre-activation: test error of the original and the pre-activated block against depth",
    claim=(
        "From depth 110 on, full pre-activation has a lower test error than the original order; from 164 to 1001 "
        "layers the original’s error rises and that of pre-activation does not."
    ),
    source=(
        "He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027, section 4.2 and "
        "table 3."
    ),
    config="configs/preactivation.py",
    variants=VARIANTS,
    # Table 3: test error (%), median of 5 runs.
    published={
        Setting(110): {ORIGINAL: 6.61, FULL: 6.37},
        Setting(164, "bottleneck"): {ORIGINAL: 5.93, FULL: 5.46},
        Setting(1001, "bottleneck"): {ORIGINAL: 7.61, FULL: 4.92},
        Setting(164, "bottleneck", "cifar100"): {ORIGINAL: 25.16, FULL: 24.33},
        Setting(1001, "bottleneck", "cifar100"): {ORIGINAL: 27.82, FULL: 22.71},
    },
    held={"model.shortcut": "A", "model.norm": "batch"},
    clauses=[
        Lower(
            "(a) Full pre-activation has a lower test error than the original order at every depth from 110 on",
            FULL,
            ORIGINAL,
            at_least=110,
            everywhere=True,
        ),
        Trend(
            "(b) The original’s test error rises to the deepest",
            ORIGINAL,
            rises=True,
            quantity=TEST,
            at_least=1001,
        ),
        Trend(
            "(c) Pre-activation’s test error rises by no more than 1 point",
            FULL,
            rises=False,
            quantity=TEST,
            at_least=1001,
        ),
    ],
    notes=[
        "The paper’s errors are medians of 5 runs with batches of 128. For ResNet-1001 with pre-activation its table 4 "
        "also has 4.89 ± 0.14 %, and with batches of 64 a median of 4.62 % (4.69 ± 0.20 %).",
    ],
    lines=True,
)
