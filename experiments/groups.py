"""Groups: between layer norm and instance norm lies an optimum."""

from normres.configs.groups import VARIANTS
from normres.report.clauses import Lower, Setting
from normres.report.experiment import Experiment

LAYER, TWO, FOUR, EIGHT, INSTANCE, BATCH = VARIANTS
PUBLISHED = {LAYER: 25.3, TWO: 24.7, FOUR: 24.6, EIGHT: 24.4, INSTANCE: 28.4, BATCH: 23.6}

EXPERIMENT = Experiment(
    title="Groups: error of group norm against the number of groups",
    claim="Group norm has a lower test error than both of its ends: layer norm (one group) and instance norm.",
    source="Wu, He 2018, Group Normalization, arXiv 1803.08494, section 4.1, tables 1 and 3.",
    config="configs/groups.py",
    variants=VARIANTS,
    # Validation error (%).
    published={Setting(50, "bottleneck", "imagenet"): PUBLISHED},
    scale={},
    clauses=[
        Lower("(a) Eight groups have a lower test error than layer norm", EIGHT, LAYER),
        Lower("(b) Eight groups have a lower test error than instance norm", EIGHT, INSTANCE),
    ],
    notes=[
        "The paper’s numbers are those of ImageNet; its group norm with 32 groups has 24.1 %. A network of 16 channels "
        "has no 32 groups. All norms have one recipe."
    ],
)
