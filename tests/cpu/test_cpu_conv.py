"""The CPU's convolution and its written-out gradients against the plain one's, and what it is lowered to."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, PartitionSpec

from normres.layers.ops import conv as plain

pytest.importorskip("normres.cpu")
from normres.cpu import native as code
from normres.cpu.conv import conv


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_gradients(function, stride, groups, x, kernel, dy):
    """Returns the output and the gradients with regard to x and the kernel for the cotangent dy."""
    y, pullback = jax.vjp(lambda x, kernel: function(x, kernel, stride, groups), x, kernel)
    return y, *pullback(dy.astype(y.dtype))


def close(actual, expected, tolerance):
    """Compares with a tolerance relative to the largest expected value."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * scale)


def in_every_dtype(stride, groups, *arrays):
    """Output and gradients: autodiff's in float64, ours in float32 and bfloat16."""
    narrow = [[array.astype(dtype) for array in arrays] for dtype in (jnp.float32, jnp.bfloat16)]
    return with_gradients(plain, stride, groups, *arrays), [with_gradients(conv, stride, groups, *a) for a in narrow]


# Sides that the stride divides, odd ones, and some that are shorter than the kernel: each has its own form.
WHOLE, ODD, SHORT = (12, 6), (7, 5), (1, 4)
CASES = [
    *((3, stride, 1, image) for stride in (1, 2) for image in (WHOLE, ODD, SHORT)),
    (1, 2, 1, ODD),
    (3, 3, 1, WHOLE),
    (5, 2, 1, SHORT),
    (5, 3, 1, WHOLE),
    (3, 1, 2, ODD),
    (3, 2, 3, WHOLE),
]


@pytest.mark.parametrize(("size", "stride", "groups", "image"), CASES)
def test_output_and_gradients_equal_autodiff(size, stride, groups, image):
    x = draw(2, *image, 2 * groups)
    kernel = draw(size, size, 2, 3 * groups, seed=1)
    dy = draw(2, *(-(-side // stride) for side in image), 3 * groups, seed=2)
    # Numbers that bfloat16 holds, so that all dtypes see the same.
    arrays = [array.astype(jnp.bfloat16).astype(np.float64) for array in (x, kernel, dy)]
    with jax.enable_x64(True):
        expected, computed = jax.jit(partial(in_every_dtype, stride, groups))(*arrays)
    # bfloat16 has 8 bits, 2^-9 = 0.2 % a rounding.
    for (dtype, tolerance), results in zip([(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)], computed, strict=True):
        for array, wanted in zip(results, expected, strict=True):
            assert array.dtype == dtype
            close(array, wanted, tolerance)


def test_scan_vmap_and_checkpoint_change_nothing():
    x = jnp.asarray(draw(2, 5, 4, 3), jnp.float32)
    kernels = jnp.asarray(draw(4, 3, 3, 3, 3, seed=1) / 5, jnp.float32)

    def loss(function, kernels, x):
        return jnp.sum(lax.scan(lambda x, kernel: (jnp.tanh(function(x, kernel)), None), x, kernels)[0] ** 2)

    expected, *computed = (
        jax.jit(jax.grad(partial(loss, function), (0, 1)))(kernels, x)
        for function in (plain, conv, jax.checkpoint(conv))
    )
    for gradients in computed:
        jax.tree.map(lambda array, wanted: close(array, wanted, 1e-5), gradients, expected)

    dy = jnp.asarray(draw(4, 2, 3, 2, 3, seed=2), jnp.float32)
    mapped, plainly = (jax.jit(jax.vmap(partial(with_gradients, of, 2, 1, x))) for of in (conv, plain))
    jax.tree.map(lambda array, wanted: close(array, wanted, 1e-5), mapped(kernels, dy), plainly(kernels, dy))


# The C++ code and the kernel's gradient as a product are of float32, and of sides that the stride divides.
@pytest.mark.parametrize(
    ("native", "height", "dtype", "tolerance"),
    [(False, 5, np.float64, 1e-12), (False, 6, np.float32, 1e-5), (True, 6, np.float32, 1e-5)],
)
def test_reverse_over_reverse_equals_autodiff(native, height, dtype, tolerance):
    if native and (missing := code.load()):
        pytest.skip(missing)
    x, kernel, stride = draw(2, height, 4, 2).astype(dtype), draw(3, 3, 2, 3, seed=1).astype(dtype), 2

    def second(function):
        def norm_of_gradient(x, kernel):
            loss = lambda *arrays: jnp.sum(jnp.sin(function(*arrays, stride)))  # noqa: E731
            return sum(jnp.sum(jnp.sin(gradient)) for gradient in jax.grad(loss, (0, 1))(x, kernel))

        return jax.jit(jax.grad(norm_of_gradient, (0, 1)))(x, kernel)

    with jax.enable_x64(True):
        computed, expected = second(partial(conv, native=native)), second(plain)
        jax.tree.map(lambda array, wanted: close(array, wanted, tolerance), computed, expected)


def test_gradient_of_a_shared_kernel_in_shard_map():
    x, kernel = draw(8, 5, 4, 2), draw(3, 3, 2, 3, seed=1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = PartitionSpec("data"), PartitionSpec()

    def loss(kernel, x):
        return jnp.sum(jnp.sin(conv(x, kernel)))

    def summed(kernel, x):
        return lax.psum(jax.grad(loss)(kernel, x), "data")

    step = jax.shard_map(summed, mesh=mesh, in_specs=(whole, sharded), out_specs=whole, check_vma=False)
    with jax.enable_x64(True):
        close(jax.jit(step)(kernel, x), jax.grad(loss)(kernel, x), 1e-12)


CANONICAL = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


@pytest.mark.parametrize(("stride", "expected"), [(1, 2), (2, 2), (3, 3)])
def test_every_convolution_is_a_plain_forward_one(stride, expected):
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.bfloat16)
    gradient = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel, stride))), (0, 1))
    text = export.export(jax.jit(gradient), platforms=["cpu"])(x, kernel).mlir_module()
    computed = re.findall(
        r"stablehlo\.convolution\(.*?dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\]), (window = \{.*?\}) ", text
    )
    # Forward, input gradient, kernel gradient; the last is a matrix product where the stride divides the sides of 8,
    # and else stays a convolution.
    assert len(computed) == text.count("stablehlo.convolution(") == expected
    for layout, window in computed:
        assert layout == CANONICAL
        assert "reverse = [true" not in window
        assert not re.search(r"dilate = \[(?!1, 1\])", window)
