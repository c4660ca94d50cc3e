"""The C++ kernel gradient against numpy in float64 and the forms it stands in for, and what happens without it."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, PartitionSpec

from normres import native
from normres.conv import NATIVE_TARGET, conv
from normres.errors import UserError
from normres.launch import machine
from normres.resnet import ResNet, ResNetConfig

# Batch, height, width, input and output channels: of a network; channels that fill no register; odd sides, of which
# bfloat16 makes pairs; one pixel; more examples than one part has, and not a multiple; none.
SHAPES = [(4, 8, 6, 16, 32), (2, 4, 4, 3, 20), (3, 5, 7, 9, 17), (1, 1, 1, 1, 1), (37, 4, 2, 8, 16), (0, 4, 4, 8, 16)]


@pytest.fixture
def loaded():
    if why_not := native.load():
        pytest.skip(f"no native code here: {why_not}")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_definition(x, dy, stride):
    """The sum of kernel_gradient.cc's first comment, in float64."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    rows, columns, outer = dy.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros((3, 3, x.shape[-1], outer))
    for i in range(3):
        for j in range(3):
            met = padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            result[i, j] = np.einsum("nhwc,nhwo->co", met[:, :rows, :columns], dy)
    return result


def called(x, dy, channels=None):
    result = jax.ShapeDtypeStruct((*x.shape[:-4], 3, 3, channels or x.shape[-1], dy.shape[-1]), jnp.float32)
    return jax.ffi.ffi_call(NATIVE_TARGET, result)(x, dy)


def kernel_gradient(x, kernel, dy, stride=1, native=True):
    def weighted(kernel):
        return jnp.sum((conv(x, kernel, stride, native=native) * dy).astype(jnp.float32))

    return jax.grad(weighted)(kernel)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_sum_that_it_says(loaded, shape, stride, dtype):
    batch, rows, columns, inner, outer = shape
    x = jnp.asarray(draw(batch, rows * stride, columns * stride, inner), dtype)
    dy = jnp.asarray(draw(batch, rows, columns, outer, seed=1), dtype)
    expected = by_definition(x, dy, stride)
    found = np.asarray(called(x, dy))
    # Both are given the same rounded numbers, whose products float32 holds (nearly) exactly.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max() * np.sqrt(batch))


def test_of_many_calls_at_once_each_returns_the_same_bits(loaded):
    """Threads are taken by whoever is first; the order of additions is not theirs to change, nor may calls wait."""
    x, dy = (jnp.asarray(draw(40, 6, 6, 8, seed=seed), jnp.bfloat16) for seed in (0, 1))
    expected = np.asarray(called(x, dy))
    # Powers of two, so that no call is another's and no result is rounded otherwise.
    several = jax.jit(lambda x, dy: [called(x * 2.0**number, dy) for number in range(16)]).lower(x, dy).compile()
    assert several.as_text().count(f'custom_call_target="{NATIVE_TARGET}"') == 16
    for _ in range(20):
        for number, found in enumerate(several(x, dy)):
            np.testing.assert_array_equal(np.asarray(found), expected * 2.0**number)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_has_the_same_gradient_with_it(loaded, stride):
    x, kernel = jnp.asarray(draw(3, 6, 4, 5), jnp.float32), jnp.asarray(draw(3, 3, 5, 7, seed=1), jnp.float32)
    dy = jnp.asarray(draw(3, 6 // stride, 4 // stride, 7, seed=2), jnp.float32)
    both = [jax.jit(partial(kernel_gradient, stride=stride, native=native)) for native in (False, True)]
    assert [NATIVE_TARGET in function.lower(x, kernel, dy).as_text() for function in both] == [False, True]
    np.testing.assert_allclose(both[1](x, kernel, dy), both[0](x, kernel, dy), rtol=1e-5, atol=1e-5)

    def second(native):
        """A derivative of the gradient with regard to x and dy, which is JAX's own form."""
        return jax.grad(lambda x, dy: jnp.sum(jnp.sin(kernel_gradient(x, kernel, dy, stride, native))), (0, 1))(x, dy)

    for found, expected in zip(second(True), second(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_mapped_it_is_each_members_own(loaded):
    x, dy = jnp.asarray(draw(2, 3, 4, 4, 5), jnp.float32), jnp.asarray(draw(2, 3, 4, 4, 6, seed=1), jnp.float32)
    kernel = jnp.zeros((3, 3, 5, 6))
    mapped = jax.vmap(lambda x, dy: kernel_gradient(x, kernel, dy))(x, dy)
    of_one_image = jax.vmap(lambda dy: kernel_gradient(x[0], kernel, dy))(dy)
    for member in range(2):
        np.testing.assert_allclose(mapped[member], by_definition(x[member], dy[member], 1), rtol=0, atol=1e-4)
        np.testing.assert_allclose(of_one_image[member], by_definition(x[0], dy[member], 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("fields", [{"size": 5}, {"size": 1}, {"groups": 2}, {"side": 5, "stride": 2}, {"stride": 4}])
def test_other_convolutions_stay_xlas(loaded, fields):
    size, groups, side, stride = ({"size": 3, "groups": 1, "side": 4, "stride": 1} | fields).values()
    x, kernel = jnp.asarray(draw(2, side, side, 4), jnp.float32), jnp.zeros((size, size, 4 // groups, 4))

    def gradient(x, kernel):
        return jax.grad(lambda kernel: jnp.sum(conv(x, kernel, stride, groups, native=True)))(kernel)

    assert NATIVE_TARGET not in jax.jit(gradient).lower(x, kernel).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_none_of_it(loaded, platform):
    network = ResNet(ResNetConfig(depth=8, width=4, native=True), train=True)
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def loss(variables, images):
        return jnp.sum(network.apply(variables, images, mutable=["batch_stats"])[0])

    def lowered(platform):
        checks = [export.DisabledSafetyCheck.custom_call(NATIVE_TARGET)]
        exported = export.export(jax.jit(jax.grad(loss)), platforms=[platform], disabled_checks=checks)
        return exported(variables, images).mlir_module()

    assert NATIVE_TARGET in lowered("cpu")
    assert NATIVE_TARGET not in lowered(platform)


@pytest.mark.parametrize(
    ("x", "dy", "message"),
    [
        (jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3), jnp.bfloat16), "of one dtype"),
        (jnp.zeros((2, 4, 4, 3), jnp.float16), jnp.zeros((2, 4, 4, 3), jnp.float16), "of bfloat16 or float32"),
        (jnp.zeros((2, 4, 4, 3)), jnp.zeros((3, 4, 4, 3)), "x's examples"),
        (jnp.zeros((2, 9, 9, 3)), jnp.zeros((2, 3, 3, 3)), "height and width over 1 or 2"),
        (jnp.zeros((2, 5, 4, 3)), jnp.zeros((2, 2, 2, 3)), "height and width over 1 or 2"),
    ],
)
def test_what_it_cannot_read_it_refuses(loaded, x, dy, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(called(x, dy))


def test_no_more_is_written_than_the_result_holds(loaded):
    with pytest.raises(jax.errors.JaxRuntimeError, match="9 x inner x outer"):
        jax.block_until_ready(called(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3)), channels=2))
    with pytest.raises(jax.errors.JaxRuntimeError, match="leading axes"):
        jax.block_until_ready(called(jnp.zeros((4, 2, 4, 4, 3)), jnp.zeros((2, 2, 4, 4, 3))))


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_gradient_of_a_shared_kernel_in_shard_map(loaded, check_vma):
    x, kernel = jnp.asarray(draw(8, 5, 4, 2), jnp.float32), jnp.asarray(draw(3, 3, 2, 3, seed=1), jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(kernel, x, native=True):
        return jnp.sum(jnp.sin(conv(x, kernel, native=native)))

    def summed(kernel, x):
        found = jax.grad(loss)(kernel, x)
        return found if check_vma else jax.lax.psum(found, "data")

    specs = (PartitionSpec(), PartitionSpec("data"))
    step = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma)
    expected = jax.grad(partial(loss, native=False))(kernel, x)
    np.testing.assert_allclose(jax.jit(step)(kernel, x), expected, rtol=1e-4, atol=1e-4)


def of(platform, count=1):
    return [SimpleNamespace(platform=platform)] * count


def test_when_it_is_used(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: "")
    monkeypatch.setattr(machine, "cpu_features", lambda: ["avx512_bf16"])
    assert not native.used("never", of("cpu"))
    assert native.used("auto", of("cpu"))
    assert native.used("always", of("cpu"))
    for devices in (of("gpu"), of("cpu", 2)):
        assert not native.used("auto", devices)
        with pytest.raises(
            UserError, match=r"config.model.native='always' is not possible: it is for programs on one CPU"
        ):
            native.used("always", devices)
    monkeypatch.setattr(machine, "cpu_features", lambda: ["avx512_bf16", "amx_bf16"])
    assert not native.used("auto", of("cpu"))
    assert native.used("always", of("cpu"))
    monkeypatch.setattr(machine, "cpu_features", lambda: [])
    monkeypatch.setattr(native, "load", lambda: "no compiler")
    assert not native.used("auto", of("cpu"))
    with pytest.raises(UserError, match=r"'always' is not possible: no compiler; auto does without it"):
        native.used("always", of("cpu"))


def test_why_it_cannot_be_had(monkeypatch, tmp_path):
    load = native.load.__wrapped__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "cpu_features", lambda: [*native.FEATURES][:-1])
    assert load() == "the processor has no avx512_bf16"
    monkeypatch.setattr(machine, "cpu_features", lambda: [*native.FEATURES])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load() == "there is no C++ compiler (no-such-compiler)"
    failing = tmp_path / "failing"
    failing.write_text(
        "#!/bin/sh\necho 'first words' >&2\necho 'cc1: error: unknown option -mavx512bf16' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    assert load() == f"{failing} fails: cc1: error: unknown option -mavx512bf16"
    assert not [*machine.cache_directory().iterdir()], "nothing half-made stays"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert "Not a directory" in load()


def test_it_is_compiled_once_and_anew_when_it_changed(loaded, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "kernel_gradient.cc"
    source.write_text('extern "C" int KernelGradient() { return 1; }\n')
    monkeypatch.setattr(native, "SOURCE", source)
    first = native.compiled()
    made = first.stat().st_mtime_ns
    assert native.compiled() == first
    assert first.stat().st_mtime_ns == made
    source.write_text('extern "C" int KernelGradient() { return 2; }\n')
    assert native.compiled() != first
    assert len([*first.parent.iterdir()]) == 2
