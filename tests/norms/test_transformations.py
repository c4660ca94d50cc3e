"""Every norm under JAX's transformations: derivatives against finite differences, the others against a plain call.

All in float64 unless a test says otherwise.
"""

from functools import partial

import compare
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from normres import norms
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

close = partial(compare.close, tolerance=1e-10)

every_row = pytest.mark.parametrize("name", TABLE)
# Where every row would take long: one of each kind, with a mask or without.
KINDS = [("batch", MASK), ("ghost_batch", None), ("group", None), ("batch_instance", MASK), ("local_response", None)]
of_each_kind = pytest.mark.parametrize(("name", "where"), KINDS, ids=[name for name, _ in KINDS])


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


def inner(one, other):
    """Returns the inner product of two trees."""
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def number_of(function, seed=2):
    """Returns a function to a number that depends on every output of `function`, and not linearly."""

    def number(*arguments):
        y = function(*arguments)
        return jnp.sum(jnp.sin(y) * np.random.default_rng(seed).normal(size=y.shape))

    return number


def beside_differences(function, point, step=1e-5):
    """Returns first and second derivatives along a direction, each with its central difference.

    `function` takes a tree of arrays and returns an array.
    """
    random = np.random.default_rng(1)
    direction = jax.tree.map(lambda array: random.normal(size=np.shape(array)), point)
    ends = jax.tree.map(lambda at, to: jnp.stack([at + step * to, at - step * to]), point, direction)

    def difference(function):
        return jax.tree.map(lambda pair: (pair[0] - pair[1]) / (2 * step), jax.vmap(function)(ends))

    slope, gradient = difference(function), jax.grad(number_of(function))
    weights = random.normal(size=slope.shape)
    return {
        "jvp": (jax.jvp(function, (point,), (direction,))[1], slope),
        "vjp": (inner(jax.vjp(function, point)[1](weights)[0], direction), jnp.sum(slope * weights)),
        "jvp of grad": (jax.jvp(gradient, (point,), (direction,))[1], difference(gradient)),
    }


def second_of_two(function, *arrays):
    """Maps over two members, the second of them what is asked for."""
    return jax.vmap(function)(*(jnp.stack([jnp.sin(array), array]) for array in arrays))[1]


def beside_plain_calls(layer, x):
    """Returns pairs of transformations, each beside what jvp and grad of plain calls give."""

    def tangent(function):
        return jax.jvp(function, (x,), (DIRECTION,))[1]

    def along_direction(derivative):  # of an array of x's shape
        return jnp.einsum("...nhwc,nhwc", derivative, DIRECTION, precision="highest")

    def scanned(x):
        return lax.scan(lambda _, x: (None, jax.checkpoint(layer)(x)), None, jnp.stack([jnp.sin(x), x]))[1][1]

    gradient = jax.grad(number_of(layer))
    forward, curvature = jax.jacfwd(layer)(x), tangent(gradient)
    return {
        "linearize": (jax.linearize(layer, x)[1](DIRECTION), tangent(layer)),
        "vjp of vjp": (jax.grad(lambda x: inner(gradient(x), DIRECTION))(x), curvature),
        "jacfwd": (along_direction(forward), tangent(layer)),
        "jacrev": (jax.jacrev(layer)(x), forward),
        "hessian": (along_direction(jax.hessian(number_of(layer))(x)), curvature),
        "vmap of grad of jit": (second_of_two(jax.grad(number_of(jax.jit(layer))), x), gradient(x)),
        "grad of vmap": (jax.grad(number_of(lambda x: second_of_two(layer, x)))(x), gradient(x)),
        "jvp of grad of scan of checkpoint": (tangent(jax.grad(number_of(scanned))), curvature),
    }


def check_each(pairs, tolerance):
    for name, (computed, expected) in pairs.items():
        close(computed, expected, tolerance=tolerance, name=name)


@every_row
def test_derivatives_equal_differences(name):
    def outputs(point):
        """Output and statistics; without running averages, from which batch renorm takes what it holds constant."""
        y, computed = run(name, *point, MASK)
        return jnp.stack([y, *(jnp.broadcast_to(value, SHAPE) for value in (computed[:2] if computed else ()))])

    check_each(jax.jit(lambda point: beside_differences(outputs, point))((X, parameters(name))), 1e-6)


@pytest.mark.parametrize(("name", "where"), [("batch", MASK), ("group", None), ("filter_response", None)])
def test_pairs_of_transformations(name, where):
    def layer(x):
        return run(name, x, parameters(name), where, running=RUNNING)[0]

    check_each(jax.jit(lambda x: beside_plain_calls(layer, x))(X), 1e-9)


@pytest.mark.parametrize("name", sorted(set(kernels.TABLE) - {"spectral"}))  # it holds its singular vectors constant
def test_derivatives_of_kernels_equal_finite_differences(name):
    def outputs(point):
        return kernels.TABLE[name].apply(*point, None)[0]

    point = RANDOM.normal(0.3, 1.0, (2, 2, 3)), RANDOM.normal(1.0, 0.2, 3)
    check_each(jax.jit(lambda point: beside_differences(outputs, point))(point), 1e-6)


def test_the_variance_of_equal_numbers_has_its_second_derivative():
    # var = E[x^2] - E[x]^2 everywhere, so its second derivative is 2 / n - 2 / n^2 on the diagonal, -2 / n^2 beside it.
    hessian = jax.jit(jax.hessian(lambda x: norms.moments(x, (0,)).var[0]))(jnp.zeros(4))
    close(hessian, 0.5 * np.eye(4) - 0.125)


@every_row
def test_bfloat16_equals_float64(name):
    x, dy = jnp.asarray(X, jnp.bfloat16), jnp.asarray(WEIGHTS, jnp.bfloat16)
    params = {key: jnp.asarray(value, jnp.float32) for key, value in parameters(name).items()}

    def value_and_gradients(x, params):
        y, pullback = jax.vjp(lambda *given: run(name, *given, MASK)[0], x, params)
        return y, *pullback(dy.astype(y.dtype))

    exact = jax.tree.map(lambda array: array.astype(jnp.float64), (x, params))
    computed, expected = jax.jit(lambda *pair: [value_and_gradients(*given) for given in pair])((x, params), exact)
    assert jax.tree.map(lambda leaf: leaf.dtype, computed) == jax.tree.map(lambda leaf: leaf.dtype, (x, x, params))
    close(computed, expected, tolerance=1e-2)


def gradient_and_its_tangent(function, x, direction):
    return jax.jvp(jax.value_and_grad(function), (x,), (direction,))


@of_each_kind
def test_examples_on_two_devices_equal_one_array(name, where):
    """In shard_map, which checks what varies: gradients inside of it, and second derivatives through it."""
    spec, params = TABLE[name], parameters(name)
    # A device has as many examples as a sub-batch.
    options = {"parts": 1} if spec.sub_batches > 1 else {"axis_name": "data" if spec.over_examples else None}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    data, all_devices = P("data"), P()
    x, direction, *others = map(jnp.asarray, (X, DIRECTION, WEIGHTS, np.ones(SHAPE, bool) if where is None else where))

    def shard_loss(params, x, weights, counted):
        computed = loss(name, x, params, None if where is None else counted, weights, **options)
        return lax.psum(computed, "data")

    def inside(params, *arrays):
        return jax.grad(shard_loss, (0, 1))(params, *arrays)

    def sharded(function, out_specs):
        specs = (all_devices, data, data, data)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=True)

    def sharded_and_plain(params, x):
        total, whole = sharded(shard_loss, all_devices), partial(loss, name, where=where)
        pairs = [
            gradient_and_its_tangent(of_x, x, direction)
            for of_x in (lambda x: total(params, x, *others), lambda x: whole(x, params))
        ]
        of_params = sharded(inside, (all_devices, data))(params, x, *others), jax.grad(whole, (1, 0))(x, params)
        return list(zip(pairs, of_params, strict=True))

    close(*jax.jit(sharded_and_plain)(params, x))


@of_each_kind
def test_sharded_arrays_on_a_mesh_of_explicit_axes(name, where):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    assert mesh.axis_types == (AxisType.Explicit,)

    def number(x, where):
        return loss(name, x, parameters(name), where)

    def results(by_examples, by_rows, by_channels):
        """The first with its derivatives; sharded in other ways the value only."""
        x, where = by_examples
        return (
            gradient_and_its_tangent(lambda x: number(x, where), x, DIRECTION),
            number(*by_rows),
            number(*by_channels),
        )

    expected = jax.jit(lambda x: gradient_and_its_tangent(lambda x: number(x, where), x, DIRECTION))(X)
    with jax.set_mesh(mesh):
        shardings = [NamedSharding(mesh, P(*axes)) for axes in (["data"], [None, "data"], [None, None, None, "data"])]
        placed = [jax.device_put((X, where), sharding) for sharding in shardings]
        computed, *values = jax.jit(results)(*placed)
        assert computed[0][1].sharding.is_equivalent_to(shardings[0], 4)
        close(computed, expected)
        close(values, [expected[0][0]] * 2)


@every_row
def test_exported_with_its_gradient_for_any_batch_size(name):
    """Lowered for every row; the numbers are compared for one of each kind."""
    shape = jax.export.symbolic_shape(f"{PARTS if TABLE[name].sub_batches > 1 else 1}*b, 2, 2, 4")

    def results(x, where):
        return jax.value_and_grad(lambda x: loss(name, x, parameters(name), where, 1.0))(x)

    where = dict(KINDS).get(name, MASK)
    given = [jax.ShapeDtypeStruct(shape, jnp.float64), None if where is None else jax.ShapeDtypeStruct(shape, bool)]
    exported = jax.export.export(jax.jit(results))(*given)
    if name in dict(KINDS):
        arrays = [None if array is None else np.resize(array, (6, *SHAPE[1:])) for array in (X, where)]
        close(exported.call(*arrays), jax.jit(results)(*arrays))
