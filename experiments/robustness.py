"""Robustness: instance norm removes an image's own contrast and colour, and also the information that is in them."""

from normres.configs.robustness import VARIANTS
from normres.report.clauses import Lower, Setting
from normres.report.robustness import UnderCorruptions, smaller_rise

BATCH, INSTANCE, LAYER, GROUP, _ = VARIANTS
APPEARANCE = ("contrast", "brightness", "color_cast")  # what an instance norm is said to remove
OTHERS = ("gaussian_blur", "gaussian_noise")  # and what it does not remove

EXPERIMENT = UnderCorruptions(
    title="Robustness: test error under corruptions, by norm",
    claim=(
        "An instance norm removes each image’s own mean and contrast in every channel: under changes of contrast, "
        "brightness and colour the test error rises less with it than with batch norm, and this advantage is larger "
        "than under blur and noise, which it does not remove; the clean error is higher."
    ),
    source=(
        "Ulyanov, Vedaldi, Lempitsky 2016, Instance Normalization, arXiv 1607.08022, section 2 (contrast "
        "normalization); Pan, Luo, Shi, Tang 2018, IBN-Net, arXiv 1807.09441 (invariance to appearance, such as "
        "colour); Nam, Kim 2018, Batch-Instance Normalization, arXiv 1805.07925 (worse alone in classification); "
        "corruptions: Hendrycks, Dietterich 2019, arXiv 1903.12261."
    ),
    config="configs/robustness.py",
    variants=VARIANTS,
    # Wu, He 2018, arXiv 1803.08494, table 1: validation error (%), no corruption.
    published={Setting(50, "bottleneck", "imagenet"): {BATCH: "23.6", INSTANCE: "28.4", LAYER: "25.3", GROUP: "24.1"}},
    scale={},
    held={"model.shortcut": "A", "model.order": "post"},
    follows=("model.norm_groups",),
    clauses=[
        *(
            smaller_rise(
                f"({letter}) Under {corruption.replace('_', ' ')}, the error of instance norm rises less than that of "
                "batch norm",
                INSTANCE,
                BATCH,
                under=(corruption,),
            )
            for letter, corruption in zip("abc", APPEARANCE, strict=True)
        ),
        smaller_rise(
            "(d) The advantage of instance norm is larger under these three than under blur and noise",
            INSTANCE,
            BATCH,
            under=APPEARANCE,
            beyond=OTHERS,
        ),
        Lower("(e) The clean test error of batch norm is lower than that of instance norm", BATCH, INSTANCE),
    ],
    notes=[
        "None of the papers reports these corruptions for these networks. The numbers are the clean errors of "
        "ResNet-50 on ImageNet’s validation set from Wu, He 2018, arXiv 1803.08494; their order can be compared with "
        "ours.",
        "A rise starts from the clean error, so a network that has learned less has less to lose. That is why clause "
        "(d) compares with the other corruptions.",
        "Instance norm removes a change exactly if it scales and shifts a whole channel of its input. Contrast and "
        "color cast do so in the image, except where pixels are clipped. After the first convolution this is no longer "
        "exact: it also reads the zeros around the image, which do not change. Brightness scales each pixel by another "
        "factor.",
    ],
)
