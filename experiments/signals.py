"""Signals: what norms and shortcuts do to activations and gradients with depth, before training and after it."""

from normres.configs.signals import NORMS, VARIANTS
from normres.report.clauses import Lower, Trend
from normres.report.probes import Signals, early_gradient, gradient_ratio, growth, probed, response

# The names of the variants are "FORM, NORM".
PLAIN_BATCH, PLAIN_GROUP, PLAIN_LAYER, PLAIN_INSTANCE = (f"plain, {name}" for name in NORMS[:4])
BATCH, NONE = "residual, batch", "residual, none"

ORDERS = "orders of magnitude"
RATIO = probed("gradient norm of the first kernel over that of the last, before training", gradient_ratio, unit=ORDERS)
EARLY = probed(
    "mean log10 gradient norm of the first third of the kernels, before training", early_gradient, unit=ORDERS
)
SIMILARITY = probed("cosine similarity of different images after the last block, before training")
GROWTH = probed("growth of the residual stream’s variance, before training", growth, unit=ORDERS)
RESPONSE = probed("standard deviation of the responses, after training", response, when="after")

EXPERIMENT = Signals(
    title="Signals: activations and gradients layer by layer, by norm, plain and residual",
    claim=(
        "Before training, batch norm makes the gradients of a plain network grow towards the image, and a shortcut "
        "makes them grow less; without a norm the residual stream grows; layer norm does not keep the activations of "
        "different images apart, and small groups give large gradients in early layers. After training, residual "
        "networks respond less than plain ones, and deeper ones less still."
    ),
    source=(
        "Responses: He, Zhang, Ren, Sun 2015, arXiv 1512.03385, figure 7. Gradients of batch norm: Yang, Pennington, "
        "Rao, Sohl-Dickstein, Schoenholz 2019, arXiv 1902.08129. Layer norm and groups: Lubana, Dick, Tanaka 2021, "
        "Beyond BatchNorm, arXiv 2106.05956. Residual stream: De, Smith 2020, arXiv 2002.10444."
    ),
    config="configs/signals.py",
    variants=VARIANTS,
    held={"model.order": "post"},
    follows=("model.norm_groups",),
    clauses=[
        Lower(
            "(a) Batch norm, before training: gradients grow less towards the image with a shortcut than without",
            BATCH,
            PLAIN_BATCH,
            RATIO,
        ),
        Lower(
            "(b) Before training, the variance of the residual stream grows less with batch norm than without a norm",
            BATCH,
            NONE,
            GROWTH,
        ),
        Lower(
            "(c) Plain, before training: activations of different images are less alike with group norm than with "
            "layer norm",
            PLAIN_GROUP,
            PLAIN_LAYER,
            SIMILARITY,
        ),
        Lower(
            "(d) Plain, before training: gradients grow less towards the image with group norm than with instance "
            "norm, whose groups are the smallest",
            PLAIN_GROUP,
            PLAIN_INSTANCE,
            RATIO,
        ),
        Lower(
            "(e) Plain, before training: gradients in early layers are smaller with group norm than with instance norm",
            PLAIN_GROUP,
            PLAIN_INSTANCE,
            EARLY,
        ),
        Lower(
            "(f) Batch norm, after training: a residual network’s layers respond less than a plain one’s",
            BATCH,
            PLAIN_BATCH,
            RESPONSE,
        ),
        Trend(
            "(g) Residual, batch norm, after training: the layers of the deepest network respond less than those of "
            "the shallowest",
            BATCH,
            rises=False,
            quantity=RESPONSE,
            margin=0.0,
        ),
    ],
    notes=[
        "He et al. draw the responses and print no numbers. They are measured after the norm and before the "
        "nonlinearity, here as the standard deviation of each channel, mean over the channels: before training it is "
        "1 after batch and instance norm, and less after the others.",
        "Lubana et al. measure networks with and without shortcuts; clauses (c) to (e) are about those without. A "
        "plain network here differs from a residual one in nothing but the sum. Clause (d) is about how gradients grow "
        "from layer to layer, (e) about their size in early layers. This size also depends on the gradient at the last "
        "layer. That gradient is small after an instance norm, because the means over space are nearly the same for "
        "all images.",
        "Gradients are of the mean loss without weight decay, by each kernel of the main path; kernels of later "
        "stages are larger.",
    ],
)
