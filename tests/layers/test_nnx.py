"""The modules of layers.nnx beside flax.nnx's: equal where Flax is exact, right where it is not, and they train."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from normres.layers import nnx as ours

X = np.random.default_rng(0).normal(1, 2, (6, 5, 4, 8)).astype(np.float32)


def halved(arrays, **options):
    """A promote_dtype of a user's; an array that is not there is None."""
    _x, _mean, _var, _scale, bias = arrays
    assert bias is None
    return tuple(None if array is None else jnp.asarray(array, jnp.bfloat16) for array in arrays)


CASES = [
    ("BatchNorm", {"axis": 1}, {}),
    ("BatchNorm", {"axis": np.int64(1), "use_bias": False, "promote_dtype": halved}, {}),
    ("BatchNorm", {"use_scale": False, "dtype": jnp.bfloat16}, {}),
    ("LayerNorm", {"reduction_axes": (1, 2, 3), "use_bias": False}, {}),
    ("RMSNorm", {}, {}),
    ("GroupNorm", {"num_groups": None, "group_size": 2, "param_dtype": jnp.bfloat16}, {}),
    ("InstanceNorm", {}, {}),
    ("InstanceNorm", {}, {"mask": X > 0}),
    ("BatchNorm", {}, {"mask": X > 0}),
]


def built(module, name, options):
    channels = X.shape[options.get("axis", -1)]
    layer = getattr(module, name)(channels, **options, rngs=nnx.Rngs(0))
    for number, parameter in enumerate(("scale", "bias")):
        if getattr(layer, parameter, None) is not None:
            value = getattr(layer, parameter)
            value[...] = (value[...] + 0.1 * (number + jnp.arange(channels))).astype(value[...].dtype)
    return layer


@pytest.mark.parametrize(("name", "options", "call"), CASES)
def test_equal_to_flax(name, options, call):
    pair = [built(module, name, options) for module in (ours, nnx)]
    mine, theirs = ([layer(jnp.asarray(X), **call) for _ in range(2)][-1] for layer in pair)
    assert mine.dtype == theirs.dtype
    tolerance = 2e-2 if mine.dtype == jnp.bfloat16 else 2e-5
    np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), rtol=tolerance, atol=tolerance)
    states = [jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer))) for layer in pair]
    rounding = 1e-2 if options.keys() & {"dtype", "promote_dtype"} else 1e-5
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rounding), *states)
    if name == "BatchNorm":
        results = [layer(jnp.asarray(X), use_running_average=True).astype(np.float32) for layer in pair]
        np.testing.assert_allclose(*results, rtol=tolerance, atol=tolerance)


def test_a_large_mean_costs_no_digits():
    x = jnp.asarray(X) + 1e4
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    mine, theirs = (built(module, "LayerNorm", {"use_scale": False, "use_bias": False})(x) for module in (ours, nnx))
    assert np.abs(mine - exact).max() < 2e-3 < np.abs(theirs - exact).max()


def test_devices_are_merged_by_count():
    mask = np.ones((2, 3, 1, 1, 1), bool)
    mask[1, 1:] = False  # the second device has one example in three

    def normalized(x, where):
        layer = built(ours, "BatchNorm", {"axis_name": "devices"})
        return layer(x, mask=where), layer.mean[...]

    y, mean = jax.vmap(normalized, axis_name="devices")(X.reshape(2, 3, 5, 4, 8), mask)
    whole = built(ours, "BatchNorm", {})
    expected = whole(jnp.asarray(X), mask=jnp.asarray(mask.reshape(6, 1, 1, 1)))
    np.testing.assert_allclose(y.reshape(X.shape), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean[0], whole.mean[...], rtol=1e-5)


@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"])
def test_a_mask_that_leaves_nothing_of_some_means_spoils_no_other(name):
    x, mask = jnp.asarray(X[:, 0, 0]), np.arange(8) % 2 == 0
    mask = np.broadcast_to(mask if name == "BatchNorm" else np.arange(6)[:, None] % 2 == 0, x.shape)
    options = {"num_groups": 4} if name == "GroupNorm" else {}
    mine, theirs = (built(module, name, options) for module in (ours, nnx))
    y, expected = (np.asarray(layer(x, mask=mask)) for layer in (mine, theirs))
    known = np.isfinite(expected)
    assert np.isfinite(y).all()
    assert 0 < known.mean() < 1
    np.testing.assert_allclose(y[known], expected[known], rtol=1e-4, atol=1e-4)
    if name == "BatchNorm":
        np.testing.assert_array_equal(mine.mean[...][1::2], 0)
        np.testing.assert_array_equal(mine.var[...][1::2], 1)


def test_a_network_of_them_trains():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            kinds = (ours.BatchNorm, partial(ours.GroupNorm, num_groups=4), ours.InstanceNorm, ours.LayerNorm)
            self.norms = nnx.List([kind(8, rngs=rngs) for kind in (*kinds, ours.RMSNorm)])
            self.head = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            x = self.conv(x)
            for norm in self.norms:
                x = nnx.relu(norm(x)) + x
            return self.head(x.mean((1, 2)))

    random = np.random.default_rng(1)
    labels = jnp.arange(16) % 2
    images = jnp.asarray(random.normal(size=(16, 8, 8, 3)) * (1 + np.asarray(labels))[:, None, None, None], jnp.float32)
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss(net):
            return optax.softmax_cross_entropy_with_integer_labels(net(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(net)
        optimizer.update(net, gradients)
        return value

    with jax.numpy_rank_promotion("allow"):  # Flax's own Linear adds a bias of rank 1
        losses = [float(step(net, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert float(jnp.abs(net.norms[0].mean[...]).max()) > 0
    net.eval()
    before = np.asarray(net.norms[0].mean[...])
    with jax.numpy_rank_promotion("allow"):
        net(images)
    np.testing.assert_array_equal(before, net.norms[0].mean[...])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="axis 0 is the batch"):
        ours.InstanceNorm(8, feature_axes=(0, -1), rngs=nnx.Rngs(0))(jnp.asarray(X))
    with pytest.raises(ValueError, match="must contain the channels"):
        ours.GroupNorm(8, 4, reduction_axes=(1, 2), rngs=nnx.Rngs(0))(jnp.asarray(X))
    with pytest.raises(ValueError, match="say use_running_average=True or False"):
        ours.BatchNorm(8, use_running_average=None, rngs=nnx.Rngs(0))(jnp.asarray(X))
