"""The C++ convolutions: against sums in float64, at once and mapped, what they refuse, and where they can be had."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres.cpu import native

needs_native = pytest.mark.skipif(native.load() != "", reason=f"no native code here: {native.load()}")

# Batch, height and width of the output, input and output channels: of a network; channels that fill no register; odd
# sides, of which bfloat16 makes pairs; one pixel; more examples than one part has, and not a multiple; none.
SHAPES = [(4, 8, 6, 16, 32), (2, 4, 4, 3, 20), (3, 5, 7, 9, 17), (1, 1, 1, 1, 1), (37, 4, 2, 8, 16), (0, 4, 4, 8, 16)]


def both(x, kernel, dy, stride, of_input=True):
    return native.convolution(x, kernel, stride), *native.gradients(x, kernel, dy, stride, of_input)


run = jax.jit(both, static_argnums=(3, 4))


def drawn(shape, size, stride, dtype):
    """Returns x, kernel and dy of small whole numbers: their products and sums are exact in float32."""
    batch, rows, columns, inner, outer = shape
    draw = np.random.default_rng(0).integers
    x = jnp.asarray(draw(-4, 5, (batch, rows * stride, columns * stride, inner)), dtype)
    kernel = jnp.asarray(draw(-2, 3, (size, size, inner, outer)), jnp.float32)
    return x, kernel, jnp.asarray(draw(-2, 3, (batch, rows, columns, outer)), dtype)


def by_definition(x, kernel, dy, stride):
    """Returns y and the gradients of x and kernel, as sums over the kernel's taps in float64."""
    x, kernel, dy = (np.asarray(of).astype(np.float64) for of in (x, kernel, dy))
    (rows, columns), size, half = dy.shape[1:3], kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    y, d_padded, d_kernel = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for i, j in product(range(size), repeat=2):
        met = (slice(None), slice(i, i + stride * rows, stride), slice(j, j + stride * columns, stride))
        y += padded[met] @ kernel[i, j]
        d_padded[met] += dy @ kernel[i, j].T
        d_kernel[i, j] = np.einsum("nhwc,nhwo->co", padded[met], dy)
    return y, d_padded[:, half : half + x.shape[1], half : half + x.shape[2]], d_kernel


@needs_native
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_numbers_are_convolved_exactly(shape, size, stride, dtype):
    x, kernel, dy = drawn(shape, size, stride, dtype)
    assert native.possible(x, kernel, stride)
    y, dx, d_kernel = run(x, kernel, dy, stride)
    assert (y.dtype, dx.dtype, d_kernel.dtype) == (dtype, dtype, jnp.float32)
    expected_y, expected_dx, expected_d_kernel = by_definition(x, kernel, dy, stride)
    np.testing.assert_array_equal(y, expected_y.astype(dtype))
    np.testing.assert_array_equal(dx, expected_dx.astype(dtype))
    np.testing.assert_array_equal(d_kernel, expected_d_kernel)
    if shape == SHAPES[0]:
        _, no_dx, same = run(x, kernel, dy, stride, False)
        assert no_dx is None
        np.testing.assert_array_equal(same, d_kernel)


@needs_native
@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_other_numbers_within_rounding(dtype, error):
    x, kernel, dy = (jnp.sin(1 + of) for of in drawn((5, 6, 4, 24, 40), 3, 1, dtype))
    expected = by_definition(x, kernel.astype(dtype), dy, 1)
    for computed, wanted in zip(run(x, kernel, dy, 1), expected, strict=True):
        np.testing.assert_allclose(np.asarray(computed, np.float64), wanted, rtol=0, atol=error * np.abs(wanted).max())


@needs_native
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_no_finite_number_stays_none(dtype):
    x, kernel, dy = drawn((3, 4, 5, 3, 17), 3, 1, dtype)
    bad_x, bad_dy = (of.at[1, 1, 4, 0].set(jnp.nan).at[2, 0, 0, 1].set(jnp.inf) for of in (x, dy))
    with np.errstate(invalid="ignore"):
        y, _, d_kernel = by_definition(bad_x, kernel, dy, 1)
        _, dx, _ = by_definition(x, kernel, bad_dy, 1)
    found_y, _, found_d_kernel = run(bad_x, kernel, dy, 1)
    np.testing.assert_array_equal(np.asarray(found_y, np.float64), y)
    np.testing.assert_array_equal(np.asarray(run(x, kernel, bad_dy, 1)[1], np.float64), dx)
    # Others are none either where the kernel's gradient adds zeros beyond the border times those.
    assert not np.isfinite(found_d_kernel[~np.isfinite(d_kernel)]).any()


@needs_native
@pytest.mark.parametrize("mapped", ["all", "x", "kernel"])
@pytest.mark.parametrize("of_input", [True, False])
def test_mapped_it_is_each_members_own(mapped, of_input):
    arrays = drawn((2, 3, 4, 3, 5), 3, 2, jnp.float32)
    axes = {"all": (0, 0, 0), "x": (0, None, None), "kernel": (None, 0, None)}[mapped]
    arrays = [of if axis is None else jnp.stack([of, of[::-1], of + 1]) for of, axis in zip(arrays, axes, strict=True)]
    computed = jax.jit(jax.vmap(lambda *given: both(*given, 2, of_input), axes))(*arrays)
    for member in range(3):
        own = (of if axis is None else of[member] for of, axis in zip(arrays, axes, strict=True))
        expected = run(*own, 2, of_input)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda of, m=member: of[m], computed), expected)


@needs_native
def test_of_many_calls_at_once_each_returns_the_same_bits():
    """Threads are taken by whoever is first; the order of additions is not theirs to change, nor may calls wait."""
    x, kernel, dy = (jnp.sin(1 + of) for of in drawn((40, 6, 6, 8, 8), 3, 1, jnp.bfloat16))
    y, dx, d_kernel = run(x, kernel, dy, 1)
    # Powers of two, so that no call is another's and no result is rounded otherwise.
    factors = [2.0**number for number in range(8)]
    several = jax.jit(lambda x, *others: [both(factor * x, *others, 1) for factor in factors])
    several = several.lower(x, kernel, dy).compile()
    for target in native.TARGETS:
        assert several.as_text().count(f'custom_call_target="{target}"') == 8
    for _ in range(20):
        for factor, computed in zip(factors, several(x, kernel, dy), strict=True):
            jax.tree.map(np.testing.assert_array_equal, computed, (factor * y, dx, factor * d_kernel))


# The arrays of a call for 2 examples of 4 x 4 pixels, 3 input and 5 output channels.
IMAGE, OUTPUT, KERNEL = (2, 4, 4, 3), (2, 4, 4, 5), (3, 3, 3, 5)
FORWARD, BACKWARD = (native.FORWARD_TARGET,), (native.BACKWARD_TARGET,)
CALLS = {
    native.FORWARD_TARGET: ({"x": IMAGE, "kernel": KERNEL}, {"y": OUTPUT}),
    native.BACKWARD_TARGET: ({"x": IMAGE, "kernel": KERNEL, "dy": OUTPUT}, {"dx": IMAGE, "d_kernel": KERNEL}),
}
EITHER = (*CALLS,)


def called(target, changes, stride=1):
    """Calls with float32 arrays of these shapes, some of which have another shape or dtype."""

    def described(name, shape):
        change = changes.get(name, shape)
        return jax.ShapeDtypeStruct(*((shape, change) if isinstance(change, str) else (change, jnp.float32)))

    given, results = ([described(*of) for of in part.items()] for part in CALLS[target])
    arrays = [jnp.zeros(of.shape, of.dtype) for of in given]
    return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*arrays, stride=np.int64(stride)))


@needs_native
@pytest.mark.parametrize(
    ("targets", "changes", "stride", "message"),
    [
        (EITHER, {"x": (2, 4, 12)}, 1, "x and kernel must have four axes, or as many more"),
        (EITHER, {"x": (3, *IMAGE), "kernel": (2, *KERNEL)}, 1, "kernel has a wrong shape"),
        (EITHER, {"kernel": (5, 5, 3, 5)}, 1, "the kernel must be of 1x1 or 3x3"),
        (EITHER, {"kernel": (3, 3, 4, 5)}, 1, "kernel has a wrong shape"),
        (EITHER, {"kernel": (3, 3, 3, 0)}, 1, "there must be channels"),
        (EITHER, {"kernel": "bfloat16"}, 1, "kernel has a wrong dtype"),
        (EITHER, {"x": "float16"}, 1, "x must be of bfloat16 or float32"),
        (EITHER, {"x": (2, 5, 4, 3)}, 2, "the stride must divide x's height and width"),
        (EITHER, {}, 3, "stride must be 1 or 2"),
        (FORWARD, {"y": (2, 4, 4, 4)}, 1, "y or its gradient has a wrong shape"),
        (FORWARD, {"y": "bfloat16"}, 1, "y or its gradient has a wrong dtype"),
        (BACKWARD, {"dy": "bfloat16"}, 1, "y or its gradient has a wrong dtype"),
        (BACKWARD, {"dx": (2, 2, 4, 3)}, 1, "dx has a wrong shape"),
        (BACKWARD, {"dx": "bfloat16"}, 1, "dx has a wrong dtype"),
        (BACKWARD, {"d_kernel": (3, 3, 3, 4)}, 1, "d_kernel has a wrong shape"),
        (BACKWARD, {"d_kernel": "bfloat16"}, 1, "d_kernel has a wrong dtype"),
    ],
)
def test_what_it_cannot_read_or_write_it_refuses(targets, changes, stride, message):
    for target in targets:
        called(target, {})
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"convolution: {message}"):
            called(target, changes, stride)


def test_what_is_not_possible():
    def possible(x=IMAGE, kernel=KERNEL, stride=1, dtype=jnp.float32, kernel_dtype=jnp.float32):
        return native.possible(jax.ShapeDtypeStruct(x, dtype), jax.ShapeDtypeStruct(kernel, kernel_dtype), stride)

    assert possible()
    assert possible(kernel=(1, 1, 3, 5), stride=2, dtype=jnp.bfloat16)
    for changes in (
        {"x": (2, 5, 4, 3), "stride": 2},
        {"x": (2, 4, 4, 5)},
        {"stride": 4},
        {"kernel": (5, 5, 3, 5)},
        {"kernel": (3, 1, 3, 5)},
        {"kernel": (3, 3, 3, 0)},
        {"dtype": jnp.float16},
        {"kernel_dtype": jnp.bfloat16},
    ):
        assert not possible(**changes), changes


def test_why_it_cannot_be_had(monkeypatch, tmp_path):
    load = native.load.__wrapped__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "cpu_features", lambda: [*native.FEATURES][:-1])
    assert load() == "the processor has no avx512_bf16"
    monkeypatch.setattr(native, "cpu_features", lambda: [*native.FEATURES])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load() == "there is no C++ compiler (no-such-compiler)"
    failing = tmp_path / "failing"
    failing.write_text(
        "#!/bin/sh\necho 'first words' >&2\necho 'cc1: error: unknown option -mavx512bf16' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    assert load() == f"{failing} fails: cc1: error: unknown option -mavx512bf16"
    assert not [*native.cache_directory().iterdir()], "nothing half-made stays"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert "Not a directory" in load()


@needs_native
def test_it_is_compiled_once_and_anew_when_it_changed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, header = tmp_path / "convolution.cc", tmp_path / "common.h"
    header.write_text("constexpr int one = 1;\n")
    source.write_text('#include "common.h"\nextern "C" int ConvolutionForward() { return one; }\n')
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    first = native.compiled()
    made = first.stat().st_mtime_ns
    assert native.compiled() == first
    assert first.stat().st_mtime_ns == made
    source.write_text(source.read_text().replace("return one", "return 2 * one"))
    second = native.compiled()
    header.write_text("constexpr int one = 1 + 0;\n")
    third = native.compiled()
    assert {*first.parent.iterdir()} == {first, second, third}
    assert len({first, second, third}) == 3
