"""Without norms: deep residual networks train better if branches start small; batch norm still generalizes better."""

from normres.configs.norm_free import VARIANTS
from normres.report.clauses import TRAIN, Lower, Setting
from normres.report.experiment import Experiment

BATCH, NONE, SKIPINIT, FIXUP, BATCH_PRE, NORMALIZER_FREE = VARIANTS

EXPERIMENT = Experiment(
    title="Without norms: error of norm-free residual networks and of batch norm against depth",
    claim=(
        "Without norms, a deep residual network reaches a lower training error if its branches start at or near zero "
        "(SkipInit, ReZero, Fixup) or its kernels are standardized as well (normalizer-free) than without either; at "
        "depth 110, without further regularization, batch norm keeps the lower test error."
    ),
    source=(
        "SkipInit: De, Smith 2020, arXiv 2002.10444. ReZero: Bachlechner et al. 2020, arXiv 2003.04887. Fixup: Zhang, "
        "Dauphin, Ma 2019, arXiv 1901.09321. Normalizer-free networks and adaptive gradient clipping: Brock, De, "
        "Smith 2021, arXiv 2101.08692; Brock, De, Smith, Simonyan 2021, arXiv 2102.06171. "
        "Batch norm: He et al. 2015 and 2016."
    ),
    config="configs/norm_free.py",
    variants={**VARIANTS, "ReZero": {"model.norm": "none", "model.residual_scale": "rezero"}},
    # CIFAR-10 test error (%): He et al. 2015, table 6 (at depth 110 the mean of 5 runs), and He et al. 2016, table 2.
    published={
        Setting(20): {BATCH: 8.75},
        Setting(56): {BATCH: 6.97},
        Setting(110): {BATCH: 6.61, BATCH_PRE: 6.37},
    },
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
                quantity=TRAIN,
            )
            for letter, name in zip("abcd", (BATCH, SKIPINIT, FIXUP, NORMALIZER_FREE), strict=True)
        ),
        *(
            Lower(f"({letter}) Batch norm has a lower test error than {name}", BATCH, name, at_least=110)
            for letter, name in zip("ef", (SKIPINIT, FIXUP), strict=True)
        ),
        Lower(
            f"(g) Batch norm, pre-activation, has a lower test error than {NORMALIZER_FREE}",
            BATCH_PRE,
            NORMALIZER_FREE,
            at_least=110,
        ),
    ],
    notes=[
        "The numbers are those of batch norm. The papers of the replacements report other networks or other "
        "regularization, so none of their numbers stands beside ours.",
        "ReZero’s formula is SkipInit’s, and in these blocks the two are one network: the sweep trains it once, as "
        "SkipInit. The normalizer-free network differs from “batch norm, pre-activation” in all of its parts at once: "
        "no norm, standardized kernels, SkipInit and adaptive clipping.",
    ],
    lines=True,
)
