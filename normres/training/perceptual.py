"""Content and style losses, by the features of a network that was trained to classify.

Gatys, Ecker, Bethge 2016 (CVPR); Johnson, Alahi, Fei-Fei 2016, arXiv 1603.08155.  Both losses are relative here:
squared differences over squares, so neither depends on the size of the features, and 1 is the loss of features of zero.

The network is a small VGG-13 of this project, trained on CIFAR-10; scripts/make_loss_network.py writes
loss_network.npz, with its norms folded into the convolutions and how it was trained.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from normres.layers import PLAIN, Ops

STAGES = (2, 2, 2)  # convolutions before each pool; the features are what comes out of the last one
CONTENT = 1  # the stage of the content loss; the style loss is of all

Kernels = Mapping[str, Any]


@cache
def loss_network() -> dict[str, np.ndarray]:
    """Returns the network's arrays, float32: "mean" and "std" of its input, "kernelN" and "biasN" of convolution N.

    All but the kernels are (1, 1, 1, C).
    """
    with (resources.files("normres.training") / "loss_network.npz").open("rb") as file, np.load(file) as arrays:
        known = {name: arrays[name].astype(np.float32) for name in arrays.files if name != "about"}
    return {name: array if array.ndim == 4 else array.reshape(1, 1, 1, -1) for name, array in known.items()}


def features(network: Kernels, images_NHWC: jax.Array, ops: Ops = PLAIN) -> list[jax.Array]:
    """Returns the features of each stage, (N, H / 2^stage, W / 2^stage, C), of images from 0 to 1."""
    x, stages, number = (images_NHWC - network["mean"]) / network["std"], [], 0
    for stage, convolutions in enumerate(STAGES):
        x = nn.max_pool(x, (2, 2), strides=(2, 2)) if stage else x
        for _ in range(convolutions):
            number += 1
            x = ops.activation(ops.conv(x, network[f"kernel{number}"]) + network[f"bias{number}"], "relu")
        stages.append(x)
    return stages


def gram(features_NHWC: jax.Array) -> jax.Array:
    """Returns the Gram matrices (N, C, C): the means over all places of the products of two features."""
    places = features_NHWC.shape[1] * features_NHWC.shape[2]
    return jnp.einsum("nhwc,nhwd->ncd", features_NHWC, features_NHWC, precision="highest") / places


def relative(x: jax.Array, target: jax.Array) -> jax.Array:
    """Returns sum (x - target)^2 / sum target^2 of each example, (N,)."""
    axes = tuple(range(1, x.ndim))
    return jnp.sum(jnp.square(x - target), axes) / jnp.sum(jnp.square(target), axes)


def content_loss(of_output: Sequence[jax.Array], of_image: Sequence[jax.Array]) -> jax.Array:
    """Returns how far the features of one stage are from the image's, (N,)."""
    return relative(of_output[CONTENT], of_image[CONTENT])


def style_loss(of_output: Sequence[jax.Array], of_styles: Sequence[jax.Array], labels_N: jax.Array) -> jax.Array:
    """Returns how far the Gram matrices are from those of the example's style, mean over the stages, (N,)."""
    pairs = zip(of_output, of_styles, strict=True)
    return sum((relative(gram(output), gram(style)[labels_N]) for output, style in pairs), jnp.zeros(())) / len(STAGES)
