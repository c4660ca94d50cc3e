"""Shortcuts: at depth 110 the identity is the best shortcut, and most others are far worse."""

from normres.configs.shortcuts import VARIANTS
from normres.report.clauses import Lower, Setting
from normres.report.experiment import FAIL, Experiment

IDENTITY, PLAIN, B, C, *OTHERS = VARIANTS

EXPERIMENT = Experiment(
    title="Shortcuts: test error by what stands beside the branch",
    claim=(
        "At depth 110, the identity has a lower test error than no shortcut, than one that is scaled, gated, dropped "
        "out or a 1x1 convolution; and, at any depth at which plain networks degrade, options A, B and C are all "
        "better than none."
    ),
    source=(
        "He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027, table 1; for A, B "
        "and C the same authors’ Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 3."
    ),
    config="configs/shortcuts.py",
    variants=VARIANTS,
    # Table 1: CIFAR-10 test error (%), median of 5 runs.
    published={
        Setting(110): {
            IDENTITY: 6.61,
            PLAIN: FAIL,
            C: 12.22,
            "constant 0.5 on the shortcut": FAIL,
            "constant 0.5 on shortcut and branch": 12.35,
            "exclusive gating, bias 0": FAIL,
            "exclusive gating, bias −5": FAIL,
            "exclusive gating, bias −6": 8.70,
            "exclusive gating, bias −7": 9.81,
            "shortcut-only gating, bias 0": 12.86,
            "shortcut-only gating, bias −6": 6.91,
            "dropout 0.5 on the shortcut": FAIL,
        }
    },
    held={"model.order": "post", "model.norm": "batch"},
    clauses=[
        *(
            Lower(f"({letter}) Residual networks with {name} have a lower test error than plain ones", name, PLAIN)
            for letter, name in zip("abc", (IDENTITY, B, C), strict=True)
        ),
        *(
            Lower(f"(d) The identity has a lower test error than {name}", IDENTITY, name, at_least=110)
            for name in (C, *OTHERS)
        ),
    ],
    notes=[
        "The paper’s errors are medians of 5 runs, and “fail” is an error above 20 %. It gives exclusive gating with a "
        "bias of 0 to −5 one entry, fail.",
        "Option B is not in that table. On ImageNet with 34 layers (He et al. 2015, table 3, top-1 validation error "
        "with 10-crop testing): plain 28.54 %, A 25.03 %, B 24.52 %, C 24.19 %. There the projections were slightly "
        "better than the identity, at depth 110 on CIFAR-10 far worse.",
    ],
)
