"""The pure functions: statistics and normalization against the definitions, written with loops in float64."""

import re
from dataclasses import replace
from functools import partial

import compare
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres.norms import (
    TABLE,
    Moments,
    NormSpec,
    find_spec,
    moments,
    normalization,
    normalize,
    reduction_axes,
)

# The five that most networks use, in every way they can be called; test_table.py has every row of the table.
CLASSIC = ("batch", "instance", "layer", "group", "rms")
EPSILON = 1e-5
GROUPS = 3
DEVICES = 8
SHAPES = {2: (5, 6), 3: (4, 7, 6), 4: (3, 5, 4, 6), 5: (2, 3, 5, 2, 6)}

close = partial(compare.close, tolerance=2e-6)


def draw(*shape, seed=0, mean=0.5, std=2.0):
    """Float32 numbers with a mean that is not zero, so that a norm that forgets to centre shows."""
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def cells(name, examples, channels):
    """The sets of elements of an (N, S, C) array that share a statistic, by the definition of each norm."""
    size = channels // GROUPS
    return {
        "batch": [np.s_[:, :, c] for c in range(channels)],
        "instance": [np.s_[n, :, c] for n in range(examples) for c in range(channels)],
        "layer": [np.s_[n, :, :] for n in range(examples)],
        "group": [np.s_[n, :, g * size : (g + 1) * size] for n in range(examples) for g in range(GROUPS)],
        "rms": [np.s_[n, :, :] for n in range(examples)],
    }[name]


def reference(name, x, channel_axis=-1, where=None):
    """Returns y, mean, var and count, each of x's shape, in float64."""
    moved = np.moveaxis(np.asarray(x, np.float64), channel_axis, -1)
    flat = moved.reshape(moved.shape[0], -1, moved.shape[-1])
    counted = np.ones_like(flat, bool)
    if where is not None:
        counted = np.moveaxis(np.broadcast_to(where, x.shape), channel_axis, -1).reshape(flat.shape)
    mean, var, count = np.zeros_like(flat), np.zeros_like(flat), np.zeros_like(flat)
    for cell in cells(name, flat.shape[0], flat.shape[-1]):
        members = flat[cell][counted[cell]]
        count[cell] = members.size
        if members.size:
            mean[cell] = 0 if name == "rms" else sum(members) / members.size
            var[cell] = sum((member - mean[cell].flat[0]) ** 2 for member in members) / members.size
    y = (flat - mean) / np.sqrt(var + EPSILON)
    return [np.moveaxis(array.reshape(moved.shape), -1, channel_axis) for array in (y, mean, var, count)]


@partial(jax.jit, static_argnames=("name", "channel_axis"))
def ours(name, x, channel_axis=-1, where=None):
    """Returns y, mean, var and count of a row of the table, each of x's shape."""
    y, computed = normalization(x, replace(find_spec(name, GROUPS), channel_axis=channel_axis), where=where)
    return [jnp.broadcast_to(array, x.shape) for array in (y, *computed)]


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("name", CLASSIC)
def test_the_classic_five_equal_their_definitions(name, rank):
    # An (N, C) array has no spatial axis: every element is then its own mean, as in Flax.
    x = draw(*SHAPES[rank])
    for actual, expected in zip(ours(name, x), reference(name, x), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("rank", [3, 5])
@pytest.mark.parametrize("name", CLASSIC)
def test_channels_may_stand_in_the_middle(name, rank):
    x = np.moveaxis(draw(*SHAPES[rank]), -1, 1)
    for channel_axis in (1, 1 - rank) if name == "group" else (1,):
        for actual, expected in zip(ours(name, x, channel_axis), reference(name, x, 1), strict=True):
            close(actual, expected)


@pytest.mark.parametrize(("over", "axes"), [("C", (3,)), ("NSC", (0, 1, 2, 3)), ("N", (0,)), ("NHC", (0, 1, 3))])
def test_a_combination_without_a_name_works_too(over, axes):
    x = draw(3, 5, 4, 6)
    y, computed = normalization(x, NormSpec(over=over))
    close(computed.mean, x.mean(axes, np.float64, keepdims=True))
    close(computed.var, x.var(axes, np.float64, keepdims=True))
    close(y, (x - computed.mean) / np.sqrt(computed.var + EPSILON))


@pytest.mark.parametrize("masked", [False, True])
def test_the_variance_may_have_more_axes_than_the_mean(masked):
    """Extended batch norm: each channel about its own mean, all channels' squares together."""
    x = draw(4, 7, 3, 6) + np.arange(6, dtype=np.float32)
    where = np.random.default_rng(1).random(x.shape) < 0.6 if masked else np.ones(x.shape, bool)
    mean = x.mean((0, 1, 2), np.float64, keepdims=True, where=where)
    squares = np.square(x - mean)[where]
    computed = moments(x, (0, 1, 2), var_axes=(0, 1, 2, 3), where=where if masked else None)
    close(computed.mean, mean)
    close(computed.var, squares.mean().reshape(1, 1, 1, 1))
    np.testing.assert_array_equal(np.broadcast_to(computed.count, mean.shape), where.sum((0, 1, 2), keepdims=True))


def test_a_mask_of_numbers_counts_what_is_not_zero():
    x = draw(4, 7, 3, 6)
    where = np.random.default_rng(1).random(x.shape) < 0.6
    for computed, expected in zip(moments(x, (0, 1), where=255 * where), moments(x, (0, 1), where=where), strict=True):
        np.testing.assert_array_equal(computed, expected)


def test_several_axes_may_be_split():
    x = draw(4, 5, 6)
    computed = moments(x, (0, 1, -1), parts={0: 2, -1: 3})
    apart = x.reshape(2, 2, 5, 3, 2).astype(np.float64)
    parts = (apart.mean((1, 2, 4)), apart.var((1, 2, 4)), np.full((2, 3), 20))
    for statistic, expected in zip(computed, parts, strict=True):
        close(jnp.broadcast_to(statistic, (4, 1, 6)), expected.repeat(2, 0).repeat(2, 1)[:, None])


@pytest.mark.parametrize("masked", [False, True])
def test_a_large_mean_costs_no_digits_of_the_variance(masked):
    # For the short formula: 1e8 has a spacing of 8 in float32, which swallows a variance of 1.
    x = draw(8, 9, 9, 4, mean=1e4, std=1.0)
    where = np.random.default_rng(1).random((8, 9, 9, 1)) < 0.7 if masked else None
    members = np.ones(x.shape, bool) if where is None else np.broadcast_to(where, x.shape)
    exact = x.astype(np.float64).var((0, 1, 2), where=members)
    computed = moments(x, (0, 1, 2), where=where)
    np.testing.assert_allclose(computed.var.ravel(), exact, rtol=1e-5)
    np.testing.assert_allclose(computed.mean.ravel(), x.mean((0, 1, 2), np.float64, where=members), rtol=1e-7)


def test_a_norm_of_numbers_under_a_large_mean_is_as_exact_as_they_are():
    # A float32 at 1e6 is a multiple of 1/16, so that the mean as it rounds is up to 0.03 off; the output is not.
    x = draw(64, 6, mean=1e6, std=1.0)
    close(normalization(x, TABLE["batch"])[0], reference("batch", x)[0], tolerance=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("group", jnp.bfloat16), ("rms", jnp.float16)])
def test_statistics_of_a_half_precision_input_are_float32(name, dtype):
    # 5,000 elements: a sum in bfloat16, 8 bits, would stop growing at about 256.
    x = jnp.asarray(draw(4, 25, 50, 6), dtype)
    spec = TABLE[name]
    axes, parts = reduction_axes(spec.over, 4), {-1: GROUPS} if spec.groups > 1 else {}
    computed = moments(x, axes, parts=parts, center=spec.center)
    upcast = moments(x.astype(jnp.float32), axes, parts=parts, center=spec.center)
    for actual, expected in zip(computed, upcast, strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    y = normalize(x, computed.mean, computed.var)
    assert y.dtype == dtype
    # Rounded once, at the end: equal to the float32 result, rounded.
    np.testing.assert_array_equal(y, normalize(x.astype(jnp.float32), computed.mean, computed.var).astype(dtype))


@pytest.mark.parametrize("name", CLASSIC)
def test_a_masked_array_equals_the_definition_on_what_is_left(name):
    x = draw(4, 7, 3, 6)
    # Element by element, so every set has a count of its own; of a lower rank than x, which broadcasts; and of nothing.
    random = np.random.default_rng(1).random(x.shape) < 0.6
    for where in (random, (np.arange(7) < 4)[:, None, None], np.zeros((4, 1, 1, 1), bool)):
        for actual, expected in zip(ours(name, x, where=where), reference(name, x, where=where), strict=True):
            close(actual, expected)
            # The statistics of no element are exactly zero.
            np.testing.assert_array_equal(actual == 0, expected == 0)


@pytest.mark.parametrize("large_mean", [0.5, 1e4])
def test_statistics_of_members_with_unequal_counts_equal_those_of_one_array(large_mean):
    x = draw(DEVICES, 4, 5, 6, mean=large_mean)
    # Member d counts the first d of its 4 examples, at most all: 0, 1, 2, 3, 4, 4, 4, 4.
    where = (np.arange(4) < np.arange(DEVICES)[:, None])[..., None, None]
    counted = np.concatenate([shard[: min(d, 4)] for d, shard in enumerate(x)]).astype(np.float64)
    merged = partial(moments, axes=(0, 1), axis_name="data")
    computed = jax.pmap(lambda x, where: merged(x, where=where), axis_name="data")(x, where)
    of_all = (counted.mean((0, 1)), counted.var((0, 1)), np.full(6, 22 * 5))
    for statistic, expected in zip(computed, of_all, strict=True):
        for member in statistic:
            np.testing.assert_allclose(np.broadcast_to(member, (1, 1, 6))[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (6,), (3, 1, 1, 6), (5, 4, 1), (3, 5, 4, 6)], ids=str)
def test_scale_and_bias_of_any_shape_that_broadcasts(shape):
    x, scale, bias = draw(3, 5, 4, 6), draw(*shape, seed=1), draw(*shape, seed=2)
    standard, mean, var, _ = reference("instance", x)
    computed = moments(x, (1, 2))
    full = normalize(x, computed.mean, computed.var, scale=scale, bias=bias, epsilon=EPSILON)
    close(full, standard * scale + bias)
    close(normalization(x, TABLE["instance"], {"scale": scale, "bias": bias})[0], standard * scale + bias)
    close(normalize(x, computed.mean, computed.var, scale=scale), standard * scale)
    close(normalize(x, computed.mean, computed.var, bias=bias), standard + bias)
    # Mean and variance broadcast too, as running averages per channel do.
    close(normalize(x, mean[0, 0, 0], var[0, 0, 0]), (x - mean[0, 0, 0]) / np.sqrt(var[0, 0, 0] + EPSILON))


def test_a_gate_outside_its_range_has_the_gradient_of_the_end():
    x, weights = draw(4, 3, 3, 5), draw(4, 3, 3, 5, seed=1)

    def loss(gate):
        return jnp.sum(normalization(x, TABLE["batch_instance"], {"gate": jnp.full(5, gate)})[0] * weights)

    for gates in ((0.999, 1.0, 1.2), (0.001, 0.0, -0.2)):
        inside, *others = (jax.grad(loss)(gate) for gate in gates)
        close(jnp.stack(others), jnp.stack([inside] * 2))
        close(loss(gates[1]), loss(gates[2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: reduction_axes("NX", 4), r"over='NX': an array of 4 axes has no 'X'; choices: N, C, S, W, H"),
        (lambda x: reduction_axes("NSN", 4), r"over='NSN' names an axis twice"),
        (lambda x: reduction_axes("H", 3), r"over='H': an array of 3 axes has no 'H'"),
        (lambda x: reduction_axes("NS", 4, 4), r"channel_axis=4 does not fit an array of 4 axes"),
        (lambda x: reduction_axes("NS", 4, -4), r"channel_axis=-4.*of which 0 is N"),
        (lambda x: moments(x, (1, -3)), r"axes=\(1, -3\) name an axis twice"),
        (lambda x: moments(x, (1, 4)), r"axis 4 is out of range for an array of 4 axes"),
        (lambda x: moments(x, (1, 2), var_axes=(1,)), r"var_axes=\(1,\) do not contain axes=\(1, 2\)"),
        (lambda x: moments(x, (1, 3), parts={3: 4}), r"4 parts do not divide axis 3 of size 6"),
        (lambda x: moments(x, (1, 3), parts={-1: 0}), r"0 parts do not divide"),
        (lambda x: normalization(x, find_spec("group", 4)), r"groups=4 does not divide 6 channels"),
        (lambda x: normalization(x, find_spec("ghost_batch", 1, 2)), r"sub_batches=2 does not divide 3 examples"),
        (lambda x: moments(x + 1j, (0,)), r"complex64"),
        (lambda x: normalization(jnp.ones((2, 3), int), TABLE["none"]), r"floating-point numbers, got one of int32"),
        (lambda x: normalize(jnp.ones((2, 3), jnp.uint8), 0.0, 1.0), r"floating-point numbers, got one of uint8"),
        (lambda x: moments(x, (0,), where=jnp.ones((5, 6), bool)), r"where of shape \(5, 6\) does not broadcast"),
        (lambda x: normalization(x, TABLE["batch"], {"scale": x[0, :, 0, 0]}), r"scale of shape \(5,\) does not"),
        (lambda x: normalization(x, TABLE["batch"], {"gate": jnp.ones(6)}), r"no parameter 'gate'; it has scale, bias"),
        (
            lambda x: normalization(x, TABLE["evonorm_s0"], {"u": jnp.ones(6)}),
            r"no parameter 'u'; it has scale, bias, v",
        ),
        (lambda x: normalization(x, TABLE["batch"], use_running=True), r"use_running needs running averages"),
        (
            lambda x: normalization(x, TABLE["batch"], running=Moments(*jnp.ones((3, 5))), use_running=True),
            r"running mean of shape \(5,\) does not broadcast",
        ),
        (lambda x: normalization(x[:1], TABLE["batch"], residual=x), r"residual of shape \(3, 5, 4, 6\) does not"),
        (lambda x: find_spec("bacth"), r"norm='bacth' does not exist; did you mean 'batch'"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.asarray(draw(3, 5, 4, 6)))


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0, 1e4])
def test_one_pass_over_bfloat16_loses_less_than_its_rounding_has_added(mean):
    x = jnp.asarray(draw(16, 12, 12, 4, mean=mean), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    computed = moments(x, (0, 1, 2))
    lost = np.abs(np.asarray(computed.var, np.float64) - exact.var((0, 1, 2), keepdims=True))
    assert (lost <= mean**2 / 2**18 + 1e-6 * exact.var()).all()
    np.testing.assert_allclose(computed.mean, exact.mean((0, 1, 2), keepdims=True), rtol=1e-5, atol=1e-6)


def test_members_merge_in_one_all_reduce_and_so_do_their_gradients():
    x = draw(DEVICES, 4, 5, 6)
    devices = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")

    def loss(x):
        y, _ = normalization(x, TABLE["batch"], axis_name="data")
        return jnp.sum(jnp.sin(y))[None]

    over_members = partial(jax.shard_map, mesh=devices, in_specs=spec, out_specs=spec, check_vma=False)
    forward, both = over_members(loss), over_members(jax.grad(lambda x: loss(x)[0]))
    for function, most in ((forward, 1), (both, 2)):
        text = jax.jit(function).lower(x).compile().as_text()
        assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == most
