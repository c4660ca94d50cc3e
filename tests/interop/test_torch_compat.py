"""State dicts from PyTorch 2.13 in normres and Flax: the same evaluation, the same next step, the same keys back."""

import dataclasses
import re
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import close

from normres import layers
from normres.interop import kernel_from_torch, kernel_to_torch, norm_from_torch, norm_to_torch
from normres.norms import TABLE, Average, NormSpec, find_spec, kernels

COUNTED = Average("cumulative", unbiased=True)  # PyTorch's momentum=None
FIXTURE = Path(__file__).parents[1] / "fixtures" / "torch_compat.npz"


class LengthsTimesDirections(nn.Module):
    """Weight norm of a matrix, by the kernel's function; layers.Conv does it for images."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.ones, (x.shape[-1], 3))
        scale, bias = (self.param(name, nn.initializers.ones, (3,)) for name in ("kernel_scale", "bias"))
        return x @ kernels.l2_normalized(kernel, scale) + bias.reshape(1, 1, 3)


@dataclasses.dataclass
class Case:
    """What a module of PyTorch is here: modules that must all evaluate as it does, and the first of which is trained.

    `moved` says whether the input has the channels at axis 1 in PyTorch.
    """

    modules: list[nn.Module]
    average: Average | None = None
    moved: bool = True

    @property
    def is_norm(self):
        return not isinstance(self.modules[0], nn.Conv | nn.Dense | layers.Conv | LengthsTimesDirections)


def without(name, *affine):
    return dataclasses.replace(TABLE[name], affine=tuple(part for part in TABLE[name].affine if part not in affine))


def tracked(spec, momentum, epsilon=1e-5, sub_batches=1, **affine):
    """A norm with running averages, and the drop-in, which trains differently but evaluates alike."""
    as_pytorch = {"torch_momentum": True, "unbiased": True}
    average = COUNTED if momentum is None else Average("exponential", momentum, **as_pytorch)
    own = layers.Norm(dataclasses.replace(spec, epsilon=epsilon, sub_batches=sub_batches), average)
    return Case([own, layers.BatchNorm(epsilon=epsilon, **affine)], average)


PLAIN = {"use_scale": False, "use_bias": False}
LAYER_PLAIN = layers.LayerNorm(reduction_axes=(1, 2, 3), epsilon=1e-5, **PLAIN)
RMS = NormSpec(over="C", center=False, affine=("scale",), epsilon=2**-23)

CASES = {
    "batch2d": tracked(TABLE["batch"], 0.3),
    "batch_cumulative": tracked(TABLE["batch"], None),
    "batch_plain": tracked(without("batch", "scale", "bias"), 0.1, **PLAIN),
    "batch_untracked": Case([layers.Norm(NormSpec(over="NS"))]),
    "instance": Case([layers.Norm(TABLE["instance"]), layers.InstanceNorm(epsilon=1e-5)]),
    # Own statistics per example in training, their averages in evaluation: sub-batches of one example.
    "instance_tracked": tracked(TABLE["ghost_batch"], 0.3, sub_batches=5),
    "instance_never_updated": tracked(without("ghost_batch", "scale", "bias"), 0, sub_batches=5, **PLAIN),
    "layer_vectors": Case([layers.Norm(TABLE["positional"]), layers.LayerNorm(epsilon=1e-5)], moved=False),
    "layer_plain": Case([layers.Norm(without("layer", "scale", "bias")), LAYER_PLAIN]),
    "group": Case([layers.Norm(find_spec("group", 2)), layers.GroupNorm(num_groups=2, epsilon=1e-5)]),
    # eps=None is that of float32.
    "rms_vectors": Case([layers.RMSNorm(epsilon=2**-23), layers.Norm(RMS)], moved=False),
    "linear": Case([nn.Dense(3)], moved=False),
    "conv2d": Case([nn.Conv(3, (3, 2), padding="VALID")]),
    "conv3d": Case([nn.Conv(3, (2, 1, 3), padding="VALID", use_bias=False)]),
    "conv_in_groups": Case([nn.Conv(6, (3, 3), padding="VALID", feature_group_count=2)]),
    "linear_weight_norm": Case([LengthsTimesDirections()], moved=False),
    "conv_weight_norm": Case([layers.Conv(3, weights="l2")]),
    "conv_old_weight_norm": Case([layers.Conv(3, weights="l2")]),
}


@pytest.fixture(scope="module")
def torch():
    with np.load(FIXTURE) as file:
        return dict(file)


def under(torch, start):
    """The part of the fixture below `start`, such as the state dict of a case."""
    return {key.removeprefix(start): array for key, array in torch.items() if key.startswith(start)}


def from_torch(case, state_dict, prefix=""):
    if case.is_norm:
        return norm_from_torch(state_dict, prefix, average=case.average)
    return kernel_from_torch(state_dict, prefix)


def to_torch(case, variables, prefix=""):
    return (norm_to_torch if case.is_norm else kernel_to_torch)(variables, prefix)


def modern(state):
    """A state dict with the keys that weight norm has today."""
    original = "parametrizations.weight.original"
    return {key.replace("weight_g", f"{original}0").replace("weight_v", f"{original}1"): state[key] for key in state}


def at(module, train):
    if hasattr(module, "use_running_average"):
        return module.clone(use_running_average=not train)
    return module


def identical(actual, expected):
    """The same keys, dtypes, shapes and bits: what load_state_dict(strict=True) asks of keys and shapes, and more."""
    assert set(actual) == set(expected)
    for key, array in expected.items():
        assert type(actual[key]) is np.ndarray, key
        np.testing.assert_array_equal(actual[key], array, strict=True, err_msg=key)


def test_state_dicts_there_and_back(torch):
    assert {key.partition("/")[0] for key in torch} - {"torch_version", "rate"} == set(CASES)
    # In one state dict with all the others, as part of a model; conv is also how conv_in_groups begins.
    model = {f"{case}.{key}": array for case in CASES for key, array in under(torch, f"{case}/state/").items()}
    for name, case in CASES.items():
        state = under(torch, f"{name}/state/")
        if "num_batches_tracked" in state and case.average != COUNTED:
            state["num_batches_tracked"] = np.array(0)
        identical(to_torch(case, from_torch(case, state)), modern(state))
        if state:  # without, nothing shows that the prefix is right
            expected = {f"{name}.{key}": array for key, array in modern(state).items()}
            for prefix in (name, f"{name}."):
                identical(to_torch(case, from_torch(case, model, prefix), prefix), expected)


@pytest.mark.parametrize("name", CASES)
def test_evaluates_and_trains_on_as_pytorch(name, torch):
    case, state = CASES[name], under(torch, f"{name}/state/")
    x, y, next_x = (torch[f"{name}/{array}"] for array in ("input", "output", "next_input"))
    if case.moved:
        x, y, next_x = (np.moveaxis(array, 1, -1) for array in (x, y, next_x))
    variables = from_torch(case, state)
    params = variables.get("params", {})
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss(params, module, x):
        y, updated = module.apply({"params": params, **rest}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), updated

    @jax.jit
    def run(params, x, next_x):
        outputs = [at(module, train=False).apply({"params": params, **rest}, x) for module in case.modules]
        gradients, updated = jax.grad(loss, has_aux=True)(params, at(case.modules[0], train=True), next_x)
        return outputs, gradients, updated

    own = jax.eval_shape(lambda: at(case.modules[0], train=True).init(jax.random.key(0), x))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, own)
    assert jax.tree.map(lambda array: array.dtype, variables) == jax.tree.map(lambda array: array.dtype, own)
    outputs, gradients, updated = run(params, x, next_x)
    for output in outputs:
        close(output, y)
    stepped = jax.tree.map(lambda array, gradient: array - np.float32(torch["rate"]) * gradient, params, gradients)
    after = to_torch(case, {"params": stepped, **updated})
    expected, state = modern(under(torch, f"{name}/next/")), modern(state)
    assert set(after) == set(expected)
    for key, array in expected.items():
        assert after[key].dtype == array.dtype, key
        if key == "num_batches_tracked" and case.average != COUNTED:
            continue
        close(after[key], array)
        # A step that the tolerance would not notice is no evidence; the last case never updates.
        constant = key == "num_batches_tracked" or name == "instance_never_updated"
        assert constant or np.abs(array - state[key]).max() > 1e-3, key


class Tensor:
    """As numpy sees one on the CPU: it shares its memory, and knows no `copy` argument."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None):
        return self.array


class Unreadable:
    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None):
        raise self.error


TRAINED = Unreadable(RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach()."))
FAR = Unreadable(TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()"))


def test_arrays_are_copies_that_pytorch_may_write_to():
    weight, matrix = np.array([1, 2], np.float16), np.array([[1, 2], [3, 4]], np.float64)
    scale = norm_from_torch({"weight": Tensor(weight)})["params"]["scale"]
    kernel = kernel_from_torch({"weight": Tensor(matrix)})["params"]["kernel"]
    weight += 1
    matrix += 1
    np.testing.assert_array_equal(scale, np.array([1, 2], np.float16), strict=True)
    np.testing.assert_array_equal(kernel, np.array([[1.0, 3.0], [2.0, 4.0]]), strict=True)
    # torch.from_numpy warns of arrays that cannot be written to, such as those of jax.
    norm, layer = {"params": {"scale": jnp.ones(2)}}, {"params": {"kernel": jnp.ones((2, 3))}}
    for state in (norm_to_torch(norm), kernel_to_torch(layer)):
        assert state["weight"].flags.writeable
        assert state["weight"].flags.c_contiguous


ONE, TWO, MATRIX, IMAGES = np.ones(()), np.ones(2), np.ones((2, 3)), np.ones((4, 2, 3, 3))
RUNNING = {"running_mean": TWO, "running_var": TWO}

# The function, its arguments, and how the message begins.
MISTAKES = [
    (
        norm_from_torch,
        ({"bn.weight": TWO, "bn.running_maen": TWO}, "bn"),
        "'bn.running_maen' is unexpected; did you mean 'bn.running_mean'? choices: bn.weight, bn.bias, bn.running_mean",
    ),
    (norm_from_torch, ({"bn.running_mean": TWO}, "bn"), "'bn.running_var' is missing; there are: bn.running_mean"),
    (norm_from_torch, ({"bias": TWO},), "'weight' is missing; there are: bias"),
    (
        partial(norm_from_torch, average=COUNTED),
        (RUNNING,),
        "'num_batches_tracked' is missing; there are: running_mean",
    ),
    (
        norm_from_torch,
        ({"layer1.bn1.weight": TWO, "layer1.conv1.weight": TWO}, "layer1.bn"),
        "no key begins with 'layer1.bn.'; did you mean 'layer1.bn1'? choices: layer1.bn1, layer1.conv1",
    ),
    (norm_from_torch, ({"weight": TWO, "bias": np.ones(3)},), "'bias' has shape (3,), expected (2,)"),
    # A LayerNorm over more than channels.
    (norm_from_torch, ({"weight": MATRIX},), "'weight' has shape (2, 3), expected (2,)"),
    (norm_from_torch, ({"weight": ONE},), "'weight' has shape (), expected (1,)"),
    (norm_from_torch, ({**RUNNING, "num_batches_tracked": TWO},), "'num_batches_tracked' has shape (2,), expected ()"),
    (norm_from_torch, ({"weight": FAR},), "'weight' is not readable as an array: can't convert cuda:0 device"),
    (kernel_from_torch, ({"fc.weight": TRAINED}, "fc"), "'fc.weight' is not readable as an array: Can't call"),
    (norm_to_torch, ({"scale": TWO},), "'scale' is unexpected; did you mean 'params/scale'? choices: params/scale, "),
    (norm_to_torch, ({"params": {"bias": TWO}},), "'params/scale' is missing; there are: params/bias"),
    (kernel_from_torch, ({"weight_v": IMAGES},), "'weight_g' is missing; there are: weight_v"),
    (kernel_from_torch, ({"weight": IMAGES, "weight_v": IMAGES},), "'weight_v' is unexpected; did you mean 'weight'?"),
    (kernel_from_torch, ({"weight": TWO},), "'weight' has shape (2,), expected from 2 to 5 axes"),
    # Weight norm with dim=None has one length for the whole kernel.
    (kernel_from_torch, ({"c.weight_g": ONE, "c.weight_v": IMAGES}, "c"), "'c.weight_g' has shape (), expected (4, 1"),
    (kernel_to_torch, ({},), "'params/kernel' is missing; there are: none"),
    (
        kernel_to_torch,
        ({"params": {"kernel": MATRIX, "kernel_scale": TWO}},),
        "'params/kernel_scale' has shape (2,), expected (3,)",
    ),
    # A wrong prefix in a large model names few of its modules.
    (
        norm_from_torch,
        ({f"layer{stage}.{block}.bn1.weight": TWO for stage in range(9) for block in range(9)}, "layer4.bn1"),
        "no key begins with 'layer4.bn1.'; did you mean 'layer",
    ),
]


@pytest.mark.parametrize(("convert", "arguments", "message"), MISTAKES, ids=[message for *_, message in MISTAKES])
def test_mistakes_are_one_line(convert, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*$") as caught:
        convert(*arguments)
    assert len(str(caught.value)) < 200
