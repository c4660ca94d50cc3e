"""The axis table: every norm as the axes it averages over.

An image batch has the axes N (examples), S (all spatial axes; singly H, W, D) and C (channels), and C may be split
into groups.  A norm is which of these it averages over; `TABLE` is the list, and its rows are the documentation:

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

A few norms mix several reductions, or use them in another formula: their rows name several, and a form (forms.py).
"""

from dataclasses import replace

from normres.errors import nearest
from normres.norms import forms
from normres.norms.spec import LETTERS, About, Change, NormSpec, Parameter

EVERY: tuple[Change, ...] = ("scale", "shift")
PER_CHANNEL: tuple[Change, ...] = (*EVERY, "channel scale", "channel shift")
PER_EXAMPLE: tuple[Change, ...] = (*EVERY, "example scale", "example shift")

# To add a norm, add a row.  It can then be named in a config.
TABLE: dict[str, NormSpec] = {
    "batch": NormSpec(
        over="NS",
        running=True,
        about=About(
            "Ioffe, Szegedy 2015, arXiv 1502.03167",
            "batches of 16 and more per set of statistics; the reference for CIFAR ResNets",
            PER_CHANNEL,
        ),
    ),
    "extended_batch": NormSpec(
        over="NS",
        var_over="NSC",
        running=True,
        about=About(
            "Luo, Zhan, Wang, Gao 2020, arXiv 2003.05569",
            "small batches: the std is measured on more numbers than batch norm's",
            ("scale", "shift", "channel shift"),
            "x̂ = (x - mean) / sqrt(var + epsilon), the variance of all channels, each around its own mean",
        ),
    ),
    "instance": NormSpec(
        over="S",
        about=About(
            "Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022",
            "style transfer; where contrast and colour cast of an image must not matter",
            (*PER_EXAMPLE, "channel scale", "channel shift"),
        ),
    ),
    "layer": NormSpec(
        over="SC",
        about=About(
            "Ba, Kiros, Hinton 2016, arXiv 1607.06450",
            "any batch size; the reference for sequence models",
            PER_EXAMPLE,
        ),
    ),
    "group": NormSpec(
        over="SC",
        groups=32,
        about=About(
            "Wu, He 2018, arXiv 1803.08494",
            "convolutional networks with small batches: detection, segmentation",
            PER_EXAMPLE,
        ),
    ),
    "rms": NormSpec(
        over="SC",
        center=False,
        affine=("scale",),
        about=About(
            "Zhang, Sennrich 2019, arXiv 1910.07467",
            "in place of layer norm, where the mean does not matter and speed does",
            ("scale", "example scale"),
            "x̂ = x / sqrt(mean(x^2) + epsilon)",
        ),
    ),
    "positional": NormSpec(
        over="C",
        about=About(
            "Li, Wu, Weinberger, Belongie 2019, arXiv 1907.04312 (their PONO, with scale and bias)",
            "generative models; as the layer norm of vision transformers",
            PER_EXAMPLE,
        ),
    ),
    "ghost_batch": NormSpec(
        over="NS",
        sub_batches=4,
        running=True,
        about=About(
            "Hoffer, Hubara, Soudry 2017, arXiv 1705.08741",
            "large batches that should regularize like small ones",
            PER_CHANNEL,
            "x̂ = (x - mean) / sqrt(var + epsilon) in each sub-batch",
        ),
    ),
    "batch_renorm": NormSpec(
        over="NS",
        running=True,
        form=forms.batch_renorm,
        about=About(
            "Ioffe 2017, arXiv 1702.03275",
            "small or dependent batches, where training and evaluation must not differ",
            formula="x̂ r + d, r = clip(std / running std), d = clip((mean - running mean) / running std)",
        ),
    ),
    "filter_response": NormSpec(
        over="S",
        center=False,
        form=forms.filter_response,
        parameters=(Parameter("threshold", 0.0),),
        activation=("threshold",),
        about=About(
            "Singh, Krishnan 2019, arXiv 1911.09737",
            "batches of any size, with warm-up; brings its own nonlinearity",
            ("scale", "example scale", "channel scale"),
            "max(x / sqrt(mean(x^2) + epsilon) scale + bias, threshold)",
        ),
    ),
    "evonorm_s0": NormSpec(
        over="SC",
        groups=32,
        form=forms.evonorm_s0,
        parameters=(Parameter("v", 1.0),),
        activation=("v",),
        about=About(
            "Liu, Brock, Simonyan, Le 2020, arXiv 2004.02967",
            "batches of any size; brings its own nonlinearity",
            formula="x sigmoid(v x) / sqrt(var + epsilon)",
        ),
    ),
    "evonorm_b0": NormSpec(
        over=("NS", "S"),
        running=True,
        form=forms.evonorm_b0,
        parameters=(Parameter("v", 1.0),),
        activation=("v",),
        about=About(
            "Liu, Brock, Simonyan, Le 2020, arXiv 2004.02967",
            "large batches; brings its own nonlinearity",
            ("scale", "channel scale"),
            "x / max(sqrt(batch var + epsilon), v x + sqrt(instance var + epsilon))",
        ),
    ),
    "switchable": NormSpec(
        over=("NS", "S", "SC"),
        running=True,
        form=forms.switchable,
        parameters=(Parameter("mean_logits", 1.0, "reduction"), Parameter("var_logits", 1.0, "reduction")),
        about=About(
            "Luo, Ren, Peng, Zhang, Li 2018, arXiv 1806.10779",
            "where the task shall choose its norm",
            EVERY,
            "means and variances of batch, instance and layer, weighted by two softmaxes",
        ),
    ),
    "batch_instance": NormSpec(
        over=("NS", "S"),
        running=True,
        form=forms.batch_instance,
        parameters=(Parameter("gate", 1.0),),
        about=About(
            "Nam, Kim 2018, arXiv 1805.07925",
            "where style matters in some channels and disturbs in others",
            PER_CHANNEL,
            "gate x̂_batch + (1 - gate) x̂_instance, gate in [0, 1]",
        ),
    ),
    "local_response": NormSpec(
        over=(),
        affine=(),
        form=forms.local_response,
        about=About(
            "Krizhevsky, Sutskever, Hinton 2012, section 3.3",
            "history: what AlexNet had before batch norm",
            formula="x / (2 + 1e-4 sum over 5 neighbouring channels of x^2)^0.75",
        ),
    ),
    "none": NormSpec(
        over=(),
        affine=(),
        form=forms.identity,
        about=About("–", "with Fixup, SkipInit, ReZero or a normalized kernel, which keep the scale", formula="x"),
    ),
}


def find_spec(name: str, groups: int = 8, sub_batches: int = 4, epsilon: float = 1e-5) -> NormSpec:
    """Returns the row of TABLE called `name`, or the unnamed norm over its letters, such as "NHC".

    An unnamed norm uses groups of channels if it averages over C, and running averages if over N.

    Args:
      name: the norm.
      groups, sub_batches: replace the row's numbers, unless these are 1: "group" has 8 here, not 32.
      epsilon: added to variances.

    Raises:
      ValueError: there is no such norm; the message names the nearest row.
    """
    if name in TABLE:
        return replace(TABLE[name].split(groups, sub_batches), epsilon=epsilon)
    if name and set(name) <= set(LETTERS):
        return NormSpec(over=name, groups=groups if "C" in name else 1, running="N" in name, epsilon=epsilon)
    raise ValueError(f"norm={name!r} does not exist; {nearest(name, TABLE)}, or axes such as NHC")
