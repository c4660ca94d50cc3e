"""VGG: published counts, an independent network, every norm, and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres import norms
from normres.interop.networks import vgg_to_torch
from normres.models import VGG, VGGConfig
from normres.training.networks import count_parameters

IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


def shapes(**fields):
    return jax.eval_shape(lambda: VGG(VGGConfig(**fields)).init(jax.random.key(0), IMAGES[:1]))["params"]


# Kuang Liu's pytorch-cifar, with batch norm: 14,728,266 (VGG-16) and 20,040,522 (VGG-19), of which 4,224 and 5,504 are
# biases of convolutions, which mean nothing in front of a norm.
@pytest.mark.parametrize(("depth", "count"), [(16, 14_728_266 - 4_224), (19, 20_040_522 - 5_504)])
def test_published_counts(depth, count):
    assert count_parameters(shapes(depth=depth, width=64)) == count


def test_it_is_the_network_written_out():
    config = VGGConfig(depth=11, width=2)
    model = VGG(config, train=True)
    held = model.init(jax.random.key(0), IMAGES)
    params, x = jax.tree.map(np.asarray, held["params"]), np.asarray(IMAGES, np.float64)
    for stage, count in enumerate((1, 1, 2, 2, 2), start=1):
        for number in range(1, count + 1):
            kernel = params[f"stage{stage}_conv{number}"]["kernel"]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            side = x.shape[1]
            windows = [padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3)]
            x = sum(windows)
            affine = params[f"stage{stage}_norm{number}"]
            x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * affine["scale"] + affine["bias"]
            x = np.maximum(x, 0)
        x = x.reshape(4, side // 2, 2, side // 2, 2, -1).max((2, 4))
    expected = x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    logits, changed = model.apply(held, IMAGES, mutable=["batch_stats", "intermediates"])
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(changed["intermediates"]["pooled"][0], x.mean((1, 2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["filter_response", "evonorm_s0", "switchable", "batch_instance"])
def test_pytorch_gets_no_norm_that_it_does_not_have(norm):
    config = VGGConfig(depth=11, width=8, norm=norm)
    variables = jax.eval_shape(VGG(config).init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match=r"has 'stage1_norm1/\w+', which PyTorch's VGGs have not"):
        vgg_to_torch(variables, config)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"norm_groups=3 does not divide config\.model\.width=16"):
        VGGConfig(depth=11, norm="group", norm_groups=3).check()
    own = VGGConfig(depth=11, norm=norms.NormSpec("SC", groups=4), norm_groups=3)
    assert own.check() is own  # a NormSpec has its own groups
    with pytest.raises(ValueError, match="images of 16x16 are too small"):
        VGG(VGGConfig(depth=11, width=2)).init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
