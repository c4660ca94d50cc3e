"""The fused gradients against autodiff of the plain formula and against finite differences of it in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from normres.cpu.fused import standardize

from normres.norms import moments, normalize

EPSILON = 1e-2  # large enough for its share in the gradient to show
SHAPE = (2, 4, 3, 6)
MIDDLE = (2, 6, 3, 2)  # channels are axis 1
DEVICES = 8


def draw(*shape, seed=0, mean=0.0):
    return np.asarray(mean + np.random.default_rng(seed).standard_normal(shape))


def mask(*shape):
    return np.random.default_rng(9).random(shape) < 0.6


# axes, the options of standardize, and the shapes of scale and bias (None: absent).
CASES = {
    "batch": ((0, 1, 2), {}, (6,), (6,)),
    "batch, masked": ((0, 1, 2), {"where": mask(2, 4, 3, 1)}, (6,), (6,)),
    "batch, channels in the middle": ((0, 2, 3), {"channel_axis": 1}, (6, 1, 1), (6, 1, 1)),
    "instance, conditional": ((1, 2), {}, (2, 1, 1, 6), (2, 1, 1, 6)),
    "instance, one example masked": ((1, 2), {"where": np.array([True, False])[:, None, None, None]}, (6,), (6,)),
    "layer": ((1, 2, 3), {}, (6,), (6,)),
    "layer, spatial": ((1, 2, 3), {"where": mask(*SHAPE)}, (4, 3, 1), (1, 4, 1, 6)),
    "layer, full": ((1, 2, 3), {}, SHAPE, SHAPE),
    "layer, one scale": ((1, 2, 3), {}, (), ()),
    "group": ((1, 2, 3), {"groups": 3}, (6,), (6,)),
    "group, one scale": ((1, 2, 3), {"groups": 3}, (1, 1, 1, 1), None),
    "group, masked": ((1, 2, 3), {"groups": 3, "where": mask(*SHAPE)}, (2, 1, 1, 6), (6,)),
    "group, channels in the middle": ((1, 2, 3), {"groups": 2, "channel_axis": 1}, (6, 1, 1), (6, 3, 2)),
    "group, channels only": ((3,), {"groups": 2}, (6,), (6,)),
    "rms": ((1, 2, 3), {"center": False}, (6,), None),
    "rms, masked groups": ((1, 2, 3), {"center": False, "groups": 3, "where": mask(*SHAPE)}, (6,), (6,)),
    "positional": ((-1,), {}, None, (6,)),
    "no scale, no bias": ((0, 1, 2), {}, None, None),
}


def arrays_of(case):
    """Returns axes, options, the arrays that are differentiated, and a cotangent of y, mean and var."""
    axes, options, scale_shape, bias_shape = CASES[case]
    shape = MIDDLE if options.get("channel_axis") == 1 else SHAPE
    arrays = {"x": draw(*shape, mean=0.5)}
    if scale_shape is not None:
        arrays["scale"] = draw(*scale_shape, seed=1, mean=1.0)
    if bias_shape is not None:
        arrays["bias"] = draw(*bias_shape, seed=2)
    statistic = in_numpy(arrays["x"], axes, **options)[1].shape
    cotangents = (draw(*shape, seed=3), draw(*statistic, seed=4), draw(*statistic, seed=5))
    return axes, options, arrays, cotangents


def plain(x, axes, *, scale=None, bias=None, epsilon=1e-5, **options):
    """What standardize stands for: differentiable in every mode."""
    found = moments(x, axes, **options)
    return normalize(x, found.mean, found.var, scale=scale, bias=bias, epsilon=epsilon), found


def in_numpy(x, axes, *, scale=1.0, bias=0.0, epsilon=1e-5, groups=1, channel_axis=-1, where=True, center=True):
    """The formula in float64, groups as an axis of their own; returns y, mean and var."""
    channel = channel_axis % x.ndim
    split = (*x.shape[:channel], groups, x.shape[channel] // groups, *x.shape[channel + 1 :])
    # Axes behind the groups move up by one; the channels of a group stand behind their groups.
    over = tuple(axis % x.ndim + (axis % x.ndim >= channel) for axis in axes)
    values, counted = x.reshape(split), np.broadcast_to(where, x.shape).reshape(split)
    count = np.maximum(counted.sum(over, keepdims=True), 1)
    mean = (values * counted).sum(over, keepdims=True) / count * center
    var = ((values - mean) ** 2 * counted).sum(over, keepdims=True) / count
    y = ((values - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * scale + bias
    if groups == 1:
        return y, mean.squeeze(channel), var.squeeze(channel)
    repeated = [np.repeat(array, split[channel + 1], channel + 1) for array in (mean, var)]
    merged = [array.reshape(*array.shape[:channel], -1, *array.shape[channel + 2 :]) for array in repeated]
    return y, merged[0], merged[1]


def weighted_sum(outputs, cotangents):
    """The scalar whose gradient hands each output its cotangent."""
    y, statistics = outputs[0], outputs[1:]
    if len(statistics) == 1:
        statistics = statistics[0][:2]
    return sum((array * cotangent).sum() for array, cotangent in zip((y, *statistics), cotangents, strict=True))


def gradients(function, axes, options, arrays, cotangents):
    """Gradients of the weighted sum of y, mean and var of `function` with regard to every array."""
    return jax.jit(
        jax.grad(lambda arrays: weighted_sum(function(axes=axes, epsilon=EPSILON, **options, **arrays), cotangents))
    )(arrays)


def assert_trees_close(actual, expected, tolerance):
    """Compares leaf by leaf, relative to the largest expected value of the leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        wanted = np.asarray(wanted, np.float64)
        assert found.shape == wanted.shape
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autodiff_and_finite_differences(case):
    with jax.enable_x64(True):
        axes, options, arrays, cotangents = arrays_of(case)
        fused = gradients(standardize, axes, options, arrays, cotangents)
        assert_trees_close(fused, gradients(plain, axes, options, arrays, cotangents), 1e-12)

    def in_numpy_at(name, moved):
        return weighted_sum(in_numpy(axes=axes, epsilon=EPSILON, **options, **arrays | {name: moved}), cotangents)

    # Central differences: the error is of order step^2 = 1e-10, and rounding 1e-16 / step = 1e-11, times the values.
    step = 1e-5
    for name, array in arrays.items():
        expected = np.empty_like(array)
        for index in np.ndindex(array.shape):
            up, down = array.copy(), array.copy()
            up[index] += step
            down[index] -= step
            expected[index] = (in_numpy_at(name, up) - in_numpy_at(name, down)) / (2 * step)
        assert_trees_close(fused[name], expected, 1e-7)


@pytest.mark.parametrize("case", ["batch, masked", "group", "rms"])
def test_gradients_in_float32_with_a_large_mean(case):
    axes, options, arrays, cotangents = arrays_of(case)
    if case != "rms":
        arrays["x"] = arrays["x"] + 100
    with jax.enable_x64(True):
        exact = gradients(plain, axes, options, arrays, cotangents)
    # 100 has a spacing of 8e-6 in float32, of which the deviations keep 1e-5.
    as_float32 = jax.tree.map(lambda array: np.asarray(array, np.float32), (arrays, cotangents))
    assert_trees_close(gradients(standardize, axes, options, *as_float32), exact, 1e-4)


@pytest.mark.parametrize(
    "case", ["batch, masked", "layer, spatial", "group, masked", "group, channels in the middle", "rms", "positional"]
)
def test_reverse_over_reverse_equals_that_of_the_formula(case):
    axes, options, arrays, cotangents = arrays_of(case)

    def second(function):
        def loss(arrays):
            outputs = function(axes=axes, epsilon=EPSILON, **options, **arrays)
            return jnp.sin(weighted_sum((jnp.sin(outputs[0]), outputs[1]), cotangents))

        def norm_of_gradient(arrays):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(jax.grad(loss)(arrays)))

        return jax.jit(jax.grad(norm_of_gradient))(arrays)

    with jax.enable_x64(True):
        assert_trees_close(second(standardize), second(plain), 1e-11)


@pytest.mark.parametrize("case", CASES)
def test_rectified_equals_the_rectifier_after_it(case):
    def afterwards(x, axes, **options):
        y, found = plain(x, axes, **options)
        return jnp.maximum(y, 0), found

    with jax.enable_x64(True):
        axes, options, arrays, cotangents = arrays_of(case)
        y, _ = standardize(axes=axes, epsilon=EPSILON, rectify=True, **options, **arrays)
        assert 0.1 < jnp.mean(y == 0) < 0.9
        assert_trees_close(y, afterwards(axes=axes, epsilon=EPSILON, **options, **arrays)[0], 1e-12)
        found = gradients(partial(standardize, rectify=True), axes, options, arrays, cotangents)
        assert_trees_close(found, gradients(afterwards, axes, options, arrays, cotangents), 1e-12)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_with_a_side_it_equals_the_sum_after_it(case, rectify):
    def afterwards(x, axes, *, side, **options):
        y, found = plain(x, axes, **options)
        return jnp.maximum(y + side, 0) if rectify else y + side, found

    with jax.enable_x64(True):
        axes, options, arrays, cotangents = arrays_of(case)
        arrays["side"] = draw(*arrays["x"].shape, seed=6)
        found = gradients(partial(standardize, rectify=rectify), axes, options, arrays, cotangents)
        assert_trees_close(found, gradients(afterwards, axes, options, arrays, cotangents), 1e-12)
        y, _ = standardize(axes=axes, epsilon=EPSILON, rectify=rectify, **options, **arrays)
        assert_trees_close(y, afterwards(axes=axes, epsilon=EPSILON, **options, **arrays)[0], 1e-12)


def test_a_side_is_differentiated_twice_mapped_computed_anew_and_in_another_program():
    x, side, scale = draw(3, 4, 5, 6), draw(3, 4, 5, 6, seed=1), draw(6, seed=2, mean=1.0)

    def fused(x, side):
        return standardize(x, (0, 1), scale=scale, epsilon=EPSILON, rectify=True, side=side)[0]

    def apart(x, side):
        return jnp.maximum(plain(x, (0, 1), scale=scale, epsilon=EPSILON)[0] + side, 0)

    def results(function):
        loss = lambda x, side: jnp.sum(jnp.sin(function(x, side)))  # noqa: E731
        gradient = jax.grad(loss, (0, 1))
        twice = jax.grad(lambda x, side: sum(jnp.sum(jnp.sin(each)) for each in gradient(x, side)), (0, 1))
        _, pullback = jax.jit(lambda x, side: jax.vjp(function, x, side))(x[0], side[0])
        return (
            twice(x[0], side[0]),
            jax.vmap(gradient)(x, side),
            jax.grad(jax.checkpoint(loss), (0, 1))(x[0], side[0]),
            jax.jit(lambda pullback, dy: pullback(dy))(pullback, x[1]),
        )

    with jax.enable_x64(True):
        assert_trees_close(results(fused), results(apart), 1e-11)
    narrow = [array.astype(jnp.bfloat16) for array in (x[0], side[0])]
    exact = [np.asarray(array, np.float32) for array in narrow]
    found, expected = (jax.vjp(function, *given)[1] for function, given in ((fused, narrow), (apart, exact)))
    dy = np.asarray(jnp.asarray(x[1], jnp.bfloat16), np.float32)
    for one, other in zip(found(dy.astype(jnp.bfloat16)), expected(dy), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=0, atol=0.02 * np.abs(other).max())


@pytest.mark.parametrize("side", [jnp.zeros((2, 3, 1)), jnp.zeros((2, 3, 4), jnp.bfloat16)])
def test_a_side_of_another_shape_or_dtype_is_refused(side):
    with pytest.raises(ValueError, match=r"side, \w+\(2, 3, \d\), is not like the input, float32\(2, 3, 4\)"):
        standardize(jnp.zeros((2, 3, 4)), (0, 1), side=side)


def member_loss(function, x, scale, bias, where, cotangents, axis_name=None):
    """The loss of one member, statistics included."""
    outputs = function(x, (0, 1), scale=scale, bias=bias, where=where, axis_name=axis_name, epsilon=EPSILON)
    return weighted_sum(outputs, cotangents)


def devices_and_one_array():
    """Inputs of 8 members, 0 to 3 of their 3 examples masked, and the gradients of the one array they are."""
    x, scale, bias = draw(DEVICES, 3, 4, 6, mean=0.5), draw(6, seed=1, mean=1.0), draw(6, seed=2)
    where = (np.arange(3) < np.arange(DEVICES)[:, None])[..., None, None]
    cotangents = draw(*x.shape, seed=3), draw(DEVICES, 1, 1, 6, seed=4), draw(DEVICES, 1, 1, 6, seed=5)
    # Every member returns the same statistics: the cotangents that the members give to them add up.
    joined = (cotangents[0].reshape(-1, 4, 6), cotangents[1].sum(0), cotangents[2].sum(0))
    loss = partial(member_loss, plain, where=where.reshape(-1, 1, 1), cotangents=joined)
    expected = jax.grad(loss, (0, 1, 2))(x.reshape(-1, 4, 6), scale, bias)
    return (x, scale, bias, where, cotangents), (expected[0].reshape(x.shape), *expected[1:])


def test_gradient_over_a_vmapped_axis_equals_that_of_one_array():
    with jax.enable_x64(True):
        (x, scale, bias, where, cotangents), expected = devices_and_one_array()

        def total(x, scale, bias):
            member = partial(member_loss, standardize, axis_name="data")
            return jax.vmap(member, (0, None, None, 0, 0), axis_name="data")(x, scale, bias, where, cotangents).sum()

        assert_trees_close(jax.grad(total, (0, 1, 2))(x, scale, bias), expected, 1e-12)


@pytest.mark.parametrize("inside", [True, False], ids=["grad inside", "grad outside"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_gradient_in_shard_map_equals_that_of_one_array(check_vma, inside):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = PartitionSpec("data"), PartitionSpec()
    specs = (sharded, whole, whole, sharded, sharded)
    with jax.enable_x64(True):
        (x, scale, bias, where, cotangents), expected = devices_and_one_array()

        def loss(x, scale, bias, where, cotangents):
            shard = jax.tree.map(lambda array: array[0], (where, cotangents))
            return member_loss(standardize, x[0], scale, bias, *shard, axis_name="data")

        def member_gradients(x, scale, bias, where, cotangents):
            found = jax.grad(loss, (0, 1, 2))(x, scale, bias, where, cotangents)
            # With the check, the gradient of what all members share comes summed over them.
            return found if check_vma else (found[0], *(jax.lax.psum(leaf, "data") for leaf in found[1:]))

        if inside:
            step = jax.shard_map(
                member_gradients, mesh=mesh, in_specs=specs, out_specs=(sharded, whole, whole), check_vma=check_vma
            )
            found = jax.jit(step)(x, scale, bias, where, cotangents)
        else:
            losses = jax.shard_map(
                lambda *arguments: loss(*arguments)[None],
                mesh=mesh,
                in_specs=specs,
                out_specs=sharded,
                check_vma=check_vma,
            )
            total = lambda x, scale, bias: losses(x, scale, bias, where, cotangents).sum()  # noqa: E731
            found = jax.jit(jax.grad(total, (0, 1, 2)))(x, scale, bias)
        assert_trees_close(found, expected, 1e-12)


def test_cotangents_have_the_dtypes_of_what_they_belong_to():
    axes, options, arrays, cotangents = arrays_of("group, masked")
    dtypes = {"x": jnp.bfloat16, "scale": jnp.float32, "bias": jnp.bfloat16}
    arrays = {name: jnp.asarray(array, dtypes[name]) for name, array in arrays.items()}
    cotangents = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), cotangents)
    found = gradients(standardize, axes, options, arrays, cotangents)
    assert {name: array.dtype for name, array in found.items()} == dtypes
    upcast = jax.tree.map(lambda array: array.astype(jnp.float32), arrays)
    exact = gradients(standardize, axes, options, upcast, cotangents)
    # The result is rounded to bfloat16's 8 bits, 2^-9; y's cotangent is too, once, as y is bfloat16.
    assert_trees_close(found, exact, 1e-2)


def test_an_infinity_under_the_mask_harms_no_gradient():
    axes, options, arrays, cotangents = arrays_of("group, masked")
    where = options["where"]
    # What is masked out of the statistics is masked out of the loss.
    cotangents = (np.where(where, cotangents[0], 0), *cotangents[1:])
    expected = gradients(standardize, axes, options, arrays, cotangents)
    for value in (np.inf, np.nan):
        spoilt = arrays | {"x": np.where(where, arrays["x"], value)}

        def loss(arrays):
            y, found = standardize(axes=axes, epsilon=EPSILON, **options, **arrays)
            return weighted_sum((jnp.where(where, y, 0), found), cotangents)

        assert_trees_close(jax.jit(jax.grad(loss))(spoilt), expected, 1e-5)


def loss_of_layer(scale, x):
    return jnp.sum(jnp.sin(standardize(x, (1, 2), scale=scale, epsilon=EPSILON)[0]))


def test_vmap_jit_scan_and_checkpoint_change_nothing():
    x, scales = draw(5, 2, 4, 6, mean=0.5).astype(np.float32), draw(5, 6, seed=1).astype(np.float32)
    gradient = jax.jit(jax.grad(loss_of_layer))
    one_by_one = np.stack([gradient(scale, row) for scale, row in zip(scales, x, strict=True)])
    assert_trees_close(jax.vmap(gradient)(scales, x), one_by_one, 1e-5)
    assert_trees_close(jax.vmap(gradient, (0, None))(scales, x[0])[2], gradient(scales[2], x[0]), 1e-5)
    assert_trees_close(jax.grad(loss_of_layer)(scales[0], x[0]), one_by_one[0], 1e-5)

    def unrolled(scales, x):
        for scale in scales:
            x = x + standardize(x, (1, 2), scale=scale)[0]
        return jnp.sum(x**2)

    def scanned(scales, x, wrap=lambda layer: layer):
        def layer(x, scale):
            return x + standardize(x, (1, 2), scale=scale)[0], None

        return jnp.sum(jax.lax.scan(wrap(layer), x, scales)[0] ** 2)

    expected = jax.jit(jax.grad(unrolled, (0, 1)))(scales, x[0])
    assert_trees_close(jax.jit(jax.grad(scanned, (0, 1)))(scales, x[0]), expected, 1e-5)
    checkpointed = partial(scanned, wrap=jax.checkpoint)
    assert_trees_close(jax.jit(jax.grad(checkpointed, (0, 1)))(scales, x[0]), expected, 1e-5)


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: standardize(x, (0, 1))[0], (jnp.ones((4, 5, 6)),), (jnp.ones((4, 5, 6)),))


def test_the_backward_pass_keeps_no_float32_copy_of_a_bfloat16_input():
    x = jnp.asarray(draw(4, 5, 7, 6), jnp.bfloat16)
    scale, bias = jnp.ones(6), jnp.zeros(6)

    def kept(function):
        """Arrays of x's size that the pullback holds on to, by dtype."""
        run = lambda x, scale, bias: function(x, (0, 1, 2), scale=scale, bias=bias)[0]  # noqa: E731
        residuals = jax.tree.leaves(jax.vjp(run, x, scale, bias)[1])
        return [leaf.dtype for leaf in residuals if leaf.size >= x.size]

    # x itself and nothing else, or with the output that the next layer keeps; the formula keeps float32 deviations.
    assert kept(standardize) == [jnp.bfloat16]
    assert kept(partial(standardize, rectify=True)) == [jnp.bfloat16] * 2
    assert jnp.float32 in kept(plain)


def test_axis_index_groups_have_the_gradients_of_their_own_array():
    x, cotangent = draw(DEVICES, 3, 4, 6, mean=0.5), draw(DEVICES, 3, 4, 6, seed=3)
    halves = [[0, 1, 2, 3], [4, 5, 6, 7]]

    def loss(x, cotangent, **options):
        return jnp.sum(standardize(x, (0, 1), epsilon=EPSILON, **options)[0] * cotangent)

    merged = partial(loss, axis_name="data", axis_index_groups=halves)
    with jax.enable_x64(True):
        found = jax.pmap(jax.grad(merged), axis_name="data")(x, cotangent)
        for half in halves:
            expected = jax.grad(loss)(x[half].reshape(-1, 4, 6), cotangent[half].reshape(-1, 4, 6))
            assert_trees_close(found[np.array(half)].reshape(-1, 4, 6), expected, 1e-12)
