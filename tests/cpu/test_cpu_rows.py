"""The CPU's elementwise passes in rows, and its rectifier: the plain operation's values and gradients."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

pytest.importorskip("normres.cpu")
from normres.cpu.activation import activation as relu
from normres.cpu.activation import add
from normres.cpu.normalization import normalization
from normres.cpu.rows import ADDED, LONG, elementwise, summed
from normres.norms import TABLE


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scaled(x, scale, shift):
    return x * scale if shift is None else x * scale + shift


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        ((2, 3, 4, 5), [(1, 1, 1, 5), None]),
        ((2, 3, 4, 5), [(1, 1, 1, 1), (2, 1, 1, 5)]),
        ((2, 3, 4, 5), [(2, 3, 4, 1), (1, 1, 1, 5)]),  # one number per position: stays as it is
        ((3, 5), [(1, 5), (3, 1)]),
        ((4,), [(1,), (4,)]),
        ((2, 3, LONG), [(1, 1, LONG), None]),
    ],
)
def test_rows_give_what_the_operation_gives(shape, others):
    x, *rest = (None if size is None else draw(*size, seed=seed) for seed, size in enumerate((shape, *others)))
    computed = jax.jit(lambda *arrays: elementwise(scaled, *arrays))(x, *rest)
    np.testing.assert_allclose(computed, scaled(x, *rest), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "others"),
    [
        ((2, 4, 3, 5), (0, 1, 2), [(1, 1, 1, 5), None]),
        ((2, 4, 3, 5), (0, 1), [(1, 1, 3, 5), None]),
        ((2, 4, 3, 5), (0, 1, 2), [(2, 4, 3, 1), None]),  # one number per position: stays as it is
        ((2, 3, 2 * ADDED, 2, LONG), (2, 3), [(1, 1, 1, 1, LONG), None]),  # in parts of ADDED rows
        ((2, ADDED + 5, 3, 5), (0, 1, 2), [(1, 1, 1, 5), None]),  # 37 rows, a prime: stay as they are
    ],
)
def test_sums_of_rows_and_their_gradients_are_those_of_the_plain_sum(shape, axes, others):
    x, *rest = (None if size is None else draw(*size, seed=seed) for seed, size in enumerate((shape, *others)))

    def slopes(total, x, scale):
        def value(x, scale):
            return jnp.sum(jnp.sin(total(x, scale, *rest[1:])))

        gradients = jax.grad(value, (0, 1))
        return total(x, scale, *rest[1:]), gradients(x, scale), jax.jvp(gradients, (x, scale), (x, scale))[1]

    def plain(*arrays):
        return jnp.sum(scaled(*arrays), axes, keepdims=True)

    with jax.enable_x64(True):
        arrays = jnp.asarray(x, jnp.float64), jnp.asarray(rest[0], jnp.float64)
        both = jax.jit(lambda *arrays: [slopes(total, *arrays) for total in (partial(summed, scaled, axes), plain)])
        for one, other in zip(*map(jax.tree.leaves, both(*arrays)), strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def lowered(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    return export.export(jax.jit(function), platforms=["cpu"])(*arrays).mlir_module()


@pytest.mark.parametrize(("axes", "slices"), [((0, 1, 2), 3 * 8), ((3,), 0)])
def test_sums_are_additions_of_rows(axes, slices):
    text = lowered(lambda x: summed(lambda x: x.astype(jnp.float32) ** 2, axes, x), (2, 24, 8, 16))
    assert text.count("stablehlo.slice") == slices
    assert text.count("stablehlo.reduce") == 1


def test_a_norm_passes_in_rows():
    def loss(x):
        return jnp.sum(jnp.sin(normalization(x, TABLE["batch"])[0].astype(jnp.float32)))

    text = lowered(jax.grad(loss), (2, 8, 8, 16))
    # Its mean, variance and output, its gradient's two sums and the gradient, with a barrier before and after each.
    assert text.count("stablehlo.optimization_barrier") == 12
    assert re.search(r"tensor<2x8x128x(bf16|f32)>", text)


def test_the_rectifier_selects_in_float32():
    shape = (2, 8, 8, 16)
    assert "f32" in lowered(lambda x, dy: jax.vjp(relu, x)[1](dy)[0], shape, shape)


def test_relu_is_flax_relu_and_so_are_its_gradients():
    dtype = jnp.bfloat16
    x = jnp.asarray(np.concatenate([draw(2, 4, 4, 3).ravel(), [0.0, -0.0, np.inf, -np.inf]]).reshape(1, 4, 5, 5), dtype)

    def both(function):
        def loss(x):
            return jnp.sum(jnp.where(jnp.isfinite(x), function(x) ** 3, 0).astype(jnp.float32))

        second = jax.grad(lambda x: jnp.sum(jax.grad(loss)(x).astype(jnp.float32)))
        return function(x), jax.grad(loss)(x), second(x)

    for computed, expected in zip(*jax.jit(lambda: [both(relu), both(jax.nn.relu)])(), strict=True):
        assert computed.dtype == dtype
        np.testing.assert_array_equal(np.asarray(computed, np.float32), np.asarray(expected, np.float32))


def test_an_infinite_gradient_does_not_pass_where_the_rectifier_is_off():
    _, backward = jax.vjp(relu, jnp.array([[-1.0, 2.0]]))
    np.testing.assert_array_equal(backward(jnp.array([[jnp.inf, 3.0]]))[0], [[0.0, 3.0]])


def test_operators_force_a_sum():
    x, y = draw(2, 3), draw(2, 3, seed=1)
    for use in (lambda s: s**2, lambda s: 1 / s, lambda s: s @ s.T, lambda s: s > 0, abs, len, jnp.asarray):
        np.testing.assert_array_equal(use(add(x, y)), use(jnp.asarray(x) + jnp.asarray(y)))
    assert [row.shape for row in add(x, y)] == [(3,), (3,)]
