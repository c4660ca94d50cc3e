"""A norm's statistics from each example's and channel's: against loops in float64 and their difference quotients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from normres import native
from normres.merging import STATISTICS_BACKWARD_TARGET, STATISTICS_TARGET, _spread, _Static, statistics
from normres.moments import Reduction

N, C, SIZE, EPSILON = 4, 6, 15, 0.1
REDUCTIONS = {
    "batch": Reduction((0, 1, 2), channel_axis=3),
    "two sub-batches": Reduction((0, 1, 2), sub_batches=2, channel_axis=3),
    "instance": Reduction((1, 2), channel_axis=3),
    "layer": Reduction((1, 2, 3), channel_axis=3),
    "three groups": Reduction((1, 2, 3), groups=3, channel_axis=3),
    "all": Reduction((0, 1, 2, 3), channel_axis=3),
}


@pytest.fixture(autouse=True)
def loaded():
    if why_not := native.load():
        pytest.skip(f"no native code here: {why_not}")


def drawn(seed=0, members=()):
    draw = np.random.default_rng(seed)
    mean, scale = draw.standard_normal((*members, N, 1, 1, C)), draw.standard_normal((*members, C))
    return [np.float64(np.float32(of)) for of in (mean, np.exp(draw.standard_normal((*members, N, 1, 1, C))), scale)]


def looped(over, center, mean, squares, scale):
    """Part by part, float64."""
    results = np.zeros((3, N, C))
    batches = over.sub_batches if 0 in over.axes else N
    groups = over.groups if 3 in over.axes else C
    for examples in np.split(np.arange(N), batches):
        for channels in np.split(np.arange(C), groups):
            part = np.ix_(examples, channels)
            of_mean, of_squares = mean[:, 0, 0][part], squares[:, 0, 0][part]
            own = of_mean.mean() if center else 0.0
            variance = (of_squares / SIZE + (of_mean - own) ** 2).mean()
            results[0][part], results[1][part] = own, variance
            results[2][part] = scale[channels] / np.sqrt(variance + EPSILON)
    return results[:, :, None, None]


def found(over, center, mean, squares, scale):
    moments, of_channels, factor = statistics(over, center, mean, squares, scale, SIZE, EPSILON)
    return moments.mean, moments.var, of_channels, factor


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_values_and_gradients_are_the_loops(name, center):
    over, arrays = REDUCTIONS[name], drawn()
    expected = looped(over, center, *arrays)
    given = [jnp.asarray(of, jnp.float32) for of in arrays]
    got = jax.jit(partial(found, over, center))(*given)
    for of, wanted in zip(got, (*expected[:2], expected[0], expected[2]), strict=True):
        np.testing.assert_allclose(np.broadcast_to(of, wanted.shape), wanted, rtol=1e-6, atol=1e-7)
    rows = got[3].shape[0]
    assert rows == (1 if 0 in over.axes and over.sub_batches == 1 else N)
    assert moments_shape(over, center) == (got[0].shape, got[1].shape)
    weights = np.random.default_rng(1).standard_normal((3, rows, 1, 1, C))
    # What nobody asks for has no cotangent.
    for asked in ((0, 1, 2), (0,), (2,)):

        def weighted(*arrays, asked=asked):
            _, var, of_channels, factor = found(over, center, *arrays)
            var = jnp.broadcast_to(var, (rows, 1, 1, C))
            return sum(jnp.sum(weights[of] * (of_channels, var, factor)[of]) for of in asked)

        gradients = jax.jit(jax.grad(weighted, (0, 1, 2)))(*given)

        def quotient(*arrays, asked=asked):
            return sum(np.sum(weights[of] * looped(over, center, *arrays)[of][:rows]) for of in asked)

        for number, gradient in enumerate(gradients):
            for index in np.ndindex(gradient.shape):
                sides = [[*map(np.copy, arrays)] for _ in range(2)]
                for side, sign in zip(sides, (1, -1), strict=True):
                    side[number][index] += sign * 1e-5
                wanted = (quotient(*sides[0]) - quotient(*sides[1])) / 2e-5
                assert gradient[index] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def moments_shape(over, center):
    """Of size 1 along the axes, of full size where they are split."""
    rows = N if 0 not in over.axes or over.sub_batches > 1 else 1
    columns = C if 3 not in over.axes or over.groups > 1 else 1
    return (rows, 1, 1, columns) if center else (1, 1, 1, 1), (rows, 1, 1, columns)


def test_a_program_has_the_code_and_nothing_beside_it():
    given = [jnp.asarray(of, jnp.float32) for of in drawn()]
    over = REDUCTIONS["batch"]
    gradient = jax.grad(lambda *arrays: jnp.sum(found(over, True, *arrays)[3]), (0, 1, 2))
    text = jax.jit(gradient).lower(*given).compile().as_text()
    for target in (STATISTICS_TARGET, STATISTICS_BACKWARD_TARGET):
        assert text.count(f'custom_call_target="{target}"') == 1
    assert "rsqrt" not in text


def test_mapped_it_is_each_members_own():
    given = [jnp.asarray(of, jnp.float32) for of in drawn(members=(3,))]
    alone = partial(found, REDUCTIONS["two sub-batches"], True)
    gradient = jax.grad(lambda *arrays: jnp.sum(alone(*arrays)[3]), (0, 1, 2))
    for function in (alone, gradient):
        for number in range(3):
            expected = function(*(of[number] for of in given))
            for of, wanted in zip(jax.vmap(function)(*given), expected, strict=True):
                np.testing.assert_array_equal(of[number], wanted)


@pytest.mark.parametrize("check_vma", [False, True])
def test_the_gradient_of_a_shared_scale_in_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    mean, squares, scale = (jnp.asarray(of, jnp.float32) for of in drawn())
    over = REDUCTIONS["instance"]

    def loss(scale, mean, squares):
        return jnp.sum(found(over, True, mean, squares, scale)[3] ** 2)

    def of_shares(scale, mean, squares):
        gradient = jax.grad(loss)(scale, mean, squares)
        # With the check, JAX sums what devices share by itself.
        return gradient if check_vma else jax.lax.psum(gradient, "data")

    specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data"))
    shared = jax.shard_map(of_shares, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma)
    np.testing.assert_allclose(
        jax.jit(shared)(scale, mean, squares), jax.grad(loss)(scale, mean, squares), rtol=1e-5, atol=1e-6
    )


def test_the_derivative_of_a_gradient_is_the_compositions():
    over, given = REDUCTIONS["batch"], [jnp.asarray(of, jnp.float32) for of in drawn()]
    static = _Static(over, True, SIZE, EPSILON)

    def second(function):
        first = jax.grad(lambda *arrays: jnp.sum(function(*arrays)[2] ** 2), (0, 1, 2))
        return jax.grad(lambda *arrays: sum(jnp.sum(of**2) for of in first(*arrays)), (0, 1, 2))(*given)

    def ours(*arrays):
        moments, _, factor = statistics(over, True, *arrays, SIZE, EPSILON)
        return moments.mean, moments.var, factor

    for of, wanted in zip(second(ours), second(partial(_spread, static)), strict=True):
        np.testing.assert_allclose(of, wanted, rtol=1e-4, atol=1e-6)


# The arrays of a call: a row for all examples.
ROWS, ROW = (N, 1, 1, C), (1, 1, 1, C)
CALLS = {
    STATISTICS_TARGET: ([ROWS, ROWS, (C,)], [ROW, ROW, ROW]),
    STATISTICS_BACKWARD_TARGET: ([ROWS, (C,), ROW, ROW, ROW, ROW, ROW], [ROWS, ROWS, (C,)]),
}


def called(target, change=None, dtype=jnp.float32, batches=1, groups=C):
    """Calls with zeros; `change` is the number of an array, in or out, and its shape."""
    arrays, results = (list(shapes) for shapes in CALLS[target])
    shapes = arrays + results
    if change:
        shapes[change[0]] = change[1]
    arrays = [jnp.zeros(shape, dtype) for shape in shapes[: len(arrays)]]
    call = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes[len(arrays) :]])
    numbers = {"batches": np.int64(batches), "groups": np.int64(groups), "size": np.int64(SIZE)}
    return jax.block_until_ready(call(*arrays, **numbers, center=True, epsilon=np.float32(EPSILON)))


@pytest.mark.parametrize("target", CALLS)
def test_what_does_not_fit_together_it_refuses(target):
    called(target)
    refused = partial(pytest.raises, jax.errors.JaxRuntimeError)
    for number, shape in enumerate((*CALLS[target][0], *CALLS[target][1])):
        with refused(match="statistics: "):
            called(target, (number, (*shape[:-1], C + 1)))
    with refused(match="mean must have four axes, or more"):
        called(target, (0, (N, C)))
    with refused(match="batches and groups must divide the examples and the channels"):
        called(target, groups=4)
    with refused(match="a row for each example, or one for all if they are one batch"):
        called(target, batches=2)
    with refused(match="numbers must be of float32"):
        called(target, dtype=jnp.bfloat16)
