"""Norm x depth: batch norm has the lowest test error at the largest depth, and no norm saves a plain network.

The numbers of Chiley et al. 2019 are those of its repository, Cerebras/online-normalization,
experiments/ExpReproducibility.md.
"""

from normres.configs.norm_depth import NORMS, VARIANTS
from normres.report.clauses import Lower, Setting, Trend
from normres.report.experiment import Experiment

BATCH, *OTHERS = (f"{norm}, residual" for norm in NORMS)

EXPERIMENT = Experiment(
    title="Norm and depth: error of each norm against depth, plain, residual and pre-activated",
    claim=(
        "With one recipe for all norms, a residual network with batch norm has a lower test error than with group, "
        "layer or instance norm; no norm saves a plain network from degradation."
    ),
    source=(
        "Norms: Wu, He 2018, arXiv 1803.08494, table 1. Degradation: He, Zhang, Ren, Sun 2015, arXiv 1512.03385. "
        "Numbers: Chiley et al. 2019, Online Normalization for Training Neural Networks, arXiv 1905.05894."
    ),
    config="configs/norm_depth.py",
    variants=VARIANTS,
    # Test error (%) of batch, group, layer and instance norm: 100 minus the accuracy in the reproduction notes.
    published={Setting(20): dict(zip((BATCH, *OTHERS), (7.8, 9.7, 12.6, 9.6), strict=True))},
    scale={},
    clauses=[
        *(Lower(f"The test error of {BATCH} is lower than that of {other}", BATCH, other) for other in OTHERS),
        *(Trend(f"Plain, {norm} norm: the training error rises", f"{norm}, plain", rises=True) for norm in NORMS),
    ],
    notes=[
        "The published numbers are those of Chiley et al.: the best of 250 epochs, chosen on the test set; weight "
        "decay 2e-4, 8 groups, batch norm over 5 runs (± 0.22 %), the others one run; shortcuts are projections where "
        "the shape changes (B). Ours are of the last step. All norms have one recipe, which was found for batch norm; "
        "`learning_rate` asks what that costs the others.",
    ],
    lines=True,
    follows=("model.norm_groups",),
)
