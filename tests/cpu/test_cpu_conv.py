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
from normres.cpu import conv as module
from normres.cpu.conv import conv

# Even, odd, and sides shorter than a kernel of 5 or of 3.
IMAGES = [(8, 6), (7, 5), (1, 4)]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_gradients(function, x, kernel, dy, stride):
    """Returns the output and the gradients with regard to x and the kernel for the cotangent dy."""
    y, pullback = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
    return y, *pullback(dy.astype(y.dtype))


def close(actual, expected, tolerance):
    """Compares with a tolerance relative to the largest expected value."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * scale)


def in_every_dtype(stride, x, kernel, dy):
    """Output and gradients: autodiff's in float64, ours in float32 and bfloat16."""
    expected = with_gradients(plain, x, kernel, dy, stride)
    narrow = [with_gradients(conv, x.astype(t), kernel.astype(t), dy, stride) for t in (jnp.float32, jnp.bfloat16)]
    return expected, *narrow


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_output_and_gradients_equal_autodiff(size, stride):
    for number, (height, width) in enumerate(IMAGES):
        channels_in, channels_out = 1 + (number + size) % 5, 1 + (2 * number + stride) % 5
        x = draw(2, height, width, channels_in)
        kernel = draw(size, size, channels_in, channels_out, seed=1)
        dy = draw(2, -(-height // stride), -(-width // stride), channels_out, seed=2)
        # Numbers that bfloat16 holds, so that all dtypes see the same.
        arrays = [array.astype(jnp.bfloat16).astype(np.float64) for array in (x, kernel, dy)]
        with jax.enable_x64(True):
            expected, *computed = jax.jit(partial(in_every_dtype, stride))(*arrays)
        # bfloat16 has 8 bits, 2^-9 = 0.2 % a rounding.
        for (dtype, tolerance), results in zip([(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)], computed, strict=True):
            for array, wanted in zip(results, expected, strict=True):
                assert array.dtype == dtype
                close(array, wanted, tolerance)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "channels_in", "channels_out"), [(2, 6, 4), (3, 6, 9), (4, 4, 4)])
def test_grouped_output_and_gradients_equal_autodiff(groups, channels_in, channels_out, stride):
    x, kernel = draw(2, 7, 6, channels_in), draw(3, 3, channels_in // groups, channels_out, seed=1)
    dy = draw(2, -(-7 // stride), 6 // stride, channels_out, seed=2)

    with jax.enable_x64(True):
        expected = with_gradients(partial(plain, groups=groups), x, kernel, dy, stride)
        computed = with_gradients(partial(conv, groups=groups), x, kernel, dy, stride)
    for array, wanted in zip(computed, expected, strict=True):
        close(array, wanted, 1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_both_forms_of_the_gradients_are_equal(size, stride):
    """By phases and products on the one side, by a dy that is spread with zeros and transposes on the other."""
    height, width = 4 * stride, 2 * stride
    x, dy, kernel = draw(2, height, width, 3), draw(2, 4, 2, 6, seed=1), draw(size, size, 3, 6, seed=2)
    with jax.enable_x64(True):
        x, dy, kernel = (jnp.asarray(array) for array in (x, dy, kernel))
        spread = jnp.zeros((2, 3 * stride + 1, stride + 1, 6)).at[:, ::stride, ::stride].set(dy)
        missing = [stride - 1, stride - 1]
        product = module._kernel_gradient_as_product(x, dy, size, stride)
        close(product, module._kernel_gradient(x, spread, size, missing, 1), 1e-13)
        for groups in (1, 3):
            own = kernel[:, :, : 3 // groups]
            by_phase = module._input_gradient_by_phase(own, dy, stride, groups)
            close(by_phase, module._input_gradient(own, spread, missing, groups), 1e-13)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scan_vmap_and_checkpoint_change_nothing(dtype):
    x = jnp.asarray(draw(2, 5, 4, 3), dtype)
    kernels = jnp.asarray(draw(4, 3, 3, 3, 3, seed=1) / 5, jnp.float32)
    tolerance = 1e-5 if dtype == jnp.float32 else 3e-2

    def unrolled(kernels, x, function):
        for kernel in kernels:
            x = jnp.tanh(function(x, kernel.astype(dtype)))
        return jnp.sum(x.astype(jnp.float32) ** 2)

    def scanned(kernels, x, wrap=lambda layer: layer):
        def layer(x, kernel):
            return jnp.tanh(conv(x, kernel)), None

        return jnp.sum(lax.scan(wrap(layer), x, kernels)[0].astype(jnp.float32) ** 2)

    def gradients(loss, **options):
        return jax.jit(jax.grad(partial(loss, **options), (0, 1)))(kernels, x)

    expected = gradients(unrolled, function=plain)
    for computed in (
        gradients(unrolled, function=conv),
        gradients(scanned),
        gradients(scanned, wrap=jax.checkpoint),
    ):
        jax.tree.map(lambda array, wanted: close(array, wanted, tolerance), computed, expected)

    dy = jnp.asarray(draw(4, 2, 3, 2, 3, seed=2), dtype)
    of_one = lambda function: lambda kernel, dy: with_gradients(function, x, kernel.astype(dtype), dy, 2)  # noqa: E731
    mapped = jax.jit(jax.vmap(of_one(conv)))(kernels, dy)
    one_by_one = [of_one(plain)(*pair) for pair in zip(kernels, dy, strict=True)]
    jax.tree.map(lambda array, *wanted: close(array, np.stack(wanted), tolerance), mapped, *one_by_one)


@pytest.mark.parametrize(("size", "stride", "image"), [(3, 1, (5, 4)), (3, 2, (5, 4)), (1, 2, (5, 4)), (5, 3, (4, 6))])
def test_reverse_over_reverse_equals_autodiff(size, stride, image):
    x, kernel = draw(2, *image, 2), draw(size, size, 2, 3, seed=1)

    def second(function):
        def norm_of_gradient(x, kernel):
            loss = lambda *arrays: jnp.sum(jnp.sin(function(*arrays, stride)))  # noqa: E731
            return sum(jnp.sum(jnp.sin(gradient)) for gradient in jax.grad(loss, (0, 1))(x, kernel))

        return jax.jit(jax.grad(norm_of_gradient, (0, 1)))(x, kernel)

    with jax.enable_x64(True):
        jax.tree.map(lambda array, wanted: close(array, wanted, 1e-12), second(conv), second(plain))


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradient_of_a_shared_kernel_in_shard_map(check_vma):
    x, kernel = draw(8, 5, 4, 2), draw(3, 3, 2, 3, seed=1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = PartitionSpec("data"), PartitionSpec()

    def loss(kernel, x):
        return jnp.sum(jnp.sin(conv(x, kernel)))

    def summed(kernel, x):
        computed = jax.grad(loss)(kernel, x)
        # With the check, JAX sums the gradient of what the devices share.
        return computed if check_vma else lax.psum(computed, "data")

    step = jax.shard_map(summed, mesh=mesh, in_specs=(whole, sharded), out_specs=whole, check_vma=check_vma)
    with jax.enable_x64(True):
        close(jax.jit(step)(kernel, x), jax.grad(loss)(kernel, x), 1e-12)


def test_forward_mode_is_refused():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(TypeError, match="use ops=plain"):
        jax.jvp(lambda x: conv(x, kernel), (x,), (x,))


CANONICAL = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


@pytest.mark.parametrize(("stride", "expected"), [(1, 2), (2, 2), (3, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_convolution_is_a_plain_forward_one(dtype, stride, expected):
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), dtype)
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
        assert "dilate = [2" not in window
