"""Norms of kernels against numpy and flax.linen, and what stands in for norms: Fixup, SkipInit, ReZero."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_resnet import IMAGES, apply, initial, variables

from normres import layers, norms
from normres.models.resnet import Block, ResNet, ResNetConfig
from normres.models.variants import RESIDUAL_SCALES
from normres.norms import kernels
from normres.training.networks import count_parameters

KERNEL = np.random.default_rng(0).normal(0.3, 0.2, (3, 3, 5, 7)).astype(np.float32)
SCALE = np.linspace(0.5, 2.0, 7, dtype=np.float32)


def test_standardized_kernels():
    exact = KERNEL.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(kernels.standardized(jnp.asarray(KERNEL)), expected, atol=1e-5)
    # Brock et al. 2021, equation 1, with fan-in 45 and the gain of a ReLU, sqrt(2 / (1 - 1 / pi)).
    scaled = np.sqrt(2 / (1 - 1 / np.pi)) * SCALE * expected / np.sqrt(45)
    np.testing.assert_allclose(kernels.scaled_standardized(jnp.asarray(KERNEL), SCALE), scaled, atol=1e-6)


def test_the_gain_keeps_the_variance_through_relu_and_convolution():
    random = np.random.default_rng(1)
    x = np.maximum(random.normal(size=(4096, 200)), 0)  # after a ReLU
    kernel = kernels.scaled_standardized(jnp.asarray(random.normal(size=(200, 300)), jnp.float32))
    assert np.var(x @ np.asarray(kernel), axis=0).mean() == pytest.approx(1.0, rel=0.02)


def test_weight_norm():
    expected = SCALE * KERNEL / np.sqrt((KERNEL**2).sum((0, 1, 2)))
    np.testing.assert_allclose(kernels.l2_normalized(jnp.asarray(KERNEL), SCALE), expected, rtol=1e-5)
    unchanged = kernels.l2_normalized(jnp.asarray(KERNEL), kernels.lengths(jnp.asarray(KERNEL)))
    np.testing.assert_allclose(unchanged, KERNEL, rtol=1e-5)


def test_spectral_norm_is_the_largest_singular_value():
    singular = np.linalg.svd(KERNEL.reshape(-1, 7).astype(np.float64), compute_uv=False)[0]
    y, u, sigma = kernels.spectrally_normalized(jnp.asarray(KERNEL), jnp.ones((1, 7)), steps=50)
    assert float(sigma) == pytest.approx(singular, rel=1e-5)
    assert np.linalg.svd(np.asarray(y).reshape(-1, 7), compute_uv=False)[0] == pytest.approx(1.0, rel=1e-5)
    # One step from there moves no further, and a kernel of zeros stays one.
    np.testing.assert_allclose(kernels.spectrally_normalized(jnp.asarray(KERNEL), u)[1], u, atol=1e-5)
    y, kept, _ = kernels.spectrally_normalized(jnp.zeros((3, 7)), u)
    assert not y.any()
    np.testing.assert_array_equal(kept, u)  # from which the kernel's direction is known once it has one
    # The gradient of W / sigma with sigma = v W u, u and v constant.
    v = (KERNEL.reshape(-1, 7) @ np.asarray(u).T / singular).ravel()
    direction = np.random.default_rng(2).normal(size=KERNEL.shape).astype(np.float32)
    matrix, moved = KERNEL.reshape(-1, 7), direction.reshape(-1, 7)
    slope = (moved / singular - matrix * (v @ moved @ np.asarray(u).ravel()) / singular**2).sum()
    ours = jax.grad(lambda kernel: kernels.spectrally_normalized(kernel, u)[0].sum())(jnp.asarray(KERNEL))
    assert float((ours * direction).sum()) == pytest.approx(slope, rel=1e-3)


WRAPPED = [
    ("WeightNorm", nn.Dense(6), {}, {}),
    ("WeightNorm", nn.Conv(6, (3, 3)), {"feature_axes": (-2, -1)}, {}),
    ("WeightNorm", nn.Conv(6, (3, 3)), {"variable_filter": {"bias"}, "feature_axes": None, "use_scale": False}, {}),
    ("WeightNorm", nn.Dense(6), {"variable_filter": None}, {}),
    ("SpectralNorm", nn.Conv(6, (3, 3)), {"n_steps": 4, "collection_name": "spectral"}, {"update_stats": True}),
    ("SpectralNorm", nn.Dense(6), {}, {"update_stats": False}),
]


@pytest.mark.parametrize(("name", "layer", "fields", "call"), WRAPPED)
def test_wrappers_equal_flax(name, layer, fields, call):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 4, 5)), jnp.float32)
    modules = [getattr(library, name)(layer, **fields) for library in (layers, nn)]

    @jax.jit
    def results(x):
        held, expected = (module.init(jax.random.key(0), x, **call) for module in modules)

        def value(module, params):
            mutable = [key for key in expected if key != "params"]
            y, after = module.apply({**expected, "params": params}, x, **call, mutable=mutable)
            return jnp.sum(jnp.sin(y)), (y, after)

        gradients = [jax.grad(partial(value, module), has_aux=True)(expected["params"]) for module in modules]
        return (held, gradients[0]), (expected, gradients[1])

    computed, expected = results(x)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), computed, expected)


def test_kernels_of_half_precision_are_rounded_once():
    kernel = jnp.asarray(np.random.default_rng(4).normal(size=(5000, 3)), jnp.bfloat16)
    exact = np.asarray(kernel, np.float64)
    expected = (exact / np.linalg.norm(exact, axis=0)).astype(jnp.bfloat16)
    assert np.mean(np.asarray(kernels.l2_normalized(kernel)) != expected) < 0.01
    layer = nn.Dense(3, use_bias=False, param_dtype=jnp.bfloat16)
    held = {"params": {"layer_instance": {"kernel": kernel}}}
    x = jnp.eye(5000)
    y = layers.WeightNorm(layer, use_scale=False, dtype=jnp.float32).apply(held, x)
    np.testing.assert_allclose(y, exact / np.linalg.norm(exact, axis=0), rtol=1e-5)
    module = layers.SpectralNorm(layer, param_dtype=jnp.bfloat16)
    y, held = module.init_with_output(jax.random.key(0), x[:4], update_stats=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype(jnp.bfloat16)}


def test_spectral_wrapper_refuses_what_is_no_matrix_where_asked_to():
    module = layers.SpectralNorm(nn.Conv(6, (3, 3)), error_on_non_matrix=True)
    with pytest.raises(ValueError, match=r"a kernel of shape \(3, 3, 5, 6\) is no matrix"):
        module.init(jax.random.key(0), jnp.ones((2, 4, 4, 5)), update_stats=True)


def test_kernel_norms_of_the_network():
    plain, l2 = (initial(depth=8, width=4, weights=row) for row in ("plain", "l2"))
    # Weight norm starts as the plain network: its scales are the kernels' lengths.
    expected, computed = (
        apply(ResNet(ResNetConfig(depth=8, width=4, weights=w)), v)[0]
        for w, v in zip(("plain", "l2"), (plain, l2), strict=True)
    )
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)
    # A kernel_scale for each channel of 7 convolutions: 4 * 3 + 8 * 2 + 16 * 2.
    assert count_parameters(l2["params"]) - count_parameters(plain["params"]) == 60
    spectral = variables(depth=8, width=4, weights="spectral")
    model = ResNet(ResNetConfig(depth=8, width=4, weights="spectral"), train=True)
    _, after = apply(model, spectral)
    before = spectral["batch_stats"]["stem_conv1"]["u"]
    assert not np.allclose(before, after["batch_stats"]["stem_conv1"]["u"])
    _, unchanged = apply(ResNet(ResNetConfig(depth=8, width=4, weights="spectral")), {**spectral, **after})
    np.testing.assert_array_equal(after["batch_stats"]["stem_conv1"]["u"], unchanged["batch_stats"]["stem_conv1"]["u"])


@pytest.mark.parametrize("scale", ["skipinit", "rezero", "fixup"])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_scaled_branch_is_at_first_not_there(scale, order):
    config = ResNetConfig(norm="none", residual_scale=scale, order=order, depth=8)
    x = jnp.abs(jnp.asarray(IMAGES[..., :1])) * jnp.ones((1, 1, 1, 6))
    block = Block(config, features=(6, 6))
    held = block.init(jax.random.key(0), x)
    np.testing.assert_allclose(block.apply(held, x), x)
    # But every scale learns: its gradient is not zero.
    moved = jax.grad(lambda held: jnp.sum(jnp.sin(block.apply(held, x))))(held)["params"]
    learning = moved["branch_scale"] if scale != "fixup" else moved["conv2"]["kernel"]
    assert np.abs(learning).max() > 0


def test_fixups_initial_kernels_and_scalars():
    held = initial(depth=20, width=8, norm="none", residual_scale="fixup")["params"]
    # 9 blocks: the first kernel's variance is 2 / fan-in / 9.
    kernel = held["stage3_rest"]["conv1"]["kernel"]
    assert kernel.shape == (2, 3, 3, 32, 32)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 32) / 9), rel=0.03)
    assert not np.array_equal(kernel[0], kernel[1])  # each scanned block has draws of its own
    assert not np.any(held["stage1_first"]["conv2"]["kernel"])
    assert not np.any(held["classifier"]["kernel"])
    scalars = {name for name in held["stage1_first"] if name.startswith("branch") or name.endswith("_bias")}
    assert scalars == {"conv1_bias", "norm1_bias", "conv2_bias", "branch_bias", "branch_scale"}
    assert RESIDUAL_SCALES["fixup"].initial == held["stage1_first"]["branch_scale"].item() == 1.0


@pytest.mark.parametrize("name", [name for name, spec in norms.TABLE.items() if spec.activation])
def test_a_norm_with_a_nonlinearity_replaces_the_relu_after_it(name):
    (own,) = norms.TABLE[name].activation
    params = variables(depth=8, width=8, norm=name)["params"]
    block = params["stage1_first"]
    assert own in params["stem_norm1"]
    assert own in block["norm1"]
    # The addition follows norm2, and the ReLU after it stays.
    assert own not in block["norm2"]
    # A thresholded unit lets negative numbers through where its threshold is below them; a ReLU behind it would not.
    if name == "filter_response":
        x, model = jnp.asarray(IMAGES), ResNet(ResNetConfig(depth=8, width=8, norm=name))
        params["stem_norm1"] |= {"threshold": jnp.full(8, -5.0)}
        logits, seen = model.apply(
            {"params": params}, x, capture_intermediates=lambda module, _: module.name == "stem_norm1"
        )
        stem = seen["intermediates"]["stem_norm1"]["__call__"][0]
        assert stem.min() < -0.5
        clipped = {**params, "stem_norm1": params["stem_norm1"] | {"threshold": jnp.zeros(8)}}
        assert not np.allclose(logits, model.apply({"params": clipped}, x))
