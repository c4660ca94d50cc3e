"""ResNets of torchvision and PyTorch in normres: the same logits, gradients, running statistics and keys."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from normres.interop import NAMINGS, network_from_torch, network_to_torch
from normres.models.resnet import ResNet, ResNetConfig

FIXTURE = Path(__file__).parents[1] / "fixtures" / "torch_networks.npz"

TORCHVISION = {"layout": "imagenet", "shortcut": "B"}
# What trains on as PyTorch does: momentum 0.9 is its 0.1.
AS_TORCH = {"norm_unbiased": True, "norm_momentum": 0.9}
CASES = {
    "resnet18": ("torchvision", ResNetConfig(depth=18, width=4, **TORCHVISION, **AS_TORCH)),
    "resnet50": ("torchvision", ResNetConfig(depth=50, width=2, block="bottleneck", **TORCHVISION, **AS_TORCH)),
    "cifar20": ("pytorch_cifar", ResNetConfig(depth=20, width=4, shortcut="A", padding="both", **AS_TORCH)),
    "cifar14_projection": ("pytorch_cifar", ResNetConfig(depth=14, width=4, shortcut="B", **AS_TORCH)),
}
# Those of scripts/make_torch_network_fixtures.py.
FULL = ("conv1.weight", "bn1.weight", "layer2.1.conv1.weight", "layer2.1.bn2.bias")


@pytest.fixture(scope="module")
def torch():
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


def cut(vector, shapes):
    """Returns the arrays of these shapes whose numbers follow each other in a vector."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    assert ends[-1] == vector.size
    return {
        key: part.reshape(shape) for (key, shape), part in zip(shapes.items(), np.split(vector, ends[:-1]), strict=True)
    }


def state_of(torch, case, dtype=np.float64):
    """Returns a case's state dict as PyTorch has it, in its order, but for the updates, which nobody counts here."""
    state = cut(torch[f"{case}/state"], json.loads(str(torch[f"{case}/shapes"])))
    return {key: np.array(0) if key.endswith("tracked") else a.astype(dtype) for key, a in state.items()}


def inputs(torch, case, dtype):
    """Returns the network's config, its variables but for the statistics, the statistics, and the images."""
    config = replace(CASES[case][1], dtype=jnp.dtype(dtype))
    variables = network_from_torch(state_of(torch, case, dtype), config)
    images = np.moveaxis(torch["images"], 1, -1).astype(dtype)
    return config, variables["params"], {"batch_stats": variables["batch_stats"]}, images


def logits(config, params, rest, images, train):
    return ResNet(config, train=train).apply({"params": params, **rest}, images, mutable="batch_stats")


# In float64 rounding grows, through 50 layers, to 1e-13 of the largest logit and 2e-12 of a gradient's length; the
# tolerances leave some hundred times that to other machines.  What else differs is larger: an epsilon of 1.01e-5 in
# place of 1e-5 changes logits by 1e-7.
def test_logits_and_running_statistics_are_pytorchs(torch):
    def both(*arguments):
        return logits(config, *arguments, False)[0], logits(config, *arguments, True)

    with jax.enable_x64(True):
        config, *arguments = inputs(torch, "resnet50", np.float64)
        evaluated, (trained, updated) = jax.jit(both)(*arguments)
    compare(torch, "resnet50", evaluated, trained, {"params": arguments[0], **updated})


def test_gradients_are_pytorchs(torch):
    case = "cifar14_projection"

    def loss(params, *others):
        trained, updated = logits(config, params, *others, True)
        log_probabilities = jnp.take_along_axis(jax.nn.log_softmax(trained), torch["labels"][:, None], axis=1)
        return -jnp.mean(log_probabilities), (trained, updated)

    def all_of_it(*arguments):
        return logits(config, *arguments, False)[0], jax.value_and_grad(loss, has_aux=True)(*arguments)

    with jax.enable_x64(True):
        config, *arguments = inputs(torch, case, np.float64)
        evaluated, ((_, (trained, updated)), gradients) = jax.jit(all_of_it)(*arguments)
    after = compare(torch, case, evaluated, trained, {"params": gradients, **updated})
    gradients = {key: array for key, array in after.items() if not ("running" in key or "tracked" in key)}
    # Every parameter: a projection, which signs, orders and transpositions change, and the length.
    sums = [(np.sum(g.ravel() * np.cos(np.arange(g.size))), np.linalg.norm(g)) for g in gradients.values()]
    lengths = torch[f"{case}/sums"][:, 1]
    assert lengths.min() > 1e-6
    np.testing.assert_allclose(np.array(sums) / lengths[:, None], torch[f"{case}/sums"] / lengths[:, None], atol=1e-9)
    expected = cut(torch[f"{case}/gradient"], {key: gradients[key].shape for key in FULL})
    for key, array in expected.items():
        np.testing.assert_allclose(gradients[key], array, rtol=0, atol=1e-9 * np.abs(array).max())


def compare(torch, case, evaluated, trained, variables):
    """Compares logits and running statistics with PyTorch's; returns the variables as PyTorch has them."""
    for actual, expected in ((evaluated, torch[f"{case}/eval"]), (trained, torch[f"{case}/train"])):
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    naming, config = CASES[case]
    state = network_to_torch(variables, config, naming)
    running = {key: array for key, array in state.items() if "running" in key or "tracked" in key}
    before = state_of(torch, case)
    for key, array in cut(torch[f"{case}/running"], {key: a.shape for key, a in running.items()}).items():
        if "tracked" in key:
            continue
        assert np.abs(array - before[key]).max() > 1e-3, key
        np.testing.assert_allclose(running[key], array, rtol=1e-10, atol=1e-12, err_msg=key)
    return state


def test_float32_is_as_exact_as_pytorchs(torch):
    config, *arguments = inputs(torch, "cifar20", np.float32)

    def both(*arguments):
        return [logits(config, *arguments, train)[0] for train in (False, True)]

    outputs = jax.jit(both)(*arguments)
    for actual, mode, error in zip(outputs, ("eval", "train"), torch["cifar20/errors"][:2], strict=True):
        exact = torch[f"cifar20/{mode}"]
        assert actual.dtype == np.float32
        # Ten times PyTorch's own error, which is as accidental: sums in another order.
        assert np.abs(actual - exact).max() < 10 * error * np.abs(exact).max()


def same(actual, expected):
    assert list(actual) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(actual[key], array, strict=True, err_msg=key)
        assert actual[key].flags.writeable


@pytest.mark.parametrize("case", CASES)
def test_keys_order_numbers_and_dtypes_come_back(case, torch):
    naming, config = CASES[case]
    state = state_of(torch, case, np.float16 if case == "cifar14_projection" else np.float32)
    parallel = {f"module.{key}": array for key, array in state.items()}
    old = {key: array for key, array in state.items() if not key.endswith("num_batches_tracked")}
    for variant in (state, parallel, old):
        same(network_to_torch(network_from_torch(variant, config), config, naming), state)


@pytest.mark.parametrize("naming", ["torchvision", "shortcut_fc"])
def test_every_naming_is_recognized(naming, torch):
    state, config = state_of(torch, "cifar14_projection"), CASES["cifar14_projection"][1]
    shortcut, head = NAMINGS[naming]
    renamed = {key.replace("shortcut", shortcut).replace("linear", head): array for key, array in state.items()}
    assert {f"{head}.bias", f"layer2.0.{shortcut}.0.weight"} <= set(renamed)
    variables = network_from_torch(renamed, config)
    same(network_to_torch(variables, config, naming), renamed)
    same(network_to_torch(variables, config, "pytorch_cifar"), state)


# What has PyTorch's names beyond the cases: ResNeXt, projections everywhere, norms without running averages or with a
# count of their updates, weight norm, one colour.
OTHERS = {
    "resnext": {"block": "bottleneck", "depth": 29, "inner_width": 8, "cardinality": 4, "shortcut": "C"},
    "plain_group": {"depth": 8, "shortcut": "none", "norm": "group", "norm_groups": 2},
    "rms": {"depth": 14, "norm": "rms"},
    "cumulative": {"depth": 14, "norm_average": "cumulative"},
    "weight_norm": {"depth": 14, "weights": "l2", "norm": "none"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_variables_of_other_networks_come_back(name):
    config, channels = ResNetConfig(width=4, **OTHERS[name]), 1 if name == "rms" else 3
    variables = drawn(ResNet(config), jnp.zeros((1, 8, 8, channels)))
    if name == "cumulative":  # a number, which is an integer in PyTorch
        variables["batch_stats"] = jax.tree.map(lambda leaf: np.floor(9 * np.abs(leaf)), variables["batch_stats"])
    state = network_to_torch(variables, config)
    assert ("bn1.num_batches_tracked" in state) == (name in ("resnext", "cumulative"))
    assert ("conv1.parametrizations.weight.original0" in state) == (name == "weight_norm")
    back = network_from_torch(state, config)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other, strict=True), back, variables)


SMALL = ResNetConfig(depth=8, width=2, shortcut="B")


def small(**fields):
    config = replace(SMALL, **fields)
    return drawn(ResNet(config), jnp.zeros((1, 8, 8, 3))), config


def from_torch(change=lambda state: None, naming=None, **fields):
    state = network_to_torch(*small())
    change(state)
    network_from_torch(state, replace(SMALL, **fields), naming)


def to_torch(change=lambda variables: None, naming="torchvision", **fields):
    variables, config = small(**fields)
    change(variables["params"])
    network_to_torch(variables, config, naming)


# The function, its arguments, and how the message begins.
MISTAKES = [
    (
        from_torch,
        {"change": lambda state: state.update({"layer1.0.con1.weight": np.ones(2)})},
        "'layer1.0.con1.weight' is unexpected; did you mean 'layer1.0.conv1.'? choices: layer1.0.conv1., ",
    ),
    (
        from_torch,
        {"change": lambda state: state.pop("bn1.running_var")},
        "'bn1.running_var' is missing; there are: bn1",
    ),
    (from_torch, {"change": lambda state: state.clear()}, "no key begins with 'conv1.'; choices: none"),
    # A deeper network, a wider one, other classes, another block: as the first module says that cannot be.
    (from_torch, {"depth": 14}, "no key begins with 'layer1.1.conv1.'; did you mean 'layer1.0.conv1'? choices: "),
    (from_torch, {"width": 3}, "'params/stem_conv1/kernel' has shape (3, 3, 3, 2), expected (3, 3, 3, 3)"),
    (from_torch, {"classes": 100}, "'params/classifier/kernel' has shape (8, 10), expected (8, 100)"),
    (from_torch, {"shortcut": "A"}, "'layer2.0.downsample.0.weight' is unexpected; did you mean 'layer2.0.conv"),
    (from_torch, {"norm": "group", "norm_groups": 2}, "'batch_stats/stem_norm1/mean' is unexpected; did you mean "),
    (
        from_torch,
        {"change": lambda state: state.pop("bn1.num_batches_tracked"), "norm_average": "cumulative"},
        "'bn1.num_batches_tracked' is missing; there are: bn1",
    ),
    (from_torch, {"weights": "l2"}, "'params/stage1_first/conv1/kernel_scale' is missing; there are: "),
    (from_torch, {"naming": "torchvison"}, "naming='torchvison' does not exist; did you mean 'torchvision'? choices: "),
    (to_torch, {"change": lambda params: params.pop("classifier")}, "'params/classifier/bias' is missing; there are: "),
    (
        to_torch,
        {"change": lambda params: params["stem_norm1"].update({"scale": np.ones(3)})},
        "'params/stem_norm1/scale' has shape (3,), expected (2,)",
    ),
    # What PyTorch's ResNets have not: a gate, power iterations, scalars, other classifiers.
    (to_torch, {"shortcut": "exclusive_gate"}, "the config's network has 'stage1_first/gate/bias', which PyTorch's"),
    (to_torch, {"weights": "spectral"}, "the config's network has 'stage1_first/conv1/u', which"),
    (to_torch, {"weights": "scaled_standardized"}, "the config's network has 'stage1_first/conv1/kernel_scale', which"),
    (to_torch, {"weights": "standardized"}, "weights='standardized': PyTorch's networks do not standardize kernels"),
    (to_torch, {"norm": "local_response"}, "norm='local_response': PyTorch's ResNets and VGGs have no such norm"),
    (to_torch, {"residual_scale": "rezero"}, "the config's network has 'stage1_first/branch_scale', which"),
    (to_torch, {"auxiliary": (1,)}, "the config's network has 'auxiliary1/bias', which"),
]


@pytest.mark.parametrize(("convert", "fields", "message"), MISTAKES, ids=[message for *_, message in MISTAKES])
def test_mistakes_are_one_line_that_names_the_key(convert, fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        convert(**fields)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
