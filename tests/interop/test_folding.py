"""Folded networks and networks with plain kernels: the same logits in evaluation, or one line that says why not."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax.traverse_util import flatten_dict

from normres.interop import as_evaluated, fold, vgg_to_torch
from normres.models import MODELS, ResNetConfig, StylizerConfig, VGGConfig

SMALL = ResNetConfig(depth=14, width=4)  # two blocks a stage: one alone and one in a stack
FOLDABLE = {
    "bottleneck": replace(SMALL, block="bottleneck", depth=11, cardinality=2, shortcut="C"),
    "relu_before_addition": replace(SMALL, order="relu_before_addition", shortcut="none"),
    "relu_only_pre": replace(SMALL, order="relu_only_pre", norm="extended_batch", norm_epsilon=0.1),
    "unrolled": replace(SMALL, depth=8, unrolled=True, squeeze=2, shortcut="exclusive_gate"),
    "ghost": replace(SMALL, norm="ghost_batch", norm_average="cumulative", auxiliary=(1,)),
    "scaled_standardized": replace(SMALL, depth=8, weights="scaled_standardized", norm="batch_renorm"),
    "spectral": replace(SMALL, weights="spectral"),
}
VGG = VGGConfig(depth=11, width=2)
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def network(config):
    """Returns a network's module and variables away from their initial values."""
    module = MODELS["vgg" if isinstance(config, VGGConfig) else "resnet"].module(config)
    return module, drawn(module, IMAGES)


def logits(module, config, variables):
    return np.asarray(jax.jit(module.clone(config=config).apply)(variables, IMAGES))


@pytest.mark.parametrize("case", FOLDABLE)
def test_folded_networks_have_the_same_logits(case):
    config = FOLDABLE[case]
    module, variables = network(config)
    expected = logits(module, config, variables)
    assert np.ptp(expected) > 0.1
    folded = fold(config, variables)
    for other in (folded, as_evaluated(config, variables))[: 1 if config.weights == "plain" else 2]:
        actual = logits(module, *other)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    names = flatten_dict(folded[1], sep="/")
    assert not [name for name in names if re.search(r"batch_stats|norm\d?/scale|kernel_scale|auxiliary", name)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "pre"}, "order='pre': in the order norm1 relu conv1 norm2 relu conv2, norm1 follows no convolution"),
        ({"order": "norm_after_addition"}, "order='norm_after_addition': in the order conv1 norm1 relu conv2, + norm1"),
        ({"norm": "group", "norm_groups": 2}, "norm='group' has no running statistics"),
        ({"norm": "none"}, "norm='none' has no running statistics"),
        ({"norm": "batch_instance"}, "norm='batch_instance' is more than one factor and one bias per channel"),
        ({"norm": "N"}, "norm='N' is more than"),
    ],
)
def test_what_cannot_be_folded_is_one_line(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        fold(replace(SMALL, **fields), {})
    assert "\n" not in str(caught.value)


def test_a_folded_vgg_has_the_keys_of_torchvisions_without_norms():
    module, variables = network(VGG)
    folded, folded_variables = fold(VGG, variables)
    state = vgg_to_torch(folded_variables, folded)
    # torchvision.models.vgg11().features has its convolutions there.
    numbers = [0, 3, 6, 8, 11, 13, 16, 18]
    paths = [*(f"features.{number}" for number in numbers), "classifier"]
    assert list(state) == [f"{path}.{leaf}" for path in paths for leaf in ("weight", "bias")]
    x = jnp.asarray(IMAGES)
    for number in numbers:
        x = jax.lax.conv_general_dilated(
            x, state[f"features.{number}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
        x = jax.nn.relu(x + state[f"features.{number}.bias"][None, None, None])
        if number in (0, 3, 8, 13, 18):  # before a pooling
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    computed = x.mean((1, 2)) @ state["classifier.weight"].T + state["classifier.bias"][None]
    expected = logits(module, VGG, variables)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("condition", ["label", "picture"])
def test_norms_that_depend_on_a_style_are_not_folded(condition):
    with pytest.raises(ValueError, match=f"^condition='{condition}'"):
        fold(StylizerConfig(depth=8, width=2, norm="batch", condition=condition), {})
