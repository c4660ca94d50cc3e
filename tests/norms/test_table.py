"""Every row of the axis table: against numpy in float64, on several devices, and the invariances that it claims."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from normres import layers, norms
from normres.norms import TABLE, Moments, forms
from normres.norms.spec import Change

SHAPE = (8, 8, 4, 12)
GROUPS, PARTS, EPSILON = 3, 2, 1e-3
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0.7, 1.5, SHAPE) * np.exp(RANDOM.normal(size=(8, 1, 1, 12)))
SCALE, BIAS, V, GATE, THRESHOLD = (
    RANDOM.normal(size=12),
    RANDOM.normal(size=12),
    RANDOM.uniform(0.5, 2, 12),
    RANDOM.uniform(-0.2, 1.2, 12),
    RANDOM.normal(size=12),
)
LOGITS = RANDOM.normal(size=(2, 3))
RUNNING = Moments(RANDOM.normal(0.7, 0.3, 12), RANDOM.uniform(1, 6, 12), jnp.ones(()))
OWN = {
    "filter_response": {"threshold": THRESHOLD},
    "evonorm_s0": {"v": V},
    "evonorm_b0": {"v": V},
    "batch_instance": {"gate": GATE},
    "switchable": {"mean_logits": LOGITS[0], "var_logits": LOGITS[1]},
}


def parameters(name):
    """Everything that a row may need, away from its initial value."""
    affine = {key: value for key, value in (("scale", SCALE), ("bias", BIAS)) if key in TABLE[name].affine}
    return affine | OWN.get(name, {})


def standard(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def grouped(x, function):
    parts = [function(part) for part in np.split(x, GROUPS, axis=-1)]
    return np.concatenate([np.broadcast_to(part, (*x.shape[:-1], x.shape[-1] // GROUPS)) for part in parts], -1)


def switchable(x):
    axes = ((0, 1, 2), (1, 2), (1, 2, 3))
    mean = sum(w * x.mean(a, keepdims=True) for w, a in zip(softmax(LOGITS[0]), axes, strict=True))
    var = sum(w * x.var(a, keepdims=True) for w, a in zip(softmax(LOGITS[1]), axes, strict=True))
    return (x - mean) / np.sqrt(var + EPSILON)


def batch_renorm(x):
    own, kept = (np.sqrt(var + EPSILON) for var in (x.var((0, 1, 2)), RUNNING.var))
    r, d = np.clip(own / kept, 1 / 3, 3), np.clip((x.mean((0, 1, 2)) - RUNNING.mean) / kept, -5, 5)
    return standard(x, (0, 1, 2)) * r + d


def local_response(x):
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        window = x[..., max(0, c - 2) : c + 3]
        y[..., c] = x[..., c] / (2 + 1e-4 * (window**2).sum(-1)) ** 0.75
    return y


def evonorm_b0(x):
    batch = np.sqrt(x.var((0, 1, 2)) + EPSILON)
    return x / np.maximum(batch, V * x + np.sqrt(x.var((1, 2), keepdims=True) + EPSILON))


# Written from the papers' formulas, with numpy's own mean and var.
REFERENCES = {
    "batch": lambda x: standard(x, (0, 1, 2)),
    "extended_batch": lambda x: (x - x.mean((0, 1, 2))) / np.sqrt(np.mean((x - x.mean((0, 1, 2))) ** 2) + EPSILON),
    "instance": lambda x: standard(x, (1, 2)),
    "layer": lambda x: standard(x, (1, 2, 3)),
    "group": lambda x: grouped(x, lambda part: standard(part, (1, 2, 3))),
    "rms": lambda x: x / np.sqrt((x**2).mean((1, 2, 3), keepdims=True) + EPSILON),
    "positional": lambda x: standard(x, 3),
    "ghost_batch": lambda x: np.concatenate([standard(part, (0, 1, 2)) for part in np.split(x, PARTS)]),
    "batch_renorm": batch_renorm,
    "filter_response": lambda x: x / np.sqrt((x**2).mean((1, 2), keepdims=True) + EPSILON),
    "evonorm_s0": lambda x: (
        x / (1 + np.exp(-V * x)) / grouped(x, lambda part: np.sqrt(part.var((1, 2, 3), keepdims=True) + EPSILON))
    ),
    "evonorm_b0": evonorm_b0,
    "switchable": switchable,
    "batch_instance": lambda x: (
        np.clip(GATE, 0, 1) * standard(x, (0, 1, 2)) + (1 - np.clip(GATE, 0, 1)) * standard(x, (1, 2))
    ),
    "local_response": local_response,
    "none": lambda x: x,
}


def reference(name, x):
    y = REFERENCES[name](np.asarray(x, np.float64))
    if TABLE[name].affine:
        y = y * SCALE + (BIAS if "bias" in TABLE[name].affine else 0)
    return np.maximum(y, THRESHOLD) if name == "filter_response" else y


def run(name, x, epsilon=EPSILON, **options):
    spec = norms.find_spec(name, GROUPS, PARTS, epsilon)
    running = {"running": RUNNING} if spec.running else {}
    return norms.normalization(x, spec, parameters(name), **running | options)


@pytest.mark.parametrize("name", TABLE)
def test_every_row_equals_its_papers_formula(name):
    with jax.enable_x64(True):
        y, _ = run(name, jnp.asarray(X))
        rectified, _ = run(name, jnp.asarray(X), activation="relu")
        summed, _ = run(name, jnp.asarray(X), residual=jnp.asarray(X))
        both, _ = run(name, jnp.asarray(X), residual=jnp.asarray(X), activation="relu")
    np.testing.assert_allclose(y, reference(name, X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(summed, np.asarray(y) + X, rtol=1e-12, atol=1e-12)
    # A norm that brings its own nonlinearity has it in place of another.
    then = (lambda y: y) if TABLE[name].activation else (lambda y: np.maximum(y, 0))
    np.testing.assert_array_equal(rectified, then(y))
    np.testing.assert_array_equal(both, then(summed))
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)):
        x = jnp.asarray(X, dtype)
        y, _ = run(name, x)
        assert y.dtype == dtype
        expected = reference(name, np.asarray(x, np.float64))
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", TABLE)
def test_gradients_of_every_row_equal_differences_of_the_reference(name):
    direction, weights = RANDOM.normal(size=SHAPE), RANDOM.normal(size=SHAPE)
    with jax.enable_x64(True):
        running = {"running": None} if name == "batch_renorm" else {}  # r and d are constants to the gradient
        gradient = jax.grad(lambda x: jnp.sum(run(name, x, **running)[0] * weights))(jnp.asarray(X))
    reference_of = REFERENCES["batch"] if name == "batch_renorm" else REFERENCES[name]

    def value(x):
        y = reference_of(x)
        if TABLE[name].affine:
            y = y * SCALE + (BIAS if "bias" in TABLE[name].affine else 0)
        return np.sum((np.maximum(y, THRESHOLD) if name == "filter_response" else y) * weights)

    step = 1e-6
    slope = (value(X + step * direction) - value(X - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-5)


def test_renorm_passes_no_gradient_through_its_corrections():
    x = jnp.asarray(X, jnp.float32)
    own, (batch, _) = (norms.moments(x, (0, 1, 2)), run("batch", x))
    assert batch is not None
    r = np.clip(np.sqrt(own.var + EPSILON) / np.sqrt(RUNNING.var + EPSILON), 1 / 3, 3)
    of_renorm = jax.grad(lambda x: jnp.sum(jnp.sin(X) * run("batch_renorm", x)[0]))(x)
    of_batch = jax.grad(lambda x: jnp.sum(jnp.sin(X) * r * run("batch", x)[0]))(x)
    np.testing.assert_allclose(of_renorm, of_batch, rtol=1e-3, atol=1e-4)


# Examples 2, 3 of each half and the last rows do not count, and hold what no sum may meet.
COUNTED = ((np.arange(8) % 4 < 2)[:, None, None, None]) & ((np.arange(8) < 6)[:, None, None])


@pytest.mark.parametrize("name", TABLE)
def test_masked_equals_sliced_in_value_and_gradient(name):
    kept = np.arange(8) % 4 < 2
    x = jnp.asarray(np.where(COUNTED, X, np.inf), jnp.float32)
    weights = jnp.asarray(np.where(COUNTED, RANDOM.normal(size=SHAPE), 0), jnp.float32)

    def masked(x):
        y = run(name, x, where=jnp.asarray(COUNTED))[0]
        return jnp.sum(jnp.where(COUNTED, y, 0) * weights), y

    def sliced(x):
        y = run(name, x)[0]
        return jnp.sum(y * weights[kept, :6]), y

    gradient, y = jax.grad(masked, has_aux=True)(x)
    expected_gradient, expected = jax.grad(sliced, has_aux=True)(x[kept, :6])
    np.testing.assert_allclose(y[kept, :6], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[kept, :6], expected_gradient, rtol=1e-3, atol=1e-4)
    if TABLE[name].form is forms.standardized:
        np.testing.assert_array_equal(np.asarray(gradient)[~np.broadcast_to(COUNTED, SHAPE)], 0)


MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


# Positional norm is left out: it averages over nothing that devices share.
@pytest.mark.parametrize("name", [name for name, spec in TABLE.items() if set("NS") & set("".join(spec.reductions))])
def test_eight_shards_of_unequal_counts_equal_one_array(name):
    # Norms over N have examples on the devices; the others, and ghost norm, share each example's rows.
    axis = 0 if "N" in "".join(TABLE[name].reductions) and name != "ghost_batch" else 1
    member = np.arange(8).reshape((8, 1, 1, 1) if axis == 0 else (1, 8, 1, 1))
    # Of member i's four columns i % 5 count: two members have nothing to add.
    where = jnp.asarray(np.broadcast_to(np.arange(4)[:, None] < member % 5, SHAPE))
    x = jnp.asarray(X, jnp.float32)
    expected = run(name, x, where=where)[0]

    def shard(x, where):
        return run(name, x, where=where, axis_name="data")[0]

    spread = P(*(["data" if at == axis else None for at in range(4)]))
    sharded = jax.jit(jax.shard_map(shard, mesh=MESH, in_specs=(spread, spread), out_specs=spread))
    parts = [jnp.stack(jnp.split(array, 8, axis=axis)) for array in (x, where)]
    results = {"shard_map": sharded(x, where)}
    for kind, mapped in (("pmap", jax.pmap), ("vmap", jax.vmap)):
        results[kind] = jnp.concatenate(list(np.asarray(mapped(shard, axis_name="data")(*parts))), axis)
    for kind, y in results.items():
        # Rows that a device leaves out entirely are compared too: they are normalized with what the others found.
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", ["batch", "switchable"])
def test_nested_maps_and_shards_equal_a_loop(name):
    """Three members, each of eight shards: value and gradient, with the members inside and outside of the shards."""
    members = jnp.asarray(RANDOM.normal(0.7, 1.5, (3, *SHAPE)), jnp.float32)
    weights = jnp.asarray(RANDOM.normal(size=(3, *SHAPE)), jnp.float32)

    def total(x, weight, axis_name=None):
        return jnp.sum(run(name, x, axis_name=axis_name)[0] * weight)

    expected = jnp.stack([jax.grad(total)(x, weight) for x, weight in zip(members, weights, strict=True)])
    of_shard = jax.grad(lambda x, weight: total(x, weight, "data"))
    batch = P("data")
    outside = jax.vmap(jax.shard_map(of_shard, mesh=MESH, in_specs=(batch, batch), out_specs=batch))
    inner = P(None, "data")
    inside = jax.shard_map(jax.vmap(of_shard), mesh=MESH, in_specs=(inner, inner), out_specs=inner)
    by_device = [jnp.stack(jnp.split(array, 8, axis=1)) for array in (members, weights)]
    pmapped = jax.pmap(jax.vmap(of_shard), axis_name="data")(*by_device)
    results = {
        "vmap of shard_map": jax.jit(outside)(members, weights),
        "shard_map of vmap": jax.jit(inside)(members, weights),
        "pmap of vmap": jnp.concatenate(list(np.asarray(pmapped)), 1),
    }
    for how, gradient in results.items():
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4, err_msg=how)


CHANGES = {
    "scale": (1, 1, 1, 1),
    "shift": (1, 1, 1, 1),
    "example scale": (8, 1, 1, 1),
    "example shift": (8, 1, 1, 1),
    "channel scale": (1, 1, 1, 12),
    "channel shift": (1, 1, 1, 12),
}


def changed(name, change, seed):
    """How much y moves, relative to its size, when the input is changed; epsilon is 0."""
    random = np.random.default_rng(seed)
    shape = CHANGES[change]
    amounts = np.exp(random.uniform(-2, 2, shape)) if change.endswith("scale") else random.uniform(-3, 3, shape)
    x = random.normal(0.4, 1.3, SHAPE)
    with jax.enable_x64(True):
        one, other = (
            run(name, jnp.asarray(array), epsilon=0.0)[0]
            for array in (x, x * amounts if change.endswith("scale") else x + amounts)
        )
    return float(np.abs(one - other).max() / np.abs(one).max())


def test_every_change_is_tried():
    assert set(CHANGES) == set(get_args(Change))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=some.integers(0, 2**32 - 1))
def test_invariant_to_what_its_row_says_and_to_nothing_else(name, change, seed):
    moved = changed(name, change, seed)
    if change in TABLE[name].about.invariant:
        assert moved < 1e-9
    else:
        assert moved > 1e-4


@pytest.mark.parametrize("name", TABLE)
def test_nothing_counts(name):
    """Documented: moments of no element are mean 0 and variance 0, so y is finite and its gradient too."""
    x = jnp.asarray(X, jnp.float32)
    y, gradient = jax.value_and_grad(lambda x: jnp.sum(run(name, x, where=jnp.zeros((1, 1, 1, 1), bool))[0]))(x)
    assert np.isfinite(y)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", TABLE)
def test_the_module_trains_evaluates_and_keeps_what_its_row_says(name):
    spec, x = norms.find_spec(name, GROUPS, PARTS, EPSILON), jnp.asarray(X, jnp.float32)
    module = layers.Norm(spec)
    held = module.init(jax.random.key(0), x, activation="relu")
    own = {parameter.name for parameter in spec.parameters}
    assert set(held.get("params", {})) == {*spec.affine, *own}
    # Without an activation to replace, the parameters of its own are left out.
    linear = module.init(jax.random.key(0), x).get("params", {})
    assert set(linear) == {*spec.affine, *own} - set(spec.activation)
    assert ("batch_stats" in held) == spec.running
    y, after = module.apply(held, x, activation="relu", mutable=["batch_stats"])
    first = Moments(jnp.zeros(12), jnp.ones(12), jnp.ones(())) if spec.running else None
    expected = norms.normalization(x, spec, held.get("params"), running=first, activation="relu")[0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    evaluation = layers.Norm(spec, use_running_average=True)
    y = evaluation.apply({**held, **after}, x, activation="relu")
    # In evaluation no example's output depends on another example: not even on how many there are.
    alone = replace(spec, sub_batches=1)
    alone = layers.Norm(alone, use_running_average=True).apply({**held, **after}, x[:1], activation="relu")
    np.testing.assert_allclose(y[:1], alone, rtol=1e-5, atol=1e-5)
    if spec.running:
        means = np.mean([part.mean((0, 1, 2)) for part in np.split(X, PARTS)], 0)
        np.testing.assert_allclose(after["batch_stats"]["mean"], 0.1 * means, rtol=1e-4, atol=1e-5)
        variance = np.mean([part.var((0, 1, 2)) for part in np.split(X, spec.sub_batches)], 0)
        if spec.var_over:  # that of all channels, each about its own mean
            variance = np.full(12, variance.mean())
        np.testing.assert_allclose(after["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_running_averages_that_count():
    x = jnp.asarray(X, jnp.float32)
    for kind in ("cumulative", "debiased"):
        module = layers.Norm(TABLE["batch"], average=norms.Average(kind, unbiased=True))
        held = module.init(jax.random.key(0), x)
        for part in (x, x + 2.0):
            held |= module.apply(held, part, mutable=["batch_stats"])[1]
        assert held["batch_stats"]["updates"] == 2
        share = 0.5 if kind == "cumulative" else 0.1 / 0.19  # of the second: 0.1 of 0.09 + 0.1
        np.testing.assert_allclose(held["batch_stats"]["mean"], X.mean((0, 1, 2)) + 2 * share, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(held["batch_stats"]["var"], X.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_statistics_over_named_spatial_axes():
    y, computed = norms.normalization(jnp.asarray(X, jnp.float32), norms.find_spec("NHC", GROUPS, epsilon=0.0))
    groups = X.reshape(8, 8, 4, GROUPS, 4)
    expected = (groups - groups.mean((0, 1, 4), keepdims=True)) / groups.std((0, 1, 4), keepdims=True)
    np.testing.assert_allclose(y, expected.reshape(SHAPE), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(computed.count, 8 * 8 * 4)
