"""Population statistics against numpy, layer by layer."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres import layers, norms
from normres.models.resnet import ResNet, ResNetConfig
from normres.training.recalibrate import recalibrate


class Two(nn.Module):
    """Norm, scale, ReLU, norm: the second's input depends on the first's statistics."""

    @nn.compact
    def __call__(self, x):
        x = layers.Norm(norms.TABLE["batch"], use_running_average=True, name="first")(x)
        return layers.Norm(norms.TABLE["batch"], use_running_average=True, name="second")(nn.relu(3.0 * x + 0.5))


class Counted(list):
    """Batches that count how often they were read."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_two_layers_by_numpy_with_batches_of_different_size():
    x = np.random.default_rng(0).normal(4.0, 3.0, (20, 5, 5, 3)).astype(np.float32)
    variables = Two().init(jax.random.key(0), x[:1])
    batches = Counted([(x[:4],), (x[4:7],), (x[7:],)])
    computed = recalibrate(Two(), variables, batches)
    inner = np.maximum(3 * (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) + 0.5, 0)
    for name, values in (("first", x), ("second", inner)):
        stats = computed["batch_stats"][name]
        np.testing.assert_allclose(stats["mean"], values.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(stats["var"], values.var((0, 1, 2)), rtol=1e-5)
    # Two passes make both layers exact, a third sees that nothing moves any more.
    assert batches.passes == 3
    np.testing.assert_array_equal(computed["params"]["first"]["scale"], variables["params"]["first"]["scale"])


@pytest.mark.parametrize("norm", ["batch", "evonorm_b0", "ghost_batch"])
def test_one_batch_of_a_network_gives_its_training_statistics(norm):
    config = ResNetConfig(depth=14, width=2, norm=norm, norm_momentum=0.0, norm_sub_batches=2)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(6, 8, 8, 3)), jnp.float32)
    variables = jax.jit(ResNet(config).init)(jax.random.key(0), images[:1])
    # With momentum 0 a training step keeps that batch's own statistics, which are then the population's.
    # Those of ghost batches are their average; the population has none.
    whole = replace(config, norm="batch") if norm == "ghost_batch" else config
    _, trained = ResNet(whole, train=True).apply(variables, images, mutable=["batch_stats"])
    computed = recalibrate(ResNet(config), variables, [(images,)])
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3)
    jax.tree.map(close, computed["batch_stats"], trained["batch_stats"])
    assert np.abs(np.log(computed["batch_stats"]["stage2_rest"]["norm1"]["var"])).max() > 0.1


def test_a_mean_that_is_large_against_the_deviation_ends():
    x = 1e4 + 0.5 * np.random.default_rng(0).normal(size=(20, 2, 2, 3)).astype(np.float32)
    layer = layers.Norm(norms.TABLE["batch"], use_running_average=True)
    batches = Counted([(x[:4],), (x[4:7],), (x[7:],)])
    recalibrate(layer, layer.init(jax.random.key(0), x), batches, max_passes=20)
    assert batches.passes == 2


def test_passes_that_do_not_suffice_are_said():
    batches = [(np.random.default_rng(0).normal(3.0, 2.0, (8, 3, 3, 4)).astype(np.float32),)]
    with pytest.warns(UserWarning, match="pass 1 of 1 moved a statistic by"):
        recalibrate(Two(), Two().init(jax.random.key(0), *batches[0]), batches, max_passes=1)


def test_another_librarys_norm_stays_as_it_is():
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 3, 3, 4)).astype(np.float32)
    both = nn.Sequential([layers.Norm(norms.TABLE["batch"], use_running_average=True), nn.BatchNorm(True)])
    computed = recalibrate(both, both.init(jax.random.key(0), x), [(x,)])
    np.testing.assert_allclose(computed["batch_stats"]["layers_0"]["mean"], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(computed["batch_stats"]["layers_1"]["mean"], np.zeros(4))
    alone = nn.BatchNorm(True)
    with pytest.raises(ValueError, match="no norm of this module keeps running averages"):
        recalibrate(alone, alone.init(jax.random.key(0), x), [(x,)])


def test_what_cannot_be_recalibrated_is_named():
    x = jnp.ones((2, 3, 3, 4))
    layer = layers.Norm(norms.TABLE["layer"])
    with pytest.raises(ValueError, match="no norm of this module keeps running averages"):
        recalibrate(layer, layer.init(jax.random.key(0), x), [(x,)])
    with pytest.raises(ValueError, match="there is no batch"):
        recalibrate(Two(), Two().init(jax.random.key(0), x), [])
