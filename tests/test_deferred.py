"""Convolutions of what is pending: against explicit sums in float64, the composition that they fuse, and by hand."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from normres import native, norms
from normres.conv import conv
from normres.deferred import BACKWARD_TARGET, FORWARD_TARGET, Convolved, Pending, _composed, _Static, convolve, possible
from normres.moments import merged, moments, reduction, reduction_axes

# Batch, height and width of the output, input and output channels: of a network; channels that fill no register; odd
# sides, of which bfloat16 makes pairs; one pixel; more examples than one part has, and not a multiple; none.
SHAPES = [(4, 8, 6, 16, 32), (2, 4, 4, 3, 20), (3, 5, 7, 9, 17), (1, 1, 1, 1, 1), (37, 4, 2, 8, 16), (0, 4, 4, 8, 16)]
SWITCHES = ("affine", "side", "rectify", "measured", "keep")


@pytest.fixture(autouse=True)
def loaded():
    if why_not := native.load():
        pytest.skip(f"no native code here: {why_not}")


def whole(*shape, most, seed):
    """Small whole numbers: products and sums of them are exact in float32, and zeros are many."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float64)


def drawn(shape, size, stride, dtype, affine=True, side=True, rectify=True, measured=True, keep=True, less=0):
    """Returns an input, `less` rows lower than its strides, a kernel and cotangents: numbers that every dtype holds."""
    batch, rows, columns, inner, outer = shape
    x_shape, y_shape = (batch, rows * stride - less, columns * stride, inner), (batch, rows, columns, outer)

    def numbers(*shape, seed):
        return jnp.asarray(whole(*shape, most=2, seed=seed), jnp.float32)

    center, factor, shift = (numbers(batch, inner, seed=seed) for seed in (1, 2, 3)) if affine else (None,) * 3
    x = jnp.asarray(whole(*x_shape, most=4, seed=0), dtype)
    added = jnp.asarray(whole(*x_shape, most=4, seed=4), dtype) if side else None
    pending = Pending(x, center, factor, shift, added, rectify)
    cotangents = Convolved(
        jnp.asarray(whole(*y_shape, most=2, seed=6), dtype),
        numbers(batch, outer, seed=7) if measured else None,
        numbers(batch, outer, seed=8) / 64 if measured else None,
        jnp.asarray(whole(*x_shape, most=2, seed=9), dtype) if keep else None,
    )
    return pending, numbers(size, size, inner, outer, seed=5), cotangents


def flat(pending, kernel):
    return pending.x, pending.center, pending.factor, pending.shift, pending.side, kernel


def differentiated(pending, cotangents, stride, composed=False):
    """Returns a jitted function (arrays, cotangents) -> (results, gradients of the arrays)."""
    measured, keep = cotangents.mean is not None, cotangents.activated is not None

    def convolved(*arrays):
        if composed:
            return _composed(_Static(stride, pending.rectify, measured, keep), *arrays)
        return convolve(Pending(*arrays[:-1], rectify=pending.rectify), arrays[-1], stride, measured, keep)

    @jax.jit
    def both(arrays, cotangents):
        results, backward = jax.vjp(convolved, *arrays)
        return results, backward(cotangents)

    return both


def run(pending, kernel, cotangents, stride, composed=False):
    return differentiated(pending, cotangents, stride, composed)(flat(pending, kernel), cotangents)


def rounded(dtype, values):
    return np.asarray(values).astype(dtype).astype(np.float64)


def by_definition(pending, kernel, cotangents, stride):
    """Returns the results, and the gradients of x, center, factor, shift, side and kernel, by sums in float64."""
    store = partial(rounded, pending.x.dtype)
    arrays = [None if of is None else np.asarray(of, np.float64) for of in (*flat(pending, kernel), *cotangents)]
    x, center, factor, shift, side, kernel, dy, d_mean, d_squares, d_activated = arrays
    deviation = x if center is None else x - center[:, None, None]
    value = x if factor is None else deviation * factor[:, None, None] + shift[:, None, None]
    value = value if side is None else value + side
    passed = ~(value <= 0) if pending.rectify else np.ones(value.shape, bool)
    activated = store(np.maximum(value, 0) if pending.rectify else value)

    (rows, columns), half = dy.shape[1:3], kernel.shape[0] // 2
    border = ((0, 0), (half, half), (half, half), (0, 0))
    padded = np.pad(activated, border)
    taps = list(product(range(kernel.shape[0]), repeat=2))
    met = [(slice(None), slice(i, i + stride * rows, stride), slice(j, j + stride * columns, stride)) for i, j in taps]
    y = store(sum(padded[at] @ kernel[tap] for tap, at in zip(taps, met, strict=True)))
    mean = squares = None
    if d_mean is not None:
        mean = y.mean((1, 2))
        squares = ((y - mean[:, None, None]) ** 2).sum((1, 2))
        # mean = sum y / n; squares = sum (y - mean)^2, in which the mean's own derivative cancels.
        dy = (
            dy + (d_mean / (rows * columns))[:, None, None] + (2 * d_squares)[:, None, None] * (y - mean[:, None, None])
        )
    dy = store(dy)
    d_kernel, d_padded = np.zeros(kernel.shape), np.zeros(padded.shape)
    for tap, at in zip(taps, met, strict=True):
        d_kernel[tap] = np.einsum("nhwc,nhwo->co", padded[at], dy)
        d_padded[at] += dy @ kernel[tap].T
    d_value = d_padded[:, half : half + x.shape[1], half : half + x.shape[2]]
    d_value = np.where(passed, d_value if d_activated is None else d_value + d_activated, 0)
    d_side = None if side is None else store(d_value)
    results = Convolved(y, mean, squares, None if d_activated is None else activated)
    if factor is None:
        return results, (store(d_value), None, None, None, d_side, d_kernel)
    d_shift, d_factor = d_value.sum((1, 2)), (d_value * deviation).sum((1, 2))
    d_x = store(d_value * factor[:, None, None])
    return results, (d_x, -factor * d_shift, d_factor, d_shift, d_side, d_kernel)


def compare(found, expected, relative):
    """Requires one structure, and differences of at most this share of the largest element of each array."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for of, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        of = np.asarray(of).astype(np.float64)
        np.testing.assert_allclose(of, wanted, rtol=0, atol=relative * np.abs(wanted).max(initial=0))


def tolerance(dtype, measured):
    """The moments are rounded, and a rounded derivative of them may end up on the other side of a bfloat16."""
    if not measured:
        return 0
    return 2e-2 if dtype == jnp.bfloat16 else 1e-5


def check(given, found, stride):
    """Requires what the sums say: exactly, but where a mean or its derivative is divided by the number of pixels."""
    (results, gradients), (expected, expected_gradients) = found, by_definition(*given, stride)
    assert results.y.dtype == given[0].x.dtype
    compare((results.y, results.activated), (expected.y, expected.activated), 0)
    compare((results.mean, results.squares), (expected.mean, expected.squares), 1e-5)
    of_rounded = 1e-5 if given[0].x.dtype == jnp.float32 else 2e-2
    compare(gradients, expected_gradients, 0 if results.mean is None else of_rounded)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_the_sums(shape, size, stride, dtype):
    given = drawn(shape, size, stride, dtype)
    check(given, run(*given, stride), stride)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("switches", list(product([False, True], repeat=5)))
def test_every_combination_of_what_is_there_and_wanted(switches, dtype):
    """Many of the rectifier's inputs are exactly 0, where its derivative is 0."""
    given = drawn((3, 3, 5, 9, 17), 3, 2, dtype, **dict(zip(SWITCHES, switches, strict=True)))
    check(given, run(*given, 2), 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_composition_is_the_same_sums(stride):
    given = drawn((3, 3, 5, 9, 17), 3, stride, jnp.float32)
    check(given, run(*given, stride, composed=True), stride)


@pytest.mark.parametrize(
    "fields",
    [{"size": 5}, {"stride": 4}, {"stride": 2, "less": 1}, {"dtype": jnp.float16}],
    ids=str,
)
def test_what_is_not_possible_is_composed(fields):
    size, stride, less, dtype = ({"size": 3, "stride": 1, "less": 0, "dtype": jnp.float32} | fields).values()
    given = drawn((2, 4, 3, 4, 5), size, stride, dtype, less=less)
    assert not possible(given[0].x, size, stride)
    function = differentiated(given[0], given[2], stride)
    assert "normres_convolution" not in function.lower(flat(*given[:2]), given[2]).as_text()
    check(given, function(flat(*given[:2]), given[2]), stride)


@pytest.mark.parametrize("composed", [False, True])
def test_numbers_for_all_examples_are_like_the_same_for_each(composed):
    """The gradient of a number that examples share is the sum of theirs; all are whole here, so sums are exact."""
    each, kernel, cotangents = drawn((5, 4, 6, 3, 7), 3, 1, jnp.float32, measured=False)
    rows = [of[:1] for of in (each.center, each.factor, each.shift)]
    shared = Pending(each.x, *rows, each.side, each.rectify)
    each = Pending(each.x, *(jnp.repeat(of, 5, 0) for of in rows), each.side, each.rectify)
    expected, gradients = differentiated(each, cotangents, 1)(flat(each, kernel), cotangents)
    found, of_shared = differentiated(shared, cotangents, 1, composed)(flat(shared, kernel), cotangents)
    np.testing.assert_array_equal(found.y, expected.y)
    for number, (of_all, of_each) in enumerate(zip(of_shared, gradients, strict=True)):
        summed = jnp.sum(of_each, 0, keepdims=True) if number in (1, 2, 3) else of_each
        np.testing.assert_array_equal(of_all, summed)


def test_what_is_pending_is_computed_in_float32_and_rounded_once():
    # 1 + 2^-8 lies between two bfloat16 numbers, and 2^-9 more takes it to the upper one, 1 + 2^-7.
    x, shift = jnp.asarray([1.0, -3.0, 0.0, jnp.nan], jnp.bfloat16), jnp.asarray([[2.0**-8]])
    side = jnp.full((1, 1, 4, 1), 2.0**-9, jnp.bfloat16)
    pending = Pending(x.reshape(1, 1, 4, 1), jnp.zeros((1, 1)), jnp.ones((1, 1)), shift, side, rectify=True)
    assert pending.value().dtype == jnp.bfloat16
    expected = np.asarray([1 + 2.0**-7, 0, 2.0**-8 + 2.0**-9, np.nan])
    np.testing.assert_array_equal(np.asarray(pending.value(), np.float64).ravel(), expected)
    plain = Pending(x.reshape(1, 1, 4, 1)).value()
    np.testing.assert_array_equal(np.asarray(plain, np.float64).ravel(), [1, -3, 0, np.nan])
    assert jax.grad(lambda x: Pending(x, rectify=True).value().sum())(jnp.zeros((1, 1, 1, 1))) == 0


@pytest.mark.parametrize("mean", [1e3, -1e6])
def test_a_large_mean_does_not_lose_the_variance(mean):
    x = jnp.asarray(mean + np.random.default_rng(0).standard_normal((3, 8, 8, 5)), jnp.float32)
    found = jax.jit(partial(convolve, measured=True))(Pending(x), jnp.eye(5)[None, None])
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(found.squares / 64, exact.var((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.mean, exact.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("where", ["x", "side", "shift"])
def test_what_is_no_finite_number_stays_none(where, dtype):
    pending, kernel, cotangents = drawn((4, 4, 5, 3, 17), 3, 1, dtype)
    arrays = {"x": pending.x, "center": pending.center, "factor": pending.factor, "shift": pending.shift}
    arrays = {name: np.array(of) for name, of in (arrays | {"side": pending.side}).items()}
    at = (slice(1, 3), 0) if where == "shift" else (slice(1, 3), 1, 4, 0)
    arrays[where][at] = [np.nan, np.inf]
    # An infinity that the norm makes negative would be rectified.
    arrays["factor"] = np.abs(arrays["factor"]) + (arrays["factor"] == 0)
    pending = Pending(**jax.tree.map(jnp.asarray, arrays), rectify=True)
    with np.errstate(invalid="ignore"):
        expected, expected_gradients = by_definition(pending, kernel, cotangents, 1)
    found, gradients = run(pending, kernel, cotangents, 1)
    for of, wanted in ((found.y, expected.y), (found.activated, expected.activated)):
        np.testing.assert_array_equal(np.asarray(of, np.float64), wanted)
    of_finite = np.isfinite(expected.y).all((1, 2))
    assert not of_finite[1:3].all()
    assert of_finite[[0, 3]].all()
    np.testing.assert_array_equal(np.isfinite(found.mean), of_finite)
    np.testing.assert_array_equal(np.isfinite(found.squares), of_finite)
    for of, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        assert not np.isfinite(np.asarray(of, np.float64)[~np.isfinite(wanted)]).any()


def losses(pending, stride, composed=False):
    """Returns a smooth function of the arrays through everything that a convolution returns."""

    def loss(*arrays):
        if composed:
            found = _composed(_Static(stride, pending.rectify, True, True), *arrays)
        else:
            found = convolve(Pending(*arrays[:-1], rectify=pending.rectify), arrays[-1], stride, True, True)
        return sum(jnp.sum(jnp.sin(0.01 * of)) for of in found)

    return loss


def test_only_the_gradients_that_are_asked_for_are_computed():
    pending, kernel, _ = drawn((3, 4, 4, 3, 5), 3, 1, jnp.float32)
    arrays = flat(pending, kernel)

    def results(which):
        text = jax.jit(jax.grad(losses(pending, 1), which)).lower(*arrays).as_text()
        (call,) = (line for line in text.splitlines() if f"@{BACKWARD_TARGET}(" in line)
        assert text.count(f"@{FORWARD_TARGET}(") == 1
        return call.rpartition("->")[2]

    kernels = "tensor<3x3x3x5xf32>"
    assert results(5) == f" ({', '.join(['tensor<0xf32>'] * 5)}, {kernels})"
    images, numbers = ["tensor<3x4x4x3xf32>"] * 2, ["tensor<3x3xf32>"] * 3
    assert results(0) == results(2) == f" ({', '.join([*images, *numbers])}, {kernels})"
    every = jax.jit(jax.grad(losses(pending, 1, composed=True), range(6)))(*arrays)
    for which, expected in enumerate(every):
        compare(jax.jit(jax.grad(losses(pending, 1), which))(*arrays), expected, 1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_derivative_of_a_gradient_is_the_compositions(stride):
    pending, kernel, _ = drawn((2, 4, 3, 3, 5), 3, stride, jnp.float32)

    def second(of, by, composed):
        def inner(*arrays):
            gradients = jax.grad(losses(pending, stride, composed), of)(*arrays)
            return sum(jnp.sum(jnp.sin(0.01 * gradient)) for gradient in gradients)

        return jax.jit(jax.grad(inner, by))(*flat(pending, kernel))

    # Of all by all; and of the kernel's alone, for which the others are constant, by those.
    for of, by in ((range(6), range(6)), ((5,), range(6))):
        compare(second(of, by, False), second(of, by, True), 1e-4)


@pytest.mark.parametrize("mapped", ["all", "x", "kernel"])
def test_mapped_it_is_each_members_own(mapped):
    pending, kernel, cotangents = drawn((2, 3, 4, 3, 5), 3, 2, jnp.float32)
    axes = {"all": (0,) * 6, "x": (0, *[None] * 5), "kernel": (*[None] * 5, 0)}[mapped]
    arrays = tuple(
        of if axis is None else jnp.stack([of, of[::-1], of + 1])
        for of, axis in zip(flat(pending, kernel), axes, strict=True)
    )
    function = differentiated(pending, cotangents, 2)
    found = jax.jit(jax.vmap(function, (axes, None)))(arrays, cotangents)
    for member in range(3):
        own = tuple(of if axis is None else of[member] for of, axis in zip(arrays, axes, strict=True))
        compare(jax.tree.map(lambda of, member=member: of[member], found), function(own, cotangents), 0)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_gradient_of_a_shared_kernel_in_shard_map(check_vma):
    pending, kernel, _ = drawn((8, 3, 4, 2, 3), 3, 1, jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    *images, kernel = flat(pending, kernel)

    def gradients(kernel, *images):
        *of_images, of_kernel = jax.grad(losses(pending, 1), range(6))(*images, kernel)
        return (of_kernel if check_vma else jax.lax.psum(of_kernel, "data")), of_images

    whole, split = PartitionSpec(), PartitionSpec("data")
    specs = {"in_specs": (whole, *[split] * 5), "out_specs": (whole, split), "check_vma": check_vma}
    found, of_images = jax.jit(jax.shard_map(gradients, mesh=mesh, **specs))(kernel, *images)
    *expected_images, expected = jax.grad(losses(pending, 1, composed=True), range(6))(*images, kernel)
    compare((found, of_images), (expected, expected_images), 1e-5)


# The rows of the norms' table that can be left to a convolution, and options that they read.
DEFERRABLE = [
    ("batch", {}),
    ("instance", {}),
    ("layer", {}),
    ("rms", {}),
    ("group", {"groups": 2}),
    ("ghost_batch", {"sub_batches": 2}),
    ("HW", {}),
]


def moments_of_parts(y):
    mean = np.asarray(y, np.float64).mean((1, 2), keepdims=True)
    squares = ((np.asarray(y, np.float64) - mean) ** 2).sum((1, 2), keepdims=True)
    return jnp.asarray(mean, jnp.float32), jnp.asarray(squares, jnp.float32)


@pytest.mark.parametrize("devices", [False, True])
@pytest.mark.parametrize(("norm", "options"), DEFERRABLE)
def test_merged_moments_are_the_whole_arrays(norm, options, devices):
    spec = norms.find_spec(norm)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 3, 5, 6)), jnp.float32)
    # Examples and channels with means of their own, far from zero.
    x = 100 + x + jnp.asarray(np.random.default_rng(1).standard_normal((8, 4, 1, 1, 6)), jnp.float32)
    x, name = (x, "data") if devices and "N" in spec.over else (x[:1], None)
    axes = reduction_axes(spec.over, 4)

    def both(x, mean, squares):
        over = reduction(mean, axes, axis_name=name, **options)
        return merged(over, spec.center, mean, squares, 15), moments(
            x, axes, axis_name=name, center=spec.center, **options
        )

    parts = zip(*map(moments_of_parts, x), strict=True)
    found, expected = jax.vmap(both, axis_name="data")(x, *map(jnp.stack, parts))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
    compare(found, expected, 1e-5)


def test_what_can_be_left_to_a_convolution():
    assert {name for name, spec in norms.TABLE.items() if norms.deferrable(spec)} == {
        name for name, _ in DEFERRABLE if name in norms.TABLE
    }
    assert not norms.deferrable(norms.find_spec("NHC"))


@pytest.mark.parametrize(
    ("norm", "options", "use_running"),
    [(norm, options, False) for norm, options in DEFERRABLE] + [("batch", {}, True), ("ghost_batch", {}, True)],
)
def test_a_deferred_norm_is_the_norm(norm, options, use_running):
    spec = norms.find_spec(norm)
    random = np.random.default_rng(0)

    def numbers(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    x, kernel, side = numbers(4, 5, 3, 2), numbers(3, 3, 2, 6), numbers(4, 5, 3, 6)
    affine = {name: numbers(6) for name in spec.affine}
    running = norms.Moments(numbers(1, 1, 1, 6), jnp.exp(numbers(1, 1, 1, 6)), jnp.ones(())) if spec.running else None
    common = {**affine, "running": running, "use_running": use_running, "side": side, "rectify": True, "epsilon": 0.1}

    def deferred(x):
        convolved = convolve(Pending(x), kernel, measured=not use_running)
        pending, found = norms.deferred(convolved, spec, **common, **options)
        return pending.value(), found

    def plain(x):
        return norms.normalization(conv(x, kernel), spec, **common, **options)

    found, expected = deferred(x), plain(x)
    assert 0.1 < np.mean(np.asarray(expected[0]) == 0) < 0.9
    compare(found, expected, 1e-5)
    weights = numbers(4, 5, 3, 6)
    of_found, of_expected = (jax.grad(lambda x, of=of: jnp.sum(of(x)[0] * weights))(x) for of in (deferred, plain))
    compare(of_found, of_expected, 1e-4)
