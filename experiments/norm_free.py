"""Without norms: deep residual nets train where their branches start small, and batch norm still generalizes better.

De, Smith 2020, arXiv 2002.10444 (SkipInit); Bachlechner et al. 2020, arXiv 2003.04887 (ReZero); Zhang, Dauphin, Ma
2019, arXiv 1901.09321 (Fixup); Brock, De, Smith, Simonyan 2021, arXiv 2101.08692 and 2102.06171 (normalizer-free nets,
adaptive clipping).  Expected: at the largest depth a net without any norm has the highest training error, or diverges.
The runs are the sweep of `CONFIG`; `draw` reads their result files only.
"""

from collections.abc import Sequence
from pathlib import Path

from normres.configs.norm_free import VARIANTS
from normres.report.clauses import Lower, Network
from normres.report.comparison import Comparison, Published
from normres.report.statistics import Arm
from normres.report.verdict import Clause
from normres.runs.results import Run

CONFIG = "configs/norm_free.py"
TITLE = "Without norms: error of norm-free residual nets and of batch norm against depth"
CLAIM = (
    "Without norms, a deep residual net trains if its branches start at or near zero (SkipInit, ReZero, Fixup) or its "
    "kernels are standardized as well (normalizer-free), and not otherwise; at depth 110, without further "
    "regularization, batch norm keeps the lower test error."
)
SOURCE = (
    "SkipInit: De, Smith 2020, arXiv 2002.10444. ReZero: Bachlechner et al. 2020, arXiv 2003.04887. Fixup: Zhang, "
    "Dauphin, Ma 2019, arXiv 1901.09321. Normalizer-free nets and adaptive gradient clipping: Brock, De, Smith, "
    "Simonyan 2021, arXiv 2101.08692 and 2102.06171. Batch norm: He et al. 2015 and 2016."
)

BATCH, NONE, SKIPINIT, REZERO, FIXUP, BATCH_PRE, NORMALIZER_FREE = VARIANTS
# CIFAR-10 test error (%): He et al. 2015, table 6 (at depth 110 the mean of 5 runs), and He et al. 2016, table 2.
PAPER: Published = {
    Network(20): {BATCH: 8.75},
    Network(56): {BATCH: 6.97},
    Network(110): {BATCH: 6.61, BATCH_PRE: 6.37},
}

COMPARISON = Comparison(
    title=TITLE,
    claim=CLAIM,
    source=SOURCE,
    config=CONFIG,
    variants=VARIANTS,
    published=PAPER,
    held={
        "model.shortcut": "A",
        "model.order": "post",
        "model.weights": "plain",
        "model.residual_scale": "none",
        "optim.clip_factor": 0.0,
    },
    clauses=[
        *(
            Lower(
                f"({letter}) At the largest depth, {name} trains to a lower error than no norm",
                name,
                NONE,
                metric="train_error",
            )
            for letter, name in zip("abcd", (BATCH, SKIPINIT, FIXUP, NORMALIZER_FREE), strict=True)
        ),
        *(
            Lower(f"({letter}) Batch norm has a lower test error than {name}", BATCH, name, from_depth=110)
            for letter, name in zip("ef", (SKIPINIT, FIXUP), strict=True)
        ),
    ],
    notes=[
        "The numbers are those of batch norm. The papers of the replacements report other networks or other "
        "regularization than this recipe has, so none of theirs is set beside ours.",
        "ReZero’s formula is SkipInit’s, and in these blocks the two are one network: the sweep trains it once, as "
        "SkipInit. The normalizer-free net differs from “batch norm, pre-activation” in all of its parts at once: no "
        "norm, standardized kernels, SkipInit and adaptive clipping.",
    ],
    over_depth=True,
)


def judge(arms: Sequence[Arm]) -> list[Clause]:
    """Returns the claim clause by clause, each judged by the rule in normres/report/verdict.py."""
    return COMPARISON.judge(arms)


def draw(runs: Sequence[Run], output_directory: Path) -> list[Path]:
    """Writes norm_free.png/.pdf, curves.png/.pdf, table.md, table.tex and index.html; returns their paths."""
    return COMPARISON.draw(runs, output_directory)
