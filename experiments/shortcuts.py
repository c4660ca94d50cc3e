"""Shortcuts: nothing that stands on the shortcut is better than nothing, and most of it is far worse.

He, Zhang, Ren, Sun 2016, arXiv 1603.05027, section 3.1 and table 1: ResNet-110 on CIFAR-10.  Options A, B and C are
compared by He et al. 2015, arXiv 1512.03385, table 3, on ImageNet.  Expected at depth 110: the identity is best.
The runs are the sweep of `CONFIG`; `draw` reads their result files only.
"""

from collections.abc import Sequence
from pathlib import Path

from normres.configs.shortcuts import gated, variants
from normres.models.variants import SHORTCUTS
from normres.report.clauses import Lower, Network
from normres.report.comparison import FAIL, Comparison, Published
from normres.report.statistics import Arm
from normres.report.verdict import Clause
from normres.runs.results import Run

CONFIG = "configs/shortcuts.py"
TITLE = "Shortcuts: test error by what stands beside the branch"
CLAIM = (
    "At depth 110, the identity has a lower test error than no shortcut, than one that is scaled, gated, dropped out "
    "or a 1x1 convolution; and, at any depth at which plain nets degrade, options A, B and C are all better than none."
)
SOURCE = (
    "He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027, table 1; for A, B and C "
    "the same authors’ Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 3."
)

PLAIN, IDENTITY, B, C = (SHORTCUTS[name].title for name in ("none", "A", "B", "C"))

# Table 1: CIFAR-10 test error (%) of ResNet-110, median of 5 runs; "fail" is an error above 20 %.
PAPER: Published = {
    Network(110): {
        IDENTITY: 6.61,
        PLAIN: FAIL,
        SHORTCUTS["constant"].title: FAIL,
        SHORTCUTS["constant_both"].title: 12.35,
        gated("exclusive_gate", 0.0): FAIL,
        gated("exclusive_gate", -5.0): FAIL,
        gated("exclusive_gate", -6.0): 8.70,
        gated("exclusive_gate", -7.0): 9.81,
        gated("shortcut_gate", 0.0): 12.86,
        gated("shortcut_gate", -6.0): 6.91,
        C: 12.22,
        SHORTCUTS["dropout"].title: FAIL,
    }
}
# He et al. 2015, table 3: ImageNet, 34 layers, top-1 validation error (%) with 10-crop testing.
PAPER_IMAGENET = {PLAIN: 28.54, IDENTITY: 25.03, B: 24.52, C: 24.19}

VARIANTS = variants("paper")
COMPARISON = Comparison(
    title=TITLE,
    claim=CLAIM,
    source=SOURCE,
    config=CONFIG,
    variants=VARIANTS,
    published=PAPER,
    held={"model.order": "post", "model.norm": "batch"},
    clauses=[
        *(
            Lower(f"({letter}) Residual nets with {name} have a lower test error than plain ones", name, PLAIN)
            for letter, name in zip("abc", (IDENTITY, B, C), strict=True)
        ),
        *(
            Lower(f"(d) The identity has a lower test error than {name}", IDENTITY, name, from_depth=110)
            for name in PAPER[Network(110)]
            if name not in (IDENTITY, PLAIN)
        ),
    ],
    notes=[
        "The paper’s errors are medians of 5 runs, and “fail” is an error above 20 %. It gives exclusive gating with "
        "a bias of 0 to −5 one entry, fail.",
        "Option B is not in that table. On ImageNet with 34 layers (He et al. 2015, table 3, top-1 error): "
        + ", ".join(f"{name} {error:.2f} %" for name, error in PAPER_IMAGENET.items())
        + ". There the projections were slightly better than the identity, at depth 110 on CIFAR-10 far worse.",
    ],
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py."""
    return COMPARISON.judge(arms)


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes shortcuts.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths."""
    return COMPARISON.draw(runs, output_directory)
