"""The Flax modules: equal to flax.linen's of the same name, and Norm to the axis table."""

from dataclasses import replace
from functools import partial

import compare
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres import layers
from normres.layers.ops import conv
from normres.norms import TABLE, Average, NormSpec


def draw(*shape, seed=0, mean=0.5, std=1.5):
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def close(actual, expected, tolerance=1e-5):
    """Compares arrays of one dtype."""
    assert actual.dtype == expected.dtype
    compare.close(actual, expected, tolerance)


ELEMENTS = np.random.default_rng(7).random((4, 3, 5, 6)) < 0.7
TRAIN = {"use_running_average": False}

# Module, its arguments where they differ from the defaults, and the input's dtype and mask where they do.
CASES = [
    ("BatchNorm", TRAIN | {"momentum": 0.7, "epsilon": 1e-2, "use_bias": False}, {}),
    ("BatchNorm", TRAIN | {"axis": (1, -1), "use_scale": False}, {}),
    ("BatchNorm", TRAIN | {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}, {"dtype": jnp.bfloat16}),
    ("BatchNorm", TRAIN, {"mask": ELEMENTS}),
    ("BatchNorm", {"use_running_average": True, "axis": (1, 3), "dtype": jnp.bfloat16}, {}),
    ("LayerNorm", {"reduction_axes": (1, 2, 3), "feature_axes": (1, -1), "epsilon": 1e-2}, {}),
    ("LayerNorm", {"reduction_axes": (-1, -3), "use_bias": False, "use_fast_variance": False}, {"mask": ELEMENTS}),
    ("LayerNorm", {"param_dtype": jnp.bfloat16}, {"dtype": jnp.bfloat16}),
    ("LayerNorm", {"use_scale": False, "use_bias": False}, {"dtype": jnp.int32}),
    ("GroupNorm", {"num_groups": None, "group_size": 3, "epsilon": 1e-2}, {}),
    ("GroupNorm", {"num_groups": 2, "reduction_axes": (1, -1), "dtype": jnp.bfloat16}, {}),
    ("GroupNorm", {"num_groups": 2}, {"mask": ELEMENTS}),
    ("GroupNorm", {"num_groups": 2}, {"shape": (6,)}),
    ("InstanceNorm", {"feature_axes": (1, 3), "epsilon": 1e-2}, {}),
    ("InstanceNorm", {"use_scale": False}, {"mask": ELEMENTS, "dtype": jnp.bfloat16}),
    ("RMSNorm", {"reduction_axes": (1, 2, 3), "feature_axes": (2, 3), "epsilon": 1e-2}, {}),
    ("RMSNorm", {"dtype": jnp.bfloat16}, {"mask": ELEMENTS}),
]


def case_id(case):
    name, arguments, call = case
    words = [f"{key}={value}" for key, value in arguments.items() if key != "use_running_average" or value]
    words += [key if key == "mask" else f"x.{key}={value}" for key, value in call.items()]
    return f"{name}({', '.join(words)})".replace("<class 'jax.numpy.", "").replace("'>", "")


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_flax(case):
    name, arguments, call = case
    # Initializers that differ from element to element, so that a transposed or swapped parameter shows.
    arguments = {"scale_init": nn.initializers.normal(1.0)} | arguments
    if name != "RMSNorm":
        arguments["bias_init"] = nn.initializers.normal(1.0)
    ours, theirs = getattr(layers, name)(**arguments), getattr(nn, name)(**arguments)
    x = jnp.asarray(draw(*call.get("shape", (4, 3, 5, 6))), call.get("dtype", jnp.float32))
    mask = call.get("mask")

    def run(module, variables, x):
        def loss(params, x):
            y, updated = module.apply({**variables, "params": params}, x, mask=mask, mutable=["batch_stats"])
            counted = y if mask is None else jnp.where(mask, y, 0)
            return jnp.sum(jnp.sin(counted.astype(jnp.float32))), (y, updated)

        argnums = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else 0
        gradients, (y, updated) = jax.grad(loss, argnums, has_aux=True)(variables.get("params", {}), x)
        return y, updated, gradients

    @jax.jit
    def results(x):
        initial = [module.init(jax.random.key(1), x) for module in (ours, theirs)]
        held = initial[1]
        if "batch_stats" in held:  # not their initial values, which evaluation would not notice
            held["batch_stats"] = jax.tree.map(
                lambda leaf: leaf + jnp.abs(jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype))).reshape(leaf.shape),
                held["batch_stats"],
            )
        # Flax's checkpoint in our module and in Flax's: the same variables go into both.
        return initial, [run(module, held, x) for module in (ours, theirs)]

    initial, ((y, updated, gradients), (expected_y, expected_updated, expected_gradients)) = results(x)
    # The same tree, shapes, dtypes and, from the same key, numbers.
    parameters, expected_parameters = (variables.get("params", {}) for variables in initial)
    assert jax.tree.structure(initial[0]) == jax.tree.structure(initial[1])
    jax.tree.map(partial(close, tolerance=0), parameters, expected_parameters)
    half = jnp.bfloat16 in (arguments.get("dtype"), call.get("dtype"), arguments.get("param_dtype"))
    close(y, expected_y, 1e-2 if expected_y.dtype == jnp.bfloat16 else 1e-5)
    assert jax.tree.structure(updated) == jax.tree.structure(expected_updated)
    jax.tree.map(close, updated, expected_updated)
    assert jax.tree.structure(gradients) == jax.tree.structure(expected_gradients)
    # In bfloat16 the cotangent is rounded at other places, 2^-9 each.
    jax.tree.map(partial(close, tolerance=2e-2 if half else 1e-5), gradients, expected_gradients)


def test_use_running_average_may_come_with_the_call():
    x = draw(4, 3, 5, 6)
    ours, theirs = layers.BatchNorm(), nn.BatchNorm()
    variables = ours.init(jax.random.key(0), x, use_running_average=True)
    for use_running_average in (True, False):
        y, expected = (
            module.apply(variables, x, use_running_average=use_running_average, mutable=["batch_stats"])
            for module in (ours, theirs)
        )
        jax.tree.map(close, y, expected)
    with pytest.raises(ValueError, match="use_running_average"):
        ours.apply(variables, x)


def test_merged_over_devices_as_flax_does():
    x = draw(8, 4, 3, 6)
    for name, arguments in [
        ("BatchNorm", TRAIN | {"axis_index_groups": [[0, 1, 2, 3], [4, 5, 6, 7]]}),
        ("GroupNorm", {"num_groups": 2}),
    ]:
        results = []
        for library in (layers, nn):
            module = getattr(library, name)(axis_name="data", **arguments)
            # Flax's LayerNorm and GroupNorm want the axis at initialization already.
            variables = getattr(nn, name)(**arguments).init(jax.random.key(0), x[0])
            apply = partial(module.apply, variables, mutable=["batch_stats"])
            results.append(jax.pmap(apply, axis_name="data")(x))
        jax.tree.map(close, *results)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (layers.GroupNorm(num_groups=4), "groups=4 does not divide 6 channels"),
        (layers.GroupNorm(), "groups=32 does not divide 6 channels"),
        (layers.GroupNorm(num_groups=2, group_size=3), "exactly one of num_groups and group_size"),
        (layers.GroupNorm(num_groups=None), "exactly one of num_groups and group_size"),
        (layers.GroupNorm(num_groups=None, group_size=4), "group_size=4 does not divide 6 channels"),
        (layers.GroupNorm(num_groups=2, reduction_axes=(1, 2)), r"reduction_axes=\(1, 2\) must contain the channels"),
        (layers.InstanceNorm(feature_axes=(0, -1)), r"feature_axes=\(0, -1\): axis 0 is the batch"),
        (layers.LayerNorm(reduction_axes=(1, 4)), "axis 4 is out of range for an array of 4 axes"),
        (layers.LayerNorm(feature_axes=-5), "axis -5 is out of range for an array of 4 axes"),
        (layers.BatchNorm(axis=4, use_running_average=False), "axis 4 is out of range for an array of 4 axes"),
    ],
)
def test_errors_name_what_is_wrong(module, message):
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), draw(4, 3, 5, 6))


def test_scale_and_bias_from_outside_are_those_that_the_norm_has():
    x = draw(4, 3, 5, 6)
    with pytest.raises(ValueError, match="affine: this norm has no bias; it has scale"):
        layers.Norm(TABLE["rms"]).init(jax.random.key(0), x, affine={"scale": x, "bias": x})


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_channels_that_are_not_last_are_refused(norm):
    module = layers.Norm(replace(TABLE[norm], channel_axis=1))
    with pytest.raises(ValueError, match=r"channel_axis=1: layers\.Norm has channels last"):
        module.init(jax.random.key(0), draw(2, 5, 5, 5))


@pytest.mark.parametrize(("kind", "share"), [("cumulative", 0.5), ("debiased", 0.1 / 0.19)])
def test_running_averages_count_batches_but_none_without_elements(kind, share):
    module, x = layers.Norm(TABLE["batch"], average=Average(kind, unbiased=True)), draw(4, 3, 5, 6)
    variables = module.init(jax.random.key(0), x)
    for part, mask in ((x, jnp.zeros((4, 1, 1, 1), bool)), (x, None), (x + 2, None)):
        variables |= module.apply(variables, part, mask=mask, mutable=["batch_stats"])[1]
    assert variables["batch_stats"]["updates"] == 2
    # `share` is that of the last batch; debiased it is 0.1 of 0.09 + 0.1.
    close(variables["batch_stats"]["mean"], x.mean((0, 1, 2)) + np.float32(2 * share))
    close(variables["batch_stats"]["var"], x.var((0, 1, 2), ddof=1))


def test_norm_of_groups_may_keep_running_averages():
    spec = NormSpec(over="NSC", groups=2, running=True)
    x = draw(4, 3, 5, 6)
    module = layers.Norm(spec, average=Average(momentum=0.0))
    variables = module.init(jax.random.key(0), x)
    y, updated = module.apply(variables, x, mutable=["batch_stats"])
    # Momentum 0 keeps the last statistics only, so evaluation gives what training gave.
    close(updated["batch_stats"]["mean"], np.repeat(x.reshape(-1, 2, 3).mean((0, 2)), 3))
    evaluation = layers.Norm(spec, use_running_average=True)
    close(evaluation.apply({**variables, **updated}, x), y)


@pytest.mark.parametrize("sub_batches", [1, 2])
def test_norm_without_a_centre_may_keep_running_averages(sub_batches):
    x = draw(6, 3, 4)
    module = layers.Norm(NormSpec(over="NS", center=False, running=True, sub_batches=sub_batches))
    variables = module.init(jax.random.key(0), x)
    _, changed = module.apply(variables, x, mutable=["batch_stats"])
    close(changed["batch_stats"]["mean"], np.zeros(4, np.float32))
    close(changed["batch_stats"]["var"], 0.9 + 0.1 * np.square(x).mean((0, 1)))


@pytest.mark.parametrize(("norm", "evaluated"), [("batch", True), ("ghost_batch", True), ("ghost_batch", False)])
def test_moments_of_the_input_are_stored_also_in_evaluation(norm, evaluated):
    x, mask = draw(8, 3, 5, 6), (np.arange(5) < 3)[:, None]
    module = layers.Norm(TABLE[norm], use_running_average=evaluated)
    variables = module.init(jax.random.key(0), x)
    _, measured = module.apply(variables, x, mask=mask, mutable=["moments", "batch_stats"])
    mean, var, count = measured["moments"]["input"]
    counted = x[:, :, :3]
    close(mean, counted.mean((0, 1, 2)))
    close(var, counted.var((0, 1, 2)))
    np.testing.assert_array_equal(count, 8 * 3 * 3)


def test_conv_module():
    x = jnp.asarray(draw(2, 7, 6, 3))
    module = layers.Conv(features=4, stride=2, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((3, 3, 3, 4), jnp.float32)
    y = module.apply(variables, x)
    assert (y.shape, y.dtype) == ((2, 4, 3, 4), jnp.bfloat16)
    close(y, conv(x.astype(jnp.bfloat16), kernel, 2))
    # He: variance 2 / fan-in = 2 / (9 * 64) of 36,864 draws, whose own spread is sqrt(2 / 36,864) = 0.7 %.
    wide = layers.Conv(features=64).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    assert abs(float(jnp.var(wide)) * 9 * 64 / 2 - 1) < 0.03


def test_conv_in_groups_is_a_convolution_for_each():
    stride = 2
    x, kernel = draw(2, 7, 6, 6), draw(3, 3, 2, 9, seed=1)
    parts = zip(jnp.split(x, 3, -1), jnp.split(kernel, 3, -1), strict=True)
    close(conv(x, kernel, stride, groups=3), jnp.concatenate([conv(part, own, stride) for part, own in parts], -1))


@pytest.mark.parametrize(
    ("name", "fields"), [("BatchNorm", TRAIN), ("GroupNorm", {"num_groups": 2}), ("RMSNorm", {})], ids=str
)
def test_complex_inputs_are_flaxs(name, fields):
    x = jax.random.normal(jax.random.key(0), (4, 3, 8), jnp.complex64)
    theirs, ours = getattr(nn, name)(**fields), getattr(layers, name)(**fields)
    variables = theirs.init(jax.random.key(1), x)
    expected, computed = (module.apply(variables, x, mutable=["batch_stats"]) for module in (theirs, ours))
    assert computed[0].dtype == jnp.complex64
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), computed, expected)
