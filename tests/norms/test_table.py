"""Every row of the axis table: against numpy in float64, on several devices, and the invariances that it claims."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
def test_every_row_and_its_gradient_equal_its_papers_formula(name):
    direction, weights = RANDOM.normal(size=(2, *SHAPE))
    with jax.enable_x64(True):
        # r and d of batch renorm are constants to the gradient.
        unheld = {"running": None} if name == "batch_renorm" else {}

        def results(x):
            options = [{}, {"activation": "relu"}, {"residual": x}, {"residual": x, "activation": "relu"}]
            gradient = jax.grad(lambda x: jnp.sum(run(name, x, **unheld)[0] * weights))(x)
            return [run(name, x, **own)[0] for own in options], gradient, run(name, x.astype(jnp.float32))[0]

        (y, rectified, summed, both), gradient, narrow = jax.jit(results)(jnp.asarray(X))
    np.testing.assert_allclose(y, reference(name, X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(summed, np.asarray(y) + X, rtol=1e-12, atol=1e-12)
    # A norm that brings its own nonlinearity has it in place of another.
    then = (lambda y: y) if TABLE[name].activation else (lambda y: np.maximum(y, 0))
    np.testing.assert_allclose(rectified, then(y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(both, then(summed), rtol=1e-12, atol=1e-12)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, y, rtol=0, atol=1e-5 * np.abs(y).max())

    def value(x):
        return np.sum(reference("batch" if name == "batch_renorm" else name, x) * weights)

    step = 1e-6
    slope = (value(X + step * direction) - value(X - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-5)


def test_renorm_passes_no_gradient_through_its_corrections():
    x = jnp.asarray(X, jnp.float32)
    own = norms.moments(x, (0, 1, 2))
    r = np.clip(np.sqrt(own.var + EPSILON) / np.sqrt(RUNNING.var + EPSILON), 1 / 3, 3)
    of_renorm = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(X) * run("batch_renorm", x)[0])))(x)
    of_batch = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(X) * r * run("batch", x)[0])))(x)
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

    def without_any(x):
        return jnp.sum(run(name, x, where=jnp.zeros((1, 1, 1, 1), bool))[0])

    @jax.jit
    def results(x):
        finite = jnp.asarray(X, jnp.float32)
        of_parts = [jax.grad(function, has_aux=True)(x) for function, x in ((masked, x), (sliced, x[kept, :6]))]
        return *of_parts, jax.value_and_grad(without_any)(finite)

    (gradient, y), (expected_gradient, expected), nothing = results(x)
    np.testing.assert_allclose(y[kept, :6], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[kept, :6], expected_gradient, rtol=1e-3, atol=1e-4)
    if TABLE[name].form is forms.standardized:
        np.testing.assert_array_equal(np.asarray(gradient)[~np.broadcast_to(COUNTED, SHAPE)], 0)
    # Documented: moments of no element are mean 0 and variance 0, so y is finite and its gradient too.
    assert all(np.isfinite(value).all() for value in nothing)


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
    expected = jax.jit(lambda x: run(name, x, where=where)[0])(x)

    def shard(x, where):
        return run(name, x, where=where, axis_name="data")[0]

    spread = P(*(["data" if at == axis else None for at in range(4)]))
    sharded = jax.jit(jax.shard_map(shard, mesh=MESH, in_specs=(spread, spread), out_specs=spread))
    results = {"shard_map": sharded(x, where)}
    if name in ("batch", "group"):
        parts = [jnp.stack(jnp.split(array, 8, axis=axis)) for array in (x, where)]
        for kind, mapped in (("pmap", jax.pmap), ("vmap", jax.vmap)):
            results[kind] = jnp.concatenate(list(np.asarray(mapped(shard, axis_name="data")(*parts))), axis)
    for kind, y in results.items():
        # Rows that a device leaves out entirely are compared too: they are normalized with what the others found.
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=kind)


def test_nested_maps_and_shards_equal_a_loop():
    """Three members, each of eight shards: value and gradient, with the members inside and outside of the shards."""
    members = jnp.asarray(RANDOM.normal(0.7, 1.5, (3, *SHAPE)), jnp.float32)
    weights = jnp.asarray(RANDOM.normal(size=(3, *SHAPE)), jnp.float32)

    def total(x, weight, axis_name=None):
        return jnp.sum(run("batch_instance", x, axis_name=axis_name)[0] * weight)

    of_one = jax.jit(jax.grad(total))
    expected = jnp.stack([of_one(x, weight) for x, weight in zip(members, weights, strict=True)])
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


# Of the numbers of a change: one for all of x, or one for each example or channel.
NUMBERS = {"": (1, 1, 1, 1), "example": (8, 1, 1, 1), "channel": (1, 1, 1, 12)}


@pytest.mark.parametrize("name", TABLE)
def test_invariant_to_what_its_row_says_and_to_nothing_else(name):
    """Measured with epsilon = 0."""
    x, inputs = RANDOM.normal(0.4, 1.3, SHAPE), []
    for change in get_args(Change):
        is_scale, shape = change.endswith("scale"), NUMBERS[change.rpartition(" ")[0]]
        amounts = np.exp(RANDOM.uniform(-2, 2, shape)) if is_scale else RANDOM.uniform(-3, 3, shape)
        inputs.append(x * amounts if is_scale else x + amounts)
    with jax.enable_x64(True):
        outputs = jax.jit(jax.vmap(lambda x: run(name, x, epsilon=0.0)[0]))(np.stack([x, *inputs]))
    for change, y in zip(get_args(Change), outputs[1:], strict=True):
        moved = np.abs(y - outputs[0]).max() / np.abs(outputs[0]).max()
        assert moved < 1e-9 if change in TABLE[name].about.invariant else moved > 1e-4, change


@pytest.mark.parametrize("name", TABLE)
def test_the_module_trains_evaluates_and_keeps_what_its_row_says(name):
    spec, x = norms.find_spec(name, GROUPS, PARTS, EPSILON), jnp.asarray(X, jnp.float32)
    module, evaluation = layers.Norm(spec), layers.Norm(spec, use_running_average=True)
    of_one = layers.Norm(replace(spec, sub_batches=1), use_running_average=True)

    @jax.jit
    def results(x):
        held = module.init(jax.random.key(0), x, activation="relu")
        y, after = module.apply(held, x, activation="relu", mutable=["batch_stats"])
        first = Moments(jnp.zeros(12), jnp.ones(12), jnp.ones(())) if spec.running else None
        expected = norms.normalization(x, spec, held.get("params"), running=first, activation="relu")[0]
        evaluated, alone = (
            network.apply({**held, **after}, x, activation="relu") for network, x in ((evaluation, x), (of_one, x[:1]))
        )
        return held, after, (y, expected), (evaluated[:1], alone)

    held, after, in_training, in_evaluation = results(x)
    own = {parameter.name for parameter in spec.parameters}
    assert set(held.get("params", {})) == {*spec.affine, *own}
    # Without an activation to replace, the parameters of its own are left out.
    linear = jax.eval_shape(module.init, jax.random.key(0), x).get("params", {})
    assert set(linear) == {*spec.affine, *own} - set(spec.activation)
    assert ("batch_stats" in held) == spec.running
    np.testing.assert_allclose(*in_training, rtol=1e-5, atol=1e-6)
    # In evaluation no example's output depends on another example: not even on how many there are.
    np.testing.assert_allclose(*in_evaluation, rtol=1e-5, atol=1e-5)
    if spec.running:
        means = np.mean([part.mean((0, 1, 2)) for part in np.split(X, PARTS)], 0)
        np.testing.assert_allclose(after["batch_stats"]["mean"], 0.1 * means, rtol=1e-4, atol=1e-5)
        variance = np.mean([part.var((0, 1, 2)) for part in np.split(X, spec.sub_batches)], 0)
        if spec.var_over:  # that of all channels, each about its own mean
            variance = np.full(12, variance.mean())
        np.testing.assert_allclose(after["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)
