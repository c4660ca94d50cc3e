"""The network: published parameter counts, one tree for what is compared, and an independent forward pass."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from jax import lax
from jax.flatten_util import ravel_pytree

from normres.models.resnet import Block, ResNet, ResNetConfig
from normres.models.variants import ORDERS, SHORTCUTS, stage_blocks
from normres.training.networks import count_parameters

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@cache
def initial(**fields):
    """Returns a network's variables as they are before training."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return ResNet(ResNetConfig(**fields)).lazy_init(jax.random.key(0), image)


@cache
def variables(**fields):
    return drawn(ResNet(ResNetConfig(**fields)), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))


def shapes(**fields):
    # No number depends on the size of the image, but ImageNet's strides need 32 pixels.
    return jax.eval_shape(lambda: ResNet(ResNetConfig(**fields)).init(jax.random.key(0), jnp.ones((1, 32, 32, 3))))


def apply(model, variables, images=IMAGES):
    return jax.jit(partial(model.apply, mutable=["batch_stats"]))(variables, images)


def test_projections_add_their_own_parameters():
    count = {s: count_parameters(shapes(shortcut=s)["params"]) for s in SHORTCUTS}
    # Stem 432, stages 13,824 + 50,688 + 202,752, norms 2 * (7*16 + 6*32 + 6*64), classifier 650; the paper says 0.27M.
    free = ("none", "constant", "constant_both", "dropout")
    assert {count[s] for s in free} == {count["A"]} == {269_722}
    # B: 1x1 kernels 16*32 + 32*64 and their norms 2*32 + 2*64.  C: one for every block.
    assert count["B"] - count["A"] == 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64
    blocks = 3 * 16 * 16 + (16 + 2 * 32) * 32 + (32 + 2 * 64) * 64
    assert count["C"] - count["A"] == blocks + 2 * 3 * (16 + 32 + 64)
    # A gate: as many 1x1 kernels, and a bias per channel.
    assert count["exclusive_gate"] - count["A"] == count["shortcut_gate"] - count["A"] == blocks + 3 * (16 + 32 + 64)


def test_a_seed_draws_the_weights_that_published_runs_began_with():
    # Else a repeated run would be another one.  A first block, a stage's stack, and the classifier.
    params = initial(depth=20, width=4)["params"]
    np.testing.assert_allclose(params["stage3_first"]["conv1"]["kernel"][0, 0, 0, 0], -0.06247297, rtol=1e-5)
    np.testing.assert_allclose(
        params["stage2_rest"]["conv2"]["kernel"][:, 0, 0, 0, 0], [0.1321672, -0.0518514], rtol=1e-5
    )
    np.testing.assert_allclose(params["classifier"]["kernel"][0, 0], -0.18465446, rtol=1e-5)


WIDE = {"layout": "wide", "stem_width": 16, "order": "pre", "shortcut": "B"}
IMAGENET = {"layout": "imagenet", "width": 64, "shortcut": "B", "classes": 1000}
RESNET_50 = IMAGENET | {"block": "bottleneck", "depth": 50}


@pytest.mark.parametrize(
    ("fields", "published"),
    [
        # The paper says 1.7.
        ({"depth": 110}, 1.727962),
        # He et al. 2016: the bottleneck network of table 3.
        ({"block": "bottleneck", "depth": 164, "order": "pre", "shortcut": "B"}, 1.7),
        ({"depth": 1202}, 19.4),
        # Zagoruyko, Komodakis 2016, table 4.
        (WIDE | {"depth": 28, "width": 160}, 36.5),
        # Xie et al. 2016, arXiv 1611.05431: ResNeXt-29, 8x64d.
        (
            {"block": "bottleneck", "depth": 29, "width": 64, "inner_width": 512, "cardinality": 8, "shortcut": "B"},
            34.4,
        ),
        # As torchvision counts them; the last two are ResNeXt-50 32x4d and wide ResNet-50-2.
        (IMAGENET | {"depth": 34}, 21.797672),
        (RESNET_50, 25.557032),
        (RESNET_50 | {"inner_width": 128, "cardinality": 32}, 25.028904),
        (RESNET_50 | {"inner_width": 128}, 68.883240),
    ],
)
def test_parameters_of_the_family_are_the_published_ones(fields, published):
    digits = len(str(published).partition(".")[2])
    assert round(count_parameters(shapes(**fields)["params"]) / 1e6, digits) == published


# An independent forward pass: numpy-style code written from the papers, over the same parameters, block by block.
# It is not compiled as a whole: its operations are compiled one by one, and the next case has the same.


def convolve(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=dimensions)


def normalized(x, p, norm, epsilon=1e-5):
    shape, axes = x.shape, {"batch": (0, 1, 2), "instance": (1, 2), "layer": (1, 2, 3), "group": (1, 2, 4)}
    if norm == "rms":
        return x / jnp.sqrt((x**2).mean((1, 2, 3), keepdims=True) + epsilon) * p["scale"].reshape(1, 1, 1, -1)
    split = x.reshape(*shape[:3], 4, -1) if norm == "group" else x
    mean, var = split.mean(axes[norm], keepdims=True), split.var(axes[norm], keepdims=True)
    y = ((split - mean) / jnp.sqrt(var + epsilon)).reshape(shape)
    return y * p["scale"].reshape(1, 1, 1, -1) + p["bias"].reshape(1, 1, 1, -1)


def reference_branch(a, p, stride, order, norm):
    """Figure 4 of He et al. 2016, from the first convolution on: `a` is what it reads."""
    relu, one, two = jax.nn.relu, p["conv1"]["kernel"], p["conv2"]["kernel"]
    first = convolve(a, one, stride)
    match order:
        case "post" | "relu_only_pre":
            return normalized(convolve(relu(normalized(first, p["norm1"], norm)), two), p["norm2"], norm)
        case "norm_after_addition":
            return convolve(relu(normalized(first, p["norm1"], norm)), two)
        case "relu_before_addition":
            return relu(normalized(convolve(relu(normalized(first, p["norm1"], norm)), two), p["norm2"], norm))
        case "pre":
            return convolve(relu(normalized(first, p["norm2"], norm)), two)


def reference_block(x, p, stride, very_first, shortcut, order, norm):
    activated = x
    if not very_first and order in ("pre", "relu_only_pre"):
        activated = jax.nn.relu(normalized(x, p["norm1"], norm) if order == "pre" else x)
    h = reference_branch(activated, p, stride, order, norm)
    strided = x[:, ::stride, ::stride]
    if shortcut == "none":
        side = 0.0
    elif "shortcut_conv" in p:
        side = convolve(activated[:, ::stride, ::stride], p["shortcut_conv"]["kernel"])
        ends_in_norm = order in ("post", "relu_before_addition", "relu_only_pre")
        side = normalized(side, p["shortcut_norm"], norm) if ends_in_norm else side
    else:
        side = jnp.concatenate([strided, jnp.zeros((*h.shape[:3], h.shape[3] - x.shape[3]))], -1)
    if shortcut.startswith("constant"):
        side, h = 0.5 * side, h * (0.5 if shortcut == "constant_both" else 1)
    if shortcut.endswith("gate"):
        gate = 1 / (1 + jnp.exp(-strided @ p["gate"]["kernel"] - p["gate"]["bias"][None, None, None]))
        side, h = (1 - gate) * side, h * (gate if shortcut == "exclusive_gate" else 1)
    total = side + h
    if order == "norm_after_addition":
        total = normalized(total, p["after_norm1"], norm)
    return jax.nn.relu(total) if order in ("post", "norm_after_addition") else total


def reference(params, images, depth, shortcut, order, norm):
    x = jax.nn.relu(normalized(convolve(images, params["stem_conv1"]["kernel"]), params["stem_norm1"], norm))
    for stage in (1, 2, 3):
        first, rest = params[f"stage{stage}_first"], params[f"stage{stage}_rest"]
        x = reference_block(x, first, 1 if stage == 1 else 2, stage == 1, shortcut, order, norm)
        for index in range((depth - 2) // 6 - 1):
            layers = jax.tree.map(lambda leaf, index=index: leaf[index], rest)
            x = reference_block(x, layers, 1, False, shortcut, order, norm)
    if order in ("pre", "relu_only_pre"):
        x = jax.nn.relu(normalized(x, params["head_norm1"], norm) if order == "pre" else x)
    return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"][None]


def compare(ours, theirs, *arguments):
    """Compares two functions of (params, images) and their gradients.

    In float64, because rounding grows with depth (ReLUs change sides) until no tolerance could tell it from an error.
    """
    arguments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), arguments)
    with jax.enable_x64(True):
        run, check = (
            jax.value_and_grad(lambda *arguments, network=network: jnp.sum(jnp.sin(network(*arguments))), (0, 1))
            for network in (ours, theirs)
        )
        computed = jax.jit(run)(*arguments)
        expected = check(*arguments)
    for one, wanted in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-7, atol=1e-7 * float(np.abs(wanted).max()))


@pytest.mark.parametrize(("shortcut", "order"), [("A", "post"), ("C", "pre")])
def test_forward_and_gradient_equal_an_independent_pass(shortcut, order):
    fields = {"depth": 14, "width": 4, "shortcut": shortcut, "order": order}
    held = variables(**fields)
    network = ResNet(ResNetConfig(**fields, dtype=jnp.float64), train=True)

    def ours(params, images):
        return network.apply({**held, "params": params}, images, mutable=["batch_stats"])[0]

    def theirs(params, images):
        return reference(params, images, 14, shortcut, order, "batch")

    compare(ours, theirs, held["params"], IMAGES)


# Every shortcut but dropout, which is random, and every order; C also where a projection reads the activated input.
BLOCKS = [
    ("none", "pre", "batch"),
    ("B", "relu_before_addition", "batch"),
    ("C", "relu_only_pre", "batch"),
    ("A", "post", "group"),
    ("constant_both", "pre", "layer"),
    ("constant", "post", "rms"),
    ("exclusive_gate", "norm_after_addition", "batch"),
    ("shortcut_gate", "post", "instance"),
]


def test_the_blocks_have_every_row():
    assert {order for _, order, _ in BLOCKS} == set(ORDERS)
    assert {shortcut for shortcut, _, _ in BLOCKS} == set(SHORTCUTS) - {"dropout"}


@pytest.mark.parametrize(("shortcut", "order", "norm"), BLOCKS)
def test_a_block_and_its_gradient_equal_an_independent_one(shortcut, order, norm):
    config = ResNetConfig(shortcut=shortcut, order=order, norm=norm, norm_groups=4)
    block = Block(config, train=True, features=(8, 8), stride=2)
    x = np.random.default_rng(2).normal(size=(4, 6, 6, 4)).astype(np.float32)
    held, block = drawn(block, x), block.clone(config=replace(config, dtype=jnp.float64))

    def ours(params, x):
        return block.apply({**held, "params": params}, x, mutable=["batch_stats"])[0]

    def theirs(params, x):
        return reference_block(x, params, 2, False, shortcut, order, norm)

    compare(ours, theirs, held["params"], x)


def gradient_of(held, **fields):
    """Returns a function of (params, images): the gradient in training."""
    network = ResNet(ResNetConfig(**fields), train=True)

    def loss(params, images):
        return jnp.sum(jnp.sin(network.apply({**held, "params": params}, images)))

    return jax.grad(loss)


def test_second_derivatives_equal_differences_of_gradients():
    fields = {"depth": 8, "width": 2, "classes": 3, "norm_groups": 2, "remat": "elementwise"}
    fields |= {"order": "pre", "shortcut": "C", "norm": "group"}
    held, images = variables(**fields), IMAGES.astype(np.float64)
    fields["dtype"] = jnp.float64
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), held["params"])
    gradient = jax.jit(lambda params: gradient_of(held, **fields)(params, images))

    def difference(direction, step=1e-6):
        """Central: its error is the step squared, and what rounding leaves of 1e-16 over the step."""
        ends = (jax.tree.map(lambda at, to, s=s: at + s * to, params, direction) for s in (step, -step))
        return jax.tree.map(lambda after, before: (after - before) / (2 * step), *map(gradient, ends))

    def close(computed, expected):
        computed, expected = (ravel_pytree(tree)[0] for tree in (computed, expected))
        np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-6 * np.abs(expected).max())

    with jax.enable_x64(True):
        direction = jax.tree.map(np.random.default_rng(2).normal, params)
        product = jax.jit(lambda to: jax.jvp(gradient, (params,), (to,))[1])
        close(product(direction), difference(direction))


def test_bfloat16_network_keeps_float32_parameters_statistics_and_logits():
    config, held = ResNetConfig(depth=14, width=4, dtype=jnp.bfloat16), variables(depth=14, width=4)
    logits, changed = apply(ResNet(config, train=True), held)
    assert {leaf.dtype for leaf in jax.tree.leaves((held, changed, logits))} == {jnp.dtype("float32")}
    exact, _ = apply(ResNet(ResNetConfig(depth=14, width=4), train=True), held)
    np.testing.assert_allclose(logits, exact, atol=0.15)
    assert not np.array_equal(logits, exact)


@pytest.mark.parametrize(
    ("layout", "block", "depth", "message"),
    [
        ("cifar", "basic", 18, r"is not 6n\+2 \(8, 14, 20, \.\.\.\); the nearest: 14 or 20$"),
        ("cifar", "basic", -4, "the nearest: 8$"),
        ("cifar", "bottleneck", 57, r"is not 9n\+2 \(11, 20, 29, \.\.\.\); the nearest: 56 or 65$"),
        ("wide", "basic", 26, r"is not 6n\+4 \(10, 16, 22, \.\.\.\); the nearest: 22 or 28$"),
        ("imagenet", "basic", 50, "is no depth of imagenet networks of basic blocks; choices: 18, 34$"),
        ("imagenet", "bottleneck", 34, "choices: 50, 101, 152$"),
    ],
)
def test_impossible_depths_name_the_nearest(layout, block, depth, message):
    with pytest.raises(ValueError, match=message):
        stage_blocks(layout, block, depth)
