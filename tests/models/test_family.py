"""What the family adds to the network: depth aids, gates, intermediates; each against what its paper says it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_resnet import IMAGES, apply, initial, shapes, variables

from normres.models.resnet import Block, ResNet, ResNetConfig
from normres.training import optim

X = np.maximum(np.random.default_rng(5).normal(size=(4, 6, 6, 8)), 0).astype(np.float32)


def block(x=X, features=(8, 8), stride=1, train=False, call=(), rngs=None, change=lambda params: params, **fields):
    """Returns a block's output and intermediates by name; `change` edits its parameters."""
    module = Block(ResNetConfig(**fields), train=train, features=features, stride=stride)
    held = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, *call)
    held = {**held, "params": change(held["params"])}
    y, changed = module.apply(held, x, *call, rngs=rngs, mutable=["intermediates", "batch_stats"])
    return y, {name: value for name, (value,) in changed["intermediates"].items()}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("order", ("pre", "norm_after_addition")),
        ("shortcut", ("none", "C", "exclusive_gate")),
        ("norm", ("group", "evonorm_s0")),
    ],
)
def test_configs_that_differ_in_one_thing_start_from_the_same_values(field, values):
    base = {"depth": 8, "width": 4, "norm_groups": 4}
    reference = flatten_dict(initial(**base)["params"], sep="/")
    for value in values:
        computed = flatten_dict(initial(**base, **{field: value})["params"], sep="/")
        shared = {p for p in reference.keys() & computed.keys() if reference[p].shape == computed[p].shape}
        assert all(np.array_equal(reference[path], computed[path]) for path in shared)
        # What is there or not is only what the variant is about.
        other = {"order": "norm", "shortcut": ("shortcut", "gate"), "norm": "norm"}[field]
        differing = reference.keys() ^ computed.keys()
        assert all(any(word in path for word in np.atleast_1d(other)) for path in differing)
        assert len([path for path in shared if "conv" in path]) >= 7


def test_intermediates_are_stored_on_request_only():
    config, held = ResNetConfig(depth=20, width=4), variables(depth=20, width=4)
    logits, seen = ResNet(config).apply(held, IMAGES, mutable=["intermediates"])
    seen = seen["intermediates"]
    assert seen["stem"][0].shape == (4, 8, 8, 4)
    rest = {name: value[0] for name, value in seen["stage2_rest"].items()}
    # Scanned blocks have a leading axis of depth.
    assert {name: value.shape for name, value in rest.items()} == dict.fromkeys(
        ("branch", "shortcut", "sum"), (2, 4, 4, 4, 8)
    )
    np.testing.assert_allclose(rest["sum"], rest["branch"] + rest["shortcut"], rtol=1e-5)
    # Each block's identity shortcut is the ReLU of the sum before it.
    np.testing.assert_allclose(rest["shortcut"][1], np.maximum(rest["sum"][0], 0), rtol=1e-5)
    classifier = held["params"]["classifier"]
    pooled = seen["pooled"][0]
    np.testing.assert_allclose(logits, pooled @ classifier["kernel"] + classifier["bias"][None], rtol=1e-4, atol=1e-5)
    _, nothing = ResNet(config).apply(held, IMAGES, mutable=["batch_stats"])
    assert set(nothing) == {"batch_stats"}


def test_rematerialization_changes_no_number():
    # Three blocks of each stage are scanned; what is drawn and what is carried must be the same both times.
    fields = {"depth": 26, "width": 2, "stochastic_depth": 0.3}
    held = variables(**fields)

    def gradient(remat):
        model = ResNet(ResNetConfig(**fields, remat=remat), train=True)

        def loss(params):
            rngs = {"dropout": jax.random.key(3)}
            logits, changed = model.apply({**held, "params": params}, IMAGES, mutable=["batch_stats"], rngs=rngs)
            return jnp.sum(jnp.sin(logits)), changed

        compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(held["params"]).compile()
        text = compiled.as_text()
        counts = (text.count(f" {operation}(") for operation in ("convolution", "rsqrt", "reduce"))
        return compiled(held["params"]), *counts

    with pytest.raises(ValueError, match="remat=False does not exist; choices: nothing, elementwise, loops, block, "):
        gradient(False)
    plain, convolutions, roots, sums = gradient("nothing")
    loops, as_many, roots_of_loops, sums_of_loops = gradient("loops")
    whole, more_convolutions, *_ = gradient("block")
    in_loops, some_convolutions, roots_in_loops, sums_in_loops = gradient("block_in_loops")
    # Counted in the compiled program: the compiler must not merge what is computed anew with what was before.  A stage
    # is a first block and a loop over the others, each with two convolutions and the roots of two norms.
    assert as_many == convolutions
    assert roots_of_loops == roots + 3 * 2
    assert roots_in_loops == roots + 3 * 2
    assert sums_of_loops == sums_in_loops == sums  # those of the statistics are kept
    assert more_convolutions == convolutions + 3 * 2 * 2
    assert some_convolutions == convolutions + 3 * 2
    for again in (loops, whole, in_loops):
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-4)


def test_dropout_is_not_drawn_again():
    def recomputations(**fields):
        network = ResNet(ResNetConfig(depth=8, width=4, remat="elementwise", **fields), train=True)
        key = {"dropout": jax.random.key(0)}
        shapes = jax.eval_shape(network.init, {"params": jax.random.key(0), **key}, IMAGES)
        applied = partial(network.apply, mutable=["batch_stats"], rngs=key)
        return str(jax.make_jaxpr(applied)(shapes, IMAGES)).count("prevent_cse=")

    assert recomputations() > 0
    assert recomputations(dropout=0.1) == recomputations(shortcut="dropout") == 0


def test_stochastic_depth_is_a_coin_in_training_and_its_mean_in_evaluation():
    whole, seen = block()
    branch, side = seen["branch"], seen["shortcut"]
    np.testing.assert_allclose(whole, np.maximum(branch + side, 0), rtol=1e-5)
    evaluated, _ = block(call=(0.7,))
    np.testing.assert_allclose(evaluated, np.maximum(0.7 * branch + side, 0), rtol=1e-4, atol=1e-6)

    @jax.vmap
    def kept(key):
        seen = block(call=(0.7,), train=True, rngs={"dropout": key})[1]
        return jnp.any(seen["branch"] != 0)

    assert 18 <= jnp.sum(kept(jax.random.split(jax.random.key(0), 40))) <= 36  # 28 expected, standard deviation 2.9
    # The last of six blocks is left out with probability 0.6, the first with 0.1.
    images = IMAGES[:2]
    config = {"depth": 14, "width": 4}
    plain, scaled = (
        ResNet(ResNetConfig(**config, stochastic_depth=rate)).apply(
            variables(**config), images, mutable=["intermediates"]
        )[1]["intermediates"]
        for rate in (0.0, 0.6)
    )
    ratio = scaled["stage1_first"]["branch"][0] / plain["stage1_first"]["branch"][0]
    np.testing.assert_allclose(ratio, 0.9, rtol=1e-4)


def test_wide_networks_drop_out_before_the_last_convolution():
    held = variables(depth=8, width=4)
    config = ResNetConfig(depth=8, width=4, dropout=0.3)
    evaluated, _ = apply(ResNet(config), held)
    plain, _ = apply(ResNet(ResNetConfig(depth=8, width=4)), held)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5)
    runs = [
        ResNet(config, train=True).apply(held, IMAGES, rngs={"dropout": jax.random.key(k)}, mutable=["batch_stats"])[0]
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])


def test_dropout_on_the_shortcut_halves_it_at_random_and_keeps_its_mean():
    _, seen = block(shortcut="dropout", train=True, rngs={"dropout": jax.random.key(0)})
    side = seen["shortcut"]
    positive = X > 0
    np.testing.assert_allclose(np.unique(np.round(side[positive] / X[positive], 5)), [0, 2])
    assert np.mean(side[positive] == 0) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(block(shortcut="dropout")[1]["shortcut"], X)


@pytest.mark.parametrize("shortcut", ["shortcut_gate", "exclusive_gate"])
def test_a_gate_starts_at_its_bias(shortcut):
    _, plain = block()

    def without_kernel(params):
        return {**params, "gate": {**params["gate"], "kernel": jnp.zeros_like(params["gate"]["kernel"])}}

    _, seen = block(shortcut=shortcut, gate_bias=-6.0, change=without_kernel)
    gate = 1 / (1 + np.exp(6.0))
    np.testing.assert_allclose(seen["shortcut"], X * (1 - gate), rtol=1e-5)
    sides = [computed["sum"] - computed["shortcut"] for computed in (seen, plain)]
    expected = sides[1] * (gate if shortcut == "exclusive_gate" else 1)
    np.testing.assert_allclose(sides[0], expected, rtol=1e-3, atol=1e-5)


def test_zero_padding_on_one_side_or_both():
    for padding, place in (("end", slice(0, 8)), ("both", slice(4, 12))):
        _, seen = block(features=(16, 16), stride=2, padding=padding)
        side = np.array(seen["shortcut"])
        np.testing.assert_array_equal(side[..., place], X[:, ::2, ::2])
        side[..., place] = 0
        assert not side.any()


def test_squeeze_and_excitation_scales_channels():
    def excited(params):
        constant = {"kernel": jnp.zeros_like(params["excite"]["kernel"]), "bias": jnp.linspace(-2, 2, 8)}
        return {**params, "excite": constant}

    _, plain = block()
    _, seen = block(squeeze=4, change=excited)
    gate = 1 / (1 + np.exp(-np.linspace(-2, 2, 8)))
    np.testing.assert_allclose(seen["branch"], np.asarray(plain["branch"]) * gate, rtol=1e-4, atol=1e-6)
    assert shapes(squeeze=4)["params"]["stage3_first"]["squeeze"]["kernel"].shape == (64, 16)


def test_a_zero_last_scale_makes_every_block_its_shortcut():
    y, seen = block(zero_last_scale=True)
    np.testing.assert_array_equal(y, X)
    assert not seen["branch"].any()
    bottleneck = initial(zero_last_scale=True, block="bottleneck", depth=11, width=4)["params"]["stage1_first"]
    assert not bottleneck["norm3"]["scale"].any()
    assert bottleneck["norm2"]["scale"].all()


def test_auxiliary_classifiers_read_their_stages():
    config = ResNetConfig(depth=8, width=4, auxiliary=(1, 2))
    held = variables(depth=8, width=4, auxiliary=(1, 2))
    assert held["params"]["auxiliary1"]["kernel"].shape == (4, 10)
    assert held["params"]["auxiliary2"]["kernel"].shape == (8, 10)
    logits, seen = ResNet(config).apply(held, IMAGES, mutable=["auxiliary", "intermediates"])
    after_first = np.maximum(seen["intermediates"]["stage1_first"]["sum"][0], 0).mean((1, 2))
    head = held["params"]["auxiliary1"]
    expected = after_first @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(seen["auxiliary"]["stage1"][0], expected, rtol=1e-4, atol=1e-5)
    without = {name: value for name, value in held["params"].items() if not name.startswith("auxiliary")}
    plain = ResNet(ResNetConfig(depth=8, width=4)).apply({**held, "params": without}, IMAGES)
    np.testing.assert_array_equal(logits, plain)


def test_adaptive_clipping_by_hand():
    # Two output channels of lengths 5 and 0.1; factor 0.1 allows gradients of 0.5 and 0.01.
    kernel = jnp.zeros((1, 1, 2, 2)).at[0, 0, :, 0].set(jnp.array([3.0, 4.0])).at[0, 0, 0, 1].set(0.1)
    gradient = jnp.zeros((1, 1, 2, 2)).at[0, 0, 0, 0].set(0.4).at[0, 0, 1, 1].set(1.0)
    clipped = optim.adaptive_clip({"stem": {"kernel": gradient}}, {"stem": {"kernel": kernel}}, 0.1)["stem"]["kernel"]
    assert float(clipped[0, 0, 0, 0]) == pytest.approx(0.4)  # short enough
    assert float(clipped[0, 0, 1, 1]) == pytest.approx(0.01)
    # A scanned stage: the same for each layer of the leading axis; a vector is one unit; the classifier is free.
    params = {
        "stage1_rest": {"conv1": {"kernel": jnp.stack([kernel, 10 * kernel])}, "norm1": {"scale": jnp.ones((2, 4))}}
    }
    gradients = jax.tree.map(lambda leaf: 100 * jnp.ones_like(leaf), params)
    computed = optim.adaptive_clip(gradients, params, 0.1)["stage1_rest"]
    lengths = np.sqrt((np.asarray(computed["conv1"]["kernel"]) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(lengths, [[0.5, 0.01], [5, 0.1]], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(computed["norm1"]["scale"], axis=1), [0.2, 0.2], rtol=1e-5)
    free = optim.adaptive_clip({"classifier": {"kernel": gradient}}, {"classifier": {"kernel": kernel}}, 0.1)
    np.testing.assert_array_equal(free["classifier"]["kernel"], gradient)
    trees = ({"module": {"classifier": {"kernel": leaf}}} for leaf in (gradient, kernel))  # of a module of the user's
    free = optim.adaptive_clip(*trees, 0.1)["module"]
    np.testing.assert_array_equal(free["classifier"]["kernel"], gradient)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride_at": "1x1"}, "stride_at='1x1' does not exist; choices: first, 3x3"),
        ({"padding": "left"}, "padding='left' does not exist; choices: end, both"),
        ({"norm_average": "ema"}, "norm_average='ema' does not exist; choices: exponential, debiased, cumulative"),
        ({"shortcut": "D"}, "shortcut='D' does not exist; choices: none, A, B, C"),
        ({"order": "prae"}, "order='prae' does not exist; did you mean 'pre'?"),
        ({"weights": "L2"}, "weights='L2' does not exist; did you mean 'l2'?"),
        ({"auxiliary": (3,)}, r"auxiliary=\(3,\): there is no inner stage 3"),
        ({"stochastic_depth": 1.5}, "stochastic_depth=1.5 must be at least 0 and below 1"),
    ],
)
def test_a_network_of_wrong_values_is_refused_where_it_is_built(fields, message):
    model = ResNet(ResNetConfig(depth=8, width=4, norm_groups=4, **fields))
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))


@pytest.mark.parametrize(("layout", "depth", "least"), [("cifar", 8, 4), ("imagenet", 18, 32)])
def test_images_smaller_than_the_strides_are_named(layout, depth, least):
    model = ResNet(ResNetConfig(layout=layout, depth=depth, width=4, norm_groups=4))
    assert jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, least, least, 3)))
    with pytest.raises(ValueError, match=rf"images of {least - 1}x{least} are too small: .* by {least}"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, least - 1, least, 3)))
