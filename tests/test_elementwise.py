"""Elementwise passes in rows, and the rectifier: the plain operation's values and gradients, on the CPU alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from normres import fused
from normres.activation import relu
from normres.elementwise import LONG, elementwise


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


def lowered(function, platform, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    return export.export(jax.jit(function), platforms=[platform])(*arrays).mlir_module()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_the_cpu_gets_rows(platform):
    def loss(x):
        return jnp.sum(jnp.sin(relu(fused.standardize(x, (0, 1, 2))[0]).astype(jnp.float32)))

    text = lowered(jax.grad(loss), platform, (2, 8, 8, 16))
    # Forward and backward of the norm and of the rectifier, a barrier before and one after each.
    assert text.count("stablehlo.optimization_barrier") == (8 if platform == "cpu" else 0)
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
