"""Activation order: with norm and ReLU before the convolutions nothing stands on the way from block to block.

He, Zhang, Ren, Sun 2016, arXiv 1603.05027, section 4 and table 2: ResNet-110 and the bottleneck ResNet-164 on
CIFAR-10.  Expected at these depths: full pre-activation is best, a norm after the addition worst.  The runs are the
sweep of `CONFIG`; `draw` reads their result files only.
"""

from collections.abc import Sequence
from pathlib import Path

from normres.configs.activation_order import VARIANTS
from normres.models.variants import ORDERS
from normres.report.clauses import Lower, Network
from normres.report.comparison import Comparison, Published
from normres.report.statistics import Arm
from normres.report.verdict import Clause
from normres.runs.results import Run

CONFIG = "configs/activation_order.py"
TITLE = "Activation order: test error by where norm and ReLU stand"
CLAIM = (
    "At depth 110 and 164, full pre-activation has a lower test error than the original order, and what changes the "
    "signal after the addition (a norm) or the branch’s sign before it (a ReLU) has a higher one."
)
SOURCE = (
    "He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027, section 4.1 and table 2."
)

ORIGINAL, AFTER, BEFORE, RELU_ONLY, FULL = (
    ORDERS[name].title for name in ("post", "norm_after_addition", "relu_before_addition", "relu_only_pre", "pre")
)
# Table 2: CIFAR-10 test error (%), median of 5 runs.
PAPER: Published = {
    Network(110): {ORIGINAL: 6.61, AFTER: 8.17, BEFORE: 7.84, RELU_ONLY: 6.71, FULL: 6.37},
    Network(164, "bottleneck"): {ORIGINAL: 5.93, AFTER: 6.50, BEFORE: 6.14, RELU_ONLY: 5.91, FULL: 5.46},
}

COMPARISON = Comparison(
    title=TITLE,
    claim=CLAIM,
    source=SOURCE,
    config=CONFIG,
    variants=VARIANTS,
    published=PAPER,
    held={"model.shortcut": "A", "model.norm": "batch"},
    clauses=[
        Lower("(a) Full pre-activation has a lower test error than the original order", FULL, ORIGINAL, from_depth=110),
        Lower(
            "(b) A norm after the addition has a higher one than the original order", ORIGINAL, AFTER, from_depth=110
        ),
        Lower(
            "(c) A ReLU before the addition has a higher one than the original order", ORIGINAL, BEFORE, from_depth=110
        ),
        Lower("(d) ReLU-only pre-activation has a higher one than the full", FULL, RELU_ONLY, from_depth=110),
    ],
    notes=["The paper’s errors are medians of 5 runs."],
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py."""
    return COMPARISON.judge(arms)


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes activation_order.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths."""
    return COMPARISON.draw(runs, output_directory)
