"""The CPU's normalization, whose gradient is written out, against the plain one, which autodiff differentiates."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres import norms

pytest.importorskip("normres.cpu")
from normres.cpu import normalization as module
from normres.cpu.normalization import normalization
from normres.cpu.ops import XLA

SHAPE, EPSILON = (4, 3, 2, 6), 1e-2
RANDOM = np.random.default_rng(0)
X, WEIGHTS, RESIDUAL = RANDOM.normal(0.5, 1.0, (3, *SHAPE))
MASK = RANDOM.random(SHAPE) < 0.6
MIDDLE = {"scale": RANDOM.normal(1, 0.3, (3, 1, 1)), "bias": RANDOM.normal(size=(3, 1, 6))}

# name: (changes of the row, scale and bias, options)
AFFINE = {"scale": RANDOM.normal(1, 0.3, 6), "bias": RANDOM.normal(size=6)}
CASES = {
    "batch": ({}, AFFINE, {}),
    "batch, masked": ({}, AFFINE, {"where": MASK}),
    "batch, channels in the middle": ({"channel_axis": 1}, MIDDLE, {}),
    "batch, a ReLU after it": ({}, AFFINE, {"activation": "relu"}),
    "batch, an addition and a ReLU after it": ({}, AFFINE, {"residual": RESIDUAL, "activation": "relu"}),
    "instance, conditional": ({}, {"scale": RANDOM.normal(size=(4, 1, 1, 6))}, {}),
    "layer, one scale, masked": ({}, {"scale": RANDOM.normal(size=())}, {"where": MASK[..., :1]}),
    "layer, spatial": ({}, {"scale": RANDOM.normal(size=SHAPE[1:]), "bias": RANDOM.normal(size=(3, 1, 1))}, {}),
    "group": ({"groups": 3}, AFFINE, {}),
    "group, masked": ({"groups": 3}, AFFINE, {"where": MASK}),
    "ghost_batch": ({"sub_batches": 2}, AFFINE, {"activation": "relu"}),
    "rms, masked groups": ({"groups": 3}, {"scale": AFFINE["scale"]}, {"where": MASK}),
    "positional": ({}, {}, {}),
    "batch, not centred": ({"center": False}, AFFINE, {}),
}
# Whose second derivatives are compared too.
TWICE = ("batch, masked", "batch, an addition and a ReLU after it", "group")


def case(name):
    """Returns f(normalization, x, params) -> (y, mean, var), and the params."""
    changes, params, options = CASES[name]
    spec = replace(norms.TABLE[name.partition(",")[0]], epsilon=EPSILON, **changes)

    def run(function, x, params):
        y, computed = function(x, spec, params, **options)
        return y, computed.mean, computed.var

    return run, params


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def close(computed, expected, tolerance=1e-10):
    for one, other in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_second_derivatives_are_the_plain_ones(name):
    run, params = case(name)

    def both(function):
        def loss(point):
            y, mean, var = run(function, *point)
            return jnp.sum(jnp.sin(y) * WEIGHTS) + jnp.sum(jnp.cos(mean)) + jnp.sum(jnp.sin(var)), (y, mean, var)

        def slope(point):
            gradient, values = jax.grad(loss, has_aux=True)(point)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gradient)), (gradient, values)

        return jax.grad(slope, has_aux=True) if name in TWICE else lambda point: (0.0, slope(point)[1])

    computed, expected = jax.jit(lambda point: [both(f)(point) for f in (normalization, norms.normalization)])(
        (jnp.asarray(X), params)
    )
    close(computed, expected, 1e-8)
    close(computed[1], expected[1])


@pytest.mark.usefixtures("float64")
def test_vmap_adds_a_batch_of_gradients():
    run, params = case("group, masked")

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(run(normalization, x, params)[0]) * WEIGHTS))(x)

    several = jnp.stack([X, 2 * X + WEIGHTS])
    close(*jax.jit(lambda several: (jax.vmap(gradient)(several), jnp.stack([gradient(x) for x in several])))(several))


@pytest.mark.parametrize("where", [None, np.ones(SHAPE, bool)], ids=["plain", "masked"])
def test_float32_far_from_zero_is_float64_rounded(where):
    x, spec = np.float32(1e4 + X), replace(norms.TABLE["batch"], epsilon=EPSILON)
    exact = x.astype(np.float64)
    y, computed = jax.jit(partial(normalization, spec=spec, where=where))(x)
    centred = exact - exact.mean((0, 1, 2))
    np.testing.assert_allclose(y, centred / np.sqrt(centred.var((0, 1, 2)) + EPSILON), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(computed.var.ravel(), centred.var((0, 1, 2)), rtol=1e-5)


def test_no_value_under_the_mask_harms():
    spoilt = jnp.asarray(np.where(MASK, X, np.resize([np.inf, -np.inf, np.nan], SHAPE)), jnp.float32)
    spec = norms.find_spec("batch", epsilon=EPSILON)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.where(MASK, normalization(x, spec, where=MASK)[0] * WEIGHTS, 0)))(x)

    options = {"where": MASK}
    np.testing.assert_allclose(
        *(f(spoilt, spec, **options)[0] for f in (normalization, norms.normalization)), rtol=1e-5
    )
    expected = np.where(MASK, gradient(jnp.asarray(X, jnp.float32)), 0)
    np.testing.assert_allclose(np.where(MASK, gradient(spoilt), 0), expected, rtol=1e-5, atol=1e-6)


def test_an_infinity_spoils_its_own_statistic_alone():
    x = jnp.asarray(X, jnp.float32).at[0, 0, 0, 2].set(jnp.inf)
    y = normalization(x, norms.TABLE["batch"])[0]
    assert np.isnan(y[..., 2]).all()
    assert np.isfinite(np.delete(y, 2, -1)).all()


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_the_backward_pass_keeps_the_input_and_no_wide_copy_of_it(activation):
    x = jnp.asarray(X, jnp.bfloat16)

    def backward(x):
        return jax.vjp(lambda x: normalization(x, norms.TABLE["batch"], activation=activation)[0], x)[1]

    kept = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(backward, x)) if leaf.shape == SHAPE]
    assert kept == [jnp.bfloat16] * (2 if activation == "relu" else 1)  # the next convolution keeps the output anyway


def test_what_has_no_written_gradient_is_the_plain_norm(monkeypatch):
    monkeypatch.setattr(module, "_standardize", None)  # would fail if it were called
    x, running = jnp.asarray(X, jnp.float32), norms.Moments(jnp.zeros(6), jnp.ones(6), jnp.ones(()))
    functions = (normalization, norms.normalization)
    specs = [norms.find_spec(name, groups=3) for name in ("evonorm_s0", "extended_batch")]
    calls = [(spec, {}) for spec in specs] + [(norms.TABLE["batch"], {"running": running, "use_running": True})]
    calls += [(norms.TABLE["batch"], {"axis_name": "parts"})]
    for spec, options in calls:
        both = lambda x, spec=spec, options=options: [f(x, spec, **options)[0] for f in functions]  # noqa: E731
        np.testing.assert_array_equal(*jax.jit(jax.vmap(both, axis_name="parts"))(x[None]))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: normalization(x, norms.TABLE["batch"])[0],
        XLA.activation,
        lambda x: XLA.conv(x, jnp.ones((3, 3, 6, 2), jnp.float32)),
    ],
)
def test_forward_mode_is_refused(operation):
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(operation, (jnp.asarray(X, jnp.float32),), (jnp.asarray(X, jnp.float32),))
