"""The C++ code: what it refuses, that threads change nothing, where programs have it, and what happens without it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from normres import native
from normres.deferred import BACKWARD_TARGET, FORWARD_TARGET, Pending, convolve
from normres.errors import UserError
from normres.launch import machine
from normres.resnet import ResNet, ResNetConfig


@pytest.fixture
def loaded():
    if why_not := native.load():
        pytest.skip(f"no native code here: {why_not}")


def test_of_many_calls_at_once_each_returns_the_same_bits(loaded):
    """Threads are taken by whoever is first; the order of additions is not theirs to change, nor may calls wait."""
    draw = np.random.default_rng(0).standard_normal
    x, dy = jnp.asarray(draw((40, 6, 6, 8)), jnp.bfloat16), jnp.asarray(draw((40, 6, 6, 8)), jnp.bfloat16)
    kernel = jnp.asarray(draw((3, 3, 8, 8)), jnp.float32)

    def both(x, kernel, dy):
        def weighted(x, kernel):
            found = convolve(Pending(x, rectify=True), kernel, measured=True)
            return jnp.sum((found.y * dy).astype(jnp.float32)) + jnp.sum(found.mean), found.y

        return jax.grad(weighted, (0, 1), has_aux=True)(x, kernel)

    expected = jax.jit(both)(x, kernel, dy)
    # Powers of two, so that no call is another's and no result is rounded otherwise.
    factors = [2.0**number for number in range(8)]
    several = jax.jit(lambda *arrays: [both(of * arrays[0], *arrays[1:]) for of in factors])
    several = several.lower(x, kernel, dy).compile()
    for target in (FORWARD_TARGET, BACKWARD_TARGET):
        assert several.as_text().count(f'custom_call_target="{target}"') == 8
    for _ in range(20):
        for factor, ((dx, d_kernel), y) in zip(factors, several(x, kernel, dy), strict=True):
            np.testing.assert_array_equal(dx, expected[0][0])
            np.testing.assert_array_equal(d_kernel, expected[0][1] * factor)
            np.testing.assert_array_equal(y, expected[1] * factor)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_none_of_it(loaded, platform):
    network = ResNet(ResNetConfig(depth=8, width=4, native=True), train=True)
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def loss(variables, images):
        return jnp.sum(network.apply(variables, images, mutable=["batch_stats"])[0])

    def lowered(platform):
        checks = [export.DisabledSafetyCheck.custom_call(target) for target in native.TARGETS]
        exported = export.export(jax.jit(jax.grad(loss)), platforms=[platform], disabled_checks=checks)
        return exported(variables, images).mlir_module()

    assert all(f"@{target}(" in lowered("cpu") for target in native.TARGETS)
    assert "custom_call @normres" not in lowered(platform)


# The arrays of a call for 2 examples of 4 x 4 pixels, 3 input and 5 output channels, with all that there can be.
IMAGE, OUTPUT, INNER, OUTER, KERNEL = (2, 4, 4, 3), (2, 4, 4, 5), (2, 3), (2, 5), (3, 3, 3, 5)
INPUT = {"x": IMAGE, "center": INNER, "factor": INNER, "shift": INNER, "side": IMAGE, "kernel": KERNEL}
OF_AFFINE = {"d_center": INNER, "d_factor": INNER, "d_shift": INNER}
MOMENTS = {"mean": OUTER, "d_mean": OUTER, "d_squares": OUTER}
CALLS = {
    FORWARD_TARGET: (INPUT, {"y": OUTPUT, "mean": OUTER, "squares": OUTER, "activated": IMAGE}),
    BACKWARD_TARGET: (
        INPUT | {"dy": OUTPUT, "y": OUTPUT} | MOMENTS | {"d_activated": IMAGE},
        {"dx": IMAGE, "d_side": IMAGE, **OF_AFFINE, "d_kernel": KERNEL},
    ),
}


def called(target, changes, stride=1):
    """Calls with float32 arrays of these shapes, some of which have another shape or dtype."""

    def described(name, shape):
        change = changes.get(name, shape)
        return jax.ShapeDtypeStruct(*((shape, change) if isinstance(change, str) else (change, jnp.float32)))

    given, results = ([described(*of) for of in part.items()] for part in CALLS[target])
    arrays = [jnp.zeros(of.shape, of.dtype) for of in given]
    call = jax.ffi.ffi_call(target, results)
    return jax.block_until_ready(call(*arrays, stride=np.int64(stride), rectify=True))


BOTH, FORWARD, BACKWARD = (FORWARD_TARGET, BACKWARD_TARGET), (FORWARD_TARGET,), (BACKWARD_TARGET,)
AFFINE, FEWER, NONE, OTHER = ("center", "factor", "shift"), (2, 2), (0,), "bfloat16"


@pytest.mark.parametrize(
    ("targets", "names", "change", "message"),
    [
        (BOTH, ("x",), (2, 4, 12), "x and kernel must have four axes, or as many more"),
        (BOTH, ("kernel",), (1, *KERNEL), "x and kernel must have four axes, or as many more"),
        (BOTH, ("kernel",), (5, 5, 3, 5), "the kernel must be of 1x1 or 3x3"),
        (BOTH, ("kernel",), (3, 1, 3, 5), "the kernel must be of 1x1 or 3x3"),
        (BOTH, ("kernel",), (3, 3, 4, 5), "the kernel must have x's channels"),
        (BOTH, ("kernel",), OTHER, "kernel has a wrong dtype"),
        (BOTH, ("x",), "float16", "x must be of bfloat16 or float32"),
        (BOTH, ("side",), (3, 4, 4, 3), "side has a wrong shape"),
        (BOTH, ("side",), OTHER, "side has a wrong dtype"),
        (BOTH, AFFINE, FEWER, "center, factor or shift has a wrong shape"),
        (BOTH, AFFINE, OTHER, "center, factor or shift has a wrong dtype"),
        (BOTH, AFFINE, NONE, "center, factor and shift must be given together"),
        (FORWARD, ("y",), (2, 4, 4, 4), "y has a wrong shape"),
        (FORWARD, ("y",), NONE, "y has a wrong shape"),
        (FORWARD, ("y",), OTHER, "y has a wrong dtype"),
        (FORWARD, ("activated",), (2, 4, 4, 2), "activated has a wrong shape"),
        (FORWARD, ("activated",), OTHER, "activated has a wrong dtype"),
        (FORWARD, ("mean",), FEWER, "mean has a wrong shape"),
        (FORWARD, ("squares",), FEWER, "squares has a wrong shape"),
        (FORWARD, ("mean",), OTHER, "mean has a wrong dtype"),
        (FORWARD, ("squares",), OTHER, "squares has a wrong dtype"),
        (FORWARD, ("mean", "squares"), NONE, "mean and squares must be wanted together"),
        (BACKWARD, ("dy",), (2, 2, 4, 5), "dy has a wrong shape"),
        (BACKWARD, ("dy",), NONE, "dy has a wrong shape"),
        (BACKWARD, ("dy",), OTHER, "dy has a wrong dtype"),
        (BACKWARD, ("y",), (2, 2, 4, 5), "y has a wrong shape"),
        (BACKWARD, ("y",), OTHER, "y has a wrong dtype"),
        (BACKWARD, ("d_activated",), (2, 2, 4, 3), "d_activated has a wrong shape"),
        (BACKWARD, ("d_activated",), OTHER, "d_activated has a wrong dtype"),
        (BACKWARD, (*MOMENTS,), FEWER, "mean, d_mean or d_squares has a wrong shape"),
        (BACKWARD, (*MOMENTS,), OTHER, "mean, d_mean or d_squares has a wrong dtype"),
        (BACKWARD, ("y", *MOMENTS), NONE, "y, mean, d_mean and d_squares must be given together"),
        (BACKWARD, ("dx",), (2, 2, 4, 3), "dx has a wrong shape"),
        (BACKWARD, ("dx",), OTHER, "dx has a wrong dtype"),
        (BACKWARD, ("d_side",), (2, 2, 4, 3), "d_side has a wrong shape"),
        (BACKWARD, ("d_side",), OTHER, "d_side has a wrong dtype"),
        (BACKWARD, (*OF_AFFINE,), FEWER, "d_center, d_factor or d_shift has a wrong shape"),
        (BACKWARD, (*OF_AFFINE,), OTHER, "d_center, d_factor or d_shift has a wrong dtype"),
        (BACKWARD, (*OF_AFFINE,), NONE, "d_center, d_factor and d_shift belong to factor"),
        (BACKWARD, ("d_kernel",), (3, 3, 3, 4), "d_kernel has a wrong shape"),
        (BACKWARD, ("d_kernel",), NONE, "d_kernel has a wrong shape"),
        (BACKWARD, ("d_kernel",), OTHER, "d_kernel has a wrong dtype"),
    ],
)
def test_what_it_cannot_read_or_write_it_refuses(loaded, targets, names, change, message):
    for target in targets:
        called(target, {})
        for name in names:
            with pytest.raises(jax.errors.JaxRuntimeError, match=f"convolution: {message}"):
                called(target, {name: change})


@pytest.mark.parametrize("target", BOTH)
def test_what_does_not_fit_together_it_refuses(loaded, target):
    with pytest.raises(jax.errors.JaxRuntimeError, match="kernel must have x's leading axes"):
        called(target, {"x": (3, *IMAGE), "kernel": (2, *KERNEL)})
    with pytest.raises(jax.errors.JaxRuntimeError, match="side has a wrong shape"):
        called(target, {"x": (3, *IMAGE), "kernel": (3, *KERNEL)})  # for all three members
    with pytest.raises(jax.errors.JaxRuntimeError, match="stride must be 1 or 2"):
        called(target, {}, stride=3)
    with pytest.raises(jax.errors.JaxRuntimeError, match="side has a wrong shape"):
        called(target, {"x": (2, 5, 4, 3)}, stride=1)
    if target == BACKWARD_TARGET:
        with pytest.raises(jax.errors.JaxRuntimeError, match="the stride must divide x's height and width"):
            called(target, {"x": (2, 5, 4, 3)}, stride=2)


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
