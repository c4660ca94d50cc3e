"""Elementwise passes in rows, and the rectifier: the plain operation's values and gradients, on the CPU alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from normres.cpu.elementwise import ADDED, LONG, elementwise, summed

from normres.cpu import fused
from normres.cpu.activation import fork, relu, relu_of_sum


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scaled(x, scale, shift):
    return x * scale if shift is None else x * scale + shift


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        ((2, 3, 4, 5), [(1, 1, 1, 5), None]),
        ((2, 3, 4, 5), [(1, 1, 1, 1), (2, 1, 1, 5)]),
        ((2, 3, 4, 5), [(2, 3, 4, 5), (1, 3, 1, 1)]),
        ((2, 3, 4, 5), [(2, 3, 4, 1), (1, 1, 1, 5)]),  # one number per position: stays as it is
        ((3, 5), [(1, 5), (3, 1)]),
        ((1, 5), [(1, 5), None]),
        ((4,), [(1,), (4,)]),
        ((2, 3, LONG), [(1, 1, LONG), None]),
    ],
)
def test_rows_give_what_the_operation_gives(shape, others):
    x, *rest = (None if size is None else draw(*size, seed=seed) for seed, size in enumerate((shape, *others)))
    found = jax.jit(lambda *arrays: elementwise(scaled, *arrays))(x, *rest)
    np.testing.assert_allclose(found, scaled(x, *rest), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "others"),
    [
        ((2, 4, 3, 5), (0, 1, 2), [(1, 1, 1, 5), None]),
        ((2, 4, 3, 5), (1, 2), [(2, 1, 1, 5), (2, 4, 3, 5)]),
        ((2, 4, 3, 5), (1, 2, 3), [(2, 1, 1, 1), (1, 4, 1, 1)]),
        ((2, 4, 3, 5), (0, 1), [(1, 1, 3, 5), None]),
        ((2, 4, 3, 5), (3,), [(1, 1, 1, 5), None]),  # not along the rows' axis: stays as it is
        ((2, 4, 3, 5), (0, 1, 2), [(2, 4, 3, 1), None]),  # one number per position: stays as it is
        ((2, 3, 2 * ADDED, 2, LONG), (2, 3), [(1, 1, 1, 1, LONG), None]),  # in parts of ADDED rows
        ((2, ADDED + 5, 3, 5), (0, 1, 2), [(1, 1, 1, 5), None]),  # 37 rows, a prime: stay as they are
        ((4, 3, 5), (0, 1), [(1, 1, 5), None]),
        ((3, 5), (0,), [(1, 5), None]),
    ],
)
def test_sums_of_rows_and_their_gradients_are_those_of_the_plain_sum(shape, axes, others):
    x, *rest = (None if size is None else draw(*size, seed=seed) for seed, size in enumerate((shape, *others)))

    def found(x, scale):
        return jnp.sum(jnp.sin(summed(scaled, axes, x, scale, *rest[1:])))

    def expected(x, scale):
        return jnp.sum(jnp.sin(jnp.sum(scaled(x, scale, *rest[1:]), axes, keepdims=True)))

    with jax.enable_x64(True):
        arrays = jnp.asarray(x, jnp.float64), jnp.asarray(rest[0], jnp.float64)
        assert summed(scaled, axes, *arrays, *rest[1:]).shape == tuple(
            1 if axis in axes else size for axis, size in enumerate(shape)
        )
        for function in (lambda f: f, lambda f: jax.grad(f, (0, 1)), lambda f: jax.hessian(f, 1)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
                jax.jit(function(found))(*arrays),
                function(expected)(*arrays),
            )
        tangents = jax.jvp(found, arrays, arrays)[1], jax.jvp(expected, arrays, arrays)[1]
        np.testing.assert_allclose(*tangents, rtol=1e-10)


@pytest.mark.parametrize(("axes", "slices"), [((0, 1, 2), 3 * 8), ((3,), 0)])
def test_the_cpu_adds_rows_and_others_sum(axes, slices):
    def mean_square(x):
        return summed(lambda x: x.astype(jnp.float32) ** 2, axes, x)

    for platform in ("cpu", "cuda", "tpu"):
        text = lowered(mean_square, platform, (2, 24, 8, 16))
        assert text.count("stablehlo.slice") == (slices if platform == "cpu" else 0)
        assert text.count("stablehlo.reduce") == 1


def lowered(function, platform, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    return export.export(jax.jit(function), platforms=[platform])(*arrays).mlir_module()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_the_cpu_gets_rows(platform):
    def loss(x):
        return jnp.sum(jnp.sin(relu(fused.standardize(x, (0, 1, 2))[0]).astype(jnp.float32)))

    text = lowered(jax.grad(loss), platform, (2, 8, 8, 16))
    # The norm's mean, variance and output, its gradient's two sums and the gradient, and the rectifier's two passes,
    # with a barrier before and one after each.
    assert text.count("stablehlo.optimization_barrier") == (16 if platform == "cpu" else 0)
    assert bool(re.search(r"tensor<2x8x128x(bf16|f32)>", text)) == (platform == "cpu")


@pytest.mark.parametrize("channels", [16, LONG])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_the_cpu_selects_in_float32(platform, channels):
    def gradient(x, dy):
        return jax.vjp(relu, x)[1](dy)[0]

    shape = (2, 8, 8, channels)
    assert ("f32" in lowered(gradient, platform, shape, shape)) == (platform == "cpu")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_flax_relu_and_so_are_its_gradients(dtype):
    x = jnp.asarray(np.concatenate([draw(2, 4, 4, 3).ravel(), [0.0, -0.0, np.inf, -np.inf]]).reshape(1, 4, 5, 5), dtype)

    def both(function):
        def loss(x):
            return jnp.sum(jnp.where(jnp.isfinite(x), function(x) ** 3, 0).astype(jnp.float32))

        gradient = jax.jit(jax.grad(loss))
        return jax.jit(function)(x), gradient(x), jax.grad(lambda x: jnp.sum(jax.grad(loss)(x).astype(jnp.float32)))(x)

    for found, expected in zip(both(relu), both(jax.nn.relu), strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))


def test_an_infinite_gradient_does_not_pass_where_the_rectifier_is_off():
    _, backward = jax.vjp(relu, jnp.array([[-1.0, 2.0]]))
    np.testing.assert_array_equal(backward(jnp.array([[jnp.inf, 3.0]]))[0], [[0.0, 3.0]])


def test_relu_under_vmap_and_checkpoint():
    x = jnp.asarray(draw(3, 2, 4, 5))
    gradient = jax.vmap(jax.grad(lambda x: jnp.sum(jax.checkpoint(relu)(x) ** 2)))
    np.testing.assert_allclose(gradient(x), 2 * np.maximum(x, 0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_of_a_sum_and_a_fork_are_what_autodiff_makes_of_them(dtype):
    x, weights = (jnp.asarray(draw(2, 4, 3, 5, seed=seed), dtype) for seed in (0, 1))

    def ours(x, weights):
        first, second = fork(x)
        return jnp.sum((relu_of_sum(first * weights, second) ** 2).astype(jnp.float32))

    def plain(x, weights):
        return jnp.sum((jax.nn.relu(x * weights + x) ** 2).astype(jnp.float32))

    for found, expected in zip(*(jax.grad(f, (0, 1))(x, weights) for f in (ours, plain)), strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-6 if dtype == jnp.float32 else 2e-2
        )
    with jax.enable_x64(True):
        wide = [array.astype(jnp.float64) for array in (x, weights)]
        second = [jax.grad(lambda *a, f=f: jnp.sum(jax.grad(f)(*a) ** 2))(*wide) for f in (ours, plain)]
        np.testing.assert_allclose(*second, rtol=1e-12)
