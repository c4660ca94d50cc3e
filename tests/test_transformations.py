"""Every norm under JAX's transformations: derivatives against finite differences, the others against a plain call.

All in float64 unless a test says otherwise.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from normres import layers, norms
from normres.norms import TABLE, kernels

SHAPE = (4, 2, 2, 4)
GROUPS, PARTS, EPSILON = 2, 2, 1e-2
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0.7, 1.5, SHAPE)
DIRECTION, WEIGHTS = RANDOM.normal(size=(2, *SHAPE))
MASK = RANDOM.random(SHAPE) < 0.7
MASK[0, :, :, :2] = False  # some statistics have no element
RUNNING = norms.Moments(RANDOM.normal(0.7, 0.3, 4), RANDOM.uniform(1, 3, 4), np.ones(()))
PARAMETERS = {
    "scale": RANDOM.normal(1.0, 0.3, 4),
    "bias": RANDOM.normal(size=4),
    "threshold": RANDOM.normal(size=4),
    "v": RANDOM.uniform(0.5, 2, 4),
    "gate": RANDOM.uniform(0.2, 0.8, 4),
    "mean_logits": RANDOM.normal(size=3),
    "var_logits": RANDOM.normal(size=3),
}

every_row = pytest.mark.parametrize("name", TABLE)
masked_and_not = pytest.mark.parametrize("where", [None, MASK], ids=["whole", "masked"])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def parameters(name):
    spec = TABLE[name]
    return {key: PARAMETERS[key] for key in (*spec.affine, *(own.name for own in spec.parameters))}


def run(name, x, params, where=None, *, parts=PARTS, running=None, axis_name=None):
    spec = norms.find_spec(name, GROUPS, parts, EPSILON)
    return norms.normalization(x, spec, params, running=running, where=where, axis_name=axis_name)


def loss(name, x, params, where=None, weights=WEIGHTS, **options):
    """A number that depends on every element of the output, and not linearly."""
    options = {"running": RUNNING if name == "batch_renorm" else None} | options
    return jnp.sum(jnp.sin(run(name, x, params, where, **options)[0]) * weights)


def close(found, expected, tolerance=1e-10):
    """Compares every leaf, relative to its largest expected value."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other, np.float64)
        assert one.shape == other.shape
        largest = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=0, atol=tolerance * largest)


def differences(function, point, step=1e-5):
    """Returns the Jacobian of a function of a vector by central differences, (outputs..., inputs)."""
    steps = step * np.eye(point.size)
    up, down = (jax.vmap(function)(jnp.asarray(np.asarray(point) + sign * steps)) for sign in (1, -1))
    return np.moveaxis((np.asarray(up) - np.asarray(down)) / (2 * step), 0, -1)


def check_derivatives(function, point):
    """Compares first and second derivatives of a function of vectors, in every mode, with finite differences."""
    direction = np.random.default_rng(1).normal(size=point.size)
    jacobian = differences(function, point)
    close(jax.jacfwd(function)(point), jacobian, 1e-7)
    close(jax.jacrev(function)(point), jacobian, 1e-7)
    close(jax.jvp(function, (point,), (direction,))[1], jacobian @ direction, 1e-7)
    close(jax.linearize(function, point)[1](direction), jacobian @ direction, 1e-7)

    def scalar(point):
        return jnp.sum(jnp.sin(function(point)) * np.random.default_rng(2).normal(size=len(jacobian)))

    hessian = differences(jax.grad(scalar), point)
    close(jax.hessian(scalar)(point), hessian, 1e-6)
    close(jax.jacrev(jax.grad(scalar))(point), hessian, 1e-6)


@masked_and_not
@every_row
def test_derivatives_of_output_and_statistics_equal_finite_differences(name, where):
    point, unravel = ravel_pytree((X, parameters(name)))

    def outputs(point):
        return ravel_pytree(run(name, *unravel(point), where))[0]

    # Without running averages: batch renormalization holds what it takes from them constant.
    check_derivatives(outputs, point)


@pytest.mark.parametrize("name", sorted(set(kernels.TABLE) - {"spectral"}))  # it holds its singular vectors constant
def test_derivatives_of_kernels_equal_finite_differences(name):
    kernel = RANDOM.normal(0.3, 1.0, (2, 2, 3))
    point, unravel = ravel_pytree((kernel, RANDOM.normal(1.0, 0.2, 3)))

    def outputs(point):
        kernel, scale = unravel(point)
        return kernels.TABLE[name].apply(kernel, scale, None, True)[0].ravel()

    check_derivatives(outputs, point)


def test_the_variance_of_equal_numbers_has_its_second_derivative():
    # var = E[x^2] - E[x]^2 everywhere, so its second derivative is 2 / n - 2 / n^2 on the diagonal, -2 / n^2 beside it.
    hessian = jax.hessian(lambda x: norms.moments(x, (0,)).var[0])(jnp.zeros(4))
    close(hessian, 0.5 * np.eye(4) - 0.125)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@masked_and_not
@every_row
def test_float32_and_bfloat16_equal_float64(name, where, dtype, tolerance):
    x = jnp.asarray(X, dtype)
    params = {key: jnp.asarray(value, jnp.float32) for key, value in parameters(name).items()}
    exact = jax.tree.map(lambda array: array.astype(jnp.float64), (x, params))

    def value_and_gradients(x, params):
        y = run(name, x, params, where)[0]
        gradients = jax.grad(lambda *z: loss(name, *z, where), (0, 1))(x, params)
        assert [leaf.dtype for leaf in jax.tree.leaves((y, gradients))] == [
            leaf.dtype for leaf in jax.tree.leaves((x, x, params))
        ]
        return y, *gradients

    close(value_and_gradients(x, params), value_and_gradients(*exact), tolerance)


def through_two(layer, x):
    return layer(layer(x))


def scanned(layer, x):
    return lax.scan(lambda x, _: (layer(x), None), x, length=2)[0]


# Pairs of transformations, as functions of (layer, x, direction), and what they must equal: the gradient of the sum
# of the sines of the layer applied twice, or how that gradient moves along the direction.
def of_sines(function):
    return jax.grad(lambda x: jnp.sum(jnp.sin(function(x)) * WEIGHTS))


def tangent(function, x, direction):
    return jax.jvp(function, (x,), (direction,))[1]


def stacked(function, *arrays):
    """Maps over two members, the second of them what is asked for."""
    return jax.vmap(function)(*(jnp.stack([jnp.sin(array), array]) for array in arrays))[1]


def batched(layer, x):
    return stacked(layer, x)


FIRST = {
    "grad of jit": lambda layer, x, t: of_sines(lambda x: through_two(jax.jit(layer), x))(x),
    "grad of scan": lambda layer, x, t: of_sines(lambda x: scanned(layer, x))(x),
    "grad of checkpoint": lambda layer, x, t: of_sines(lambda x: through_two(jax.checkpoint(layer), x))(x),
    "grad of vmap": lambda layer, x, t: of_sines(lambda x: through_two(lambda x: batched(layer, x), x))(x),
    "vmap of grad": lambda layer, x, t: stacked(of_sines(lambda x: through_two(layer, x)), x),
}
SECOND = {
    "jvp of grad of scan of checkpoint": lambda layer, x, t: tangent(
        of_sines(lambda x: scanned(jax.checkpoint(layer), x)), x, t
    ),
    "vmap of jvp of grad": lambda layer, x, t: stacked(
        lambda x, t: tangent(of_sines(lambda x: through_two(layer, x)), x, t), x, t
    ),
    "grad of jvp of jit": lambda layer, x, t: jax.grad(
        lambda x: tangent(lambda x: jnp.sum(jnp.sin(through_two(jax.jit(layer), x)) * WEIGHTS), x, t)
    )(x),
}


@masked_and_not
@every_row
def test_pairs_of_transformations_change_nothing(name, where):
    running = RUNNING if name == "batch_renorm" else None

    def layer(x):
        return run(name, x, parameters(name), where, running=running)[0]

    plain = of_sines(lambda x: through_two(layer, x))
    first, second = plain(X), tangent(plain, X, DIRECTION)
    for expected, pairs in ((first, FIRST), (second, SECOND)):
        for pair, transformed in pairs.items():
            found = transformed(layer, jnp.asarray(X), DIRECTION)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=pair)


def gradient_and_its_tangent(function, x, direction):
    return jax.jvp(jax.value_and_grad(function), (x,), (direction,))


@masked_and_not
@every_row
def test_examples_on_two_devices_equal_one_array(name, where):
    """In shard_map, which checks what varies: gradients inside of it, and second derivatives through it."""
    spec, params = TABLE[name], parameters(name)
    # A device has as many examples as a sub-batch.
    options = {"parts": 1} if spec.sub_batches > 1 else {"axis_name": "data" if spec.over_examples else None}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    data, all_devices = P("data"), P()
    arrays = (X, WEIGHTS, np.ones(SHAPE, bool) if where is None else where)

    def shard_loss(params, x, weights, counted):
        found = loss(name, x, params, None if where is None else counted, weights, **options)
        return lax.psum(found, "data")

    def inside(params, *arrays):
        return jax.grad(shard_loss, (0, 1))(params, *arrays)

    def sharded(function, out_specs):
        specs = (all_devices, data, data, data)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=True)

    found = jax.jit(sharded(inside, (all_devices, data)))(params, *arrays)
    close(found, jax.grad(lambda *z: loss(name, z[1], z[0], where), (0, 1))(params, X))
    total = sharded(shard_loss, all_devices)
    through = jax.jit(lambda x: gradient_and_its_tangent(lambda x: total(params, x, *arrays[1:]), x, DIRECTION))
    close(through(X), gradient_and_its_tangent(lambda x: loss(name, x, params, where), X, DIRECTION))


@masked_and_not
@every_row
def test_sharded_arrays_on_a_mesh_of_explicit_axes(name, where):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    assert mesh.axis_types == (AxisType.Explicit,)

    def results(x, where):
        return gradient_and_its_tangent(lambda x: loss(name, x, parameters(name), where), x, DIRECTION)

    expected = results(X, where)
    with jax.set_mesh(mesh):
        for axis in ("data",), (None, "data"), (None, None, None, "data"):  # examples, rows, channels
            sharding = NamedSharding(mesh, P(*axis))
            placed = [None if array is None else jax.device_put(array, sharding) for array in (X, where)]
            found = jax.jit(results)(*placed)
            assert found[0][1].sharding.spec[: len(axis)] == P(*axis)[: len(axis)]
            close(found, expected)


@masked_and_not
@every_row
def test_exported_for_any_batch_size(name, where):
    examples = f"{PARTS}*b" if TABLE[name].sub_batches > 1 else "b"
    shape = jax.export.symbolic_shape(f"{examples}, 2, 2, 4")

    def results(x, where):
        return jax.value_and_grad(lambda x: loss(name, x, parameters(name), where, 1.0))(x)

    given = [jax.ShapeDtypeStruct(shape, jnp.float64), None if where is None else jax.ShapeDtypeStruct(shape, bool)]
    exported = jax.export.deserialize(jax.export.export(jax.jit(results))(*given).serialize())
    for count in (4, 6):
        arrays = [None if array is None else np.resize(array, (count, *SHAPE[1:])) for array in (X, where)]
        close(exported.call(*arrays), results(*arrays))
