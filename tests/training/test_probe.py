"""Signals by depth: each quantity against NumPy on a tiny network, every kind of network, and in a run."""

import itertools
import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from drawn import drawn
from small_run import DATASET, programs

from normres.cli import main
from normres.errors import UserError
from normres.runs import finished, local, sweep
from normres.runs.fields import digest
from normres.show import probe_commands
from normres.training import probe
from normres.training.loop import fit
from normres.training.networks import build_network
from normres.training.step import build_state

TINY = {
    "model__norm_groups": 2,
    "train__steps": 4,
    "train__batch_size": 8,
    "train__eval_batch_size": 32,
    "train__log_every": 1,
    "train__eval_every": 2,
    "train__checkpoint_every": 2,
    "optim__warmup_steps": 1,
    "data__preprocess": "none",
}


def config(**changes):
    return small_run.config(**TINY | changes)


DATA = {"images": DATASET.train_images[:8], "labels": DATASET.train_labels[:8]}


def prepared(**changes):
    """Returns the function that measures, and a state with scales of one and biases of zero."""
    wanted = config(**changes)
    network = build_network(wanted, 10, "float32")
    variables = drawn(network, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), affine=False)
    shapes = jax.eval_shape(lambda key: build_state(wanted, network, (8, 8, 3), key), jax.random.key(0))
    state = replace(shapes, params=variables["params"], batch_stats=variables.get("batch_stats", {}))
    return lambda params: probe.probe(wanted, network, replace(state, params=params), DATA), state


@cache
def probed(**changes):
    """Returns what is measured, and the state."""
    measure, state = prepared(**changes)
    return {name: np.asarray(value, np.float64) for name, value in jax.jit(measure)(state.params).items()}, state


def by_hand(params, images, shortcut):
    """Returns responses, sums, outputs and logits of a ResNet-8 of width 4 with layer norm."""
    responses, sums, outputs = [], [], []

    def conv(x, kernel, stride=1):
        size = kernel.shape[0]
        padded = jnp.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        height, width = x.shape[1:3]
        y = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(size) for j in range(size))
        return y[:, ::stride, ::stride]

    def norm(x):  # whose scale is 1 and whose bias is 0, before training
        axes = (1, 2, 3)
        y = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
        responses.append(y.reshape(-1, y.shape[-1]).std(0).mean())
        return y

    relu = jax.nn.relu
    x = relu(norm(conv(images, params["stem_conv1"]["kernel"])))
    for stage in (1, 2, 3):
        layers, stride = params[f"stage{stage}_first"], 1 if stage == 1 else 2
        y = relu(norm(conv(x, layers["conv1"]["kernel"], stride)))
        y = norm(conv(y, layers["conv2"]["kernel"]))
        if shortcut:
            side = x[:, ::stride, ::stride]
            y = y + jnp.pad(side, ((0, 0),) * 3 + ((0, y.shape[-1] - side.shape[-1]),))
        sums.append(y)
        x = relu(y)
        outputs.append(x)
    return responses, sums, outputs, x.mean((1, 2)) @ params["classifier"]["kernel"]


@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_activations_and_gradient_norms_are_those_of_the_network_by_hand(shortcut):
    values, state = probed(model__norm="layer", model__shortcut=shortcut)

    def loss(params):
        *activations, logits = by_hand(params, DATA["images"] / 255, shortcut == "A")
        return jnp.mean(jnp.log(jnp.exp(logits).sum(1)) - logits[jnp.arange(8), DATA["labels"]]), activations

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
        by_jax = jax.jit(jax.grad(loss, has_aux=True))(params)
    gradients, (responses, sums, outputs) = jax.device_get(by_jax)
    np.testing.assert_allclose(values["response"], responses, rtol=1e-4)
    np.testing.assert_allclose(values["mean"], [x.mean() for x in sums], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["variance"], [x.var() for x in sums], rtol=1e-4)
    cosines = []
    for x in outputs:
        rows = [row.ravel() / np.linalg.norm(row) for row in x]
        cosines.append(np.mean([a @ b for i, a in enumerate(rows) for b in rows[:i]]))
    np.testing.assert_allclose(values["similarity"], cosines, rtol=1e-4)
    # In the order of depth: the stem, and the two convolutions of each block.
    kernels = [gradients["stem_conv1"]]
    kernels += [gradients[f"stage{stage}_first"][f"conv{number}"] for stage in (1, 2, 3) for number in (1, 2)]
    expected = [np.linalg.norm(layer["kernel"]) for layer in kernels]
    np.testing.assert_allclose(values["gradient"], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "layers", "blocks"),
    [
        ({"order": "relu_only_pre", "shortcut": "C", "norm": "filter_response", "weights": "standardized"}, 7, 3),
        ({"order": "pre", "block": "bottleneck", "depth": 11, "norm": "instance"}, 10, 3),
        ({"norm": "none", "residual_scale": "fixup", "shortcut": "exclusive_gate"}, 7, 3),
        ({"order": "norm_after_addition", "norm": "ghost_batch", "dropout": 0.5, "stochastic_depth": 0.5}, 7, 3),
        ({"auxiliary": (1,), "zero_last_scale": True}, 7, 3),
    ],
)
def test_every_kind_of_network_has_a_number_for_each_layer(fields, layers, blocks):
    measure, state = prepared(**{f"model__{name}": value for name, value in fields.items()})
    by_block = dict.fromkeys(("mean", "variance", "similarity"), (blocks,))
    by_layer = dict.fromkeys(("response", "gradient"), (layers,))
    shapes = {name: value.shape for name, value in jax.eval_shape(measure, state.params).items()}
    assert shapes == by_block | by_layer


def test_numbers_of_random_networks_are_finite():
    fields = {"norm": "ghost_batch", "dropout": 0.5, "stochastic_depth": 0.5, "shortcut": "exclusive_gate"}
    values, _ = probed(**{f"model__{name}": value for name, value in fields.items()})
    assert all(np.isfinite(value).all() for value in values.values())


def test_a_scanned_stage_is_in_the_order_of_its_blocks():
    """A kernel of zeros in the fourth of four blocks: no response there, and no gradient for what is before it."""
    measure, state = prepared(model__depth=26, model__norm="none", model__shortcut="none")
    state.params["stage1_rest"]["conv2"]["kernel"][2] = 0.0
    values = jax.jit(measure)(state.params)
    assert {name: len(value) for name, value in values.items()} == {
        "response": 25,
        "gradient": 25,
        "mean": 12,
        "variance": 12,
        "similarity": 12,
    }
    assert np.flatnonzero(np.asarray(values["response"]) == 0)[0] == 2 * 4  # after the stem and seven others
    assert np.flatnonzero(np.asarray(values["variance"]) == 0)[0] == 3


def test_numbers_beyond_float32s_squares():
    kernel = np.full((3, 3, 2, 2), 1e-30, np.float32)
    assert float(probe.length(jnp.asarray(kernel))) == pytest.approx(6e-30, rel=1e-5)
    assert float(probe.length(jnp.zeros((3, 3, 2, 2)))) == 0
    tiny = jnp.asarray([[1e-25, 0], [1e-25, 1e-25]])
    assert float(probe.similarity(tiny)) == pytest.approx(0.5**0.5)
    assert np.isnan(probe.similarity(tiny[:1]))


# --- in a run


@pytest.fixture(scope="module")
def built():
    return programs(**TINY, train__probe_every=2)


@pytest.fixture(scope="module")
def straight(built):
    return [(event, jax.tree.map(np.asarray, state)) for event, state in fit(built, built.initial_state())]


def test_a_run_is_probed_at_its_steps_and_computes_the_same(straight):
    without = programs(**TINY)
    plain = list(fit(without, without.initial_state()))
    assert [event.step for event, _ in straight if event.kind == "probe"] == [0, 2, 4]
    assert [event for event, _ in straight if event.kind != "probe"] == [event for event, _ in plain]  # bit for bit
    jax.tree.map(np.testing.assert_array_equal, straight[-1][1], jax.tree.map(np.asarray, plain[-1][1]))
    first = next(event.values for event, _ in straight if event.kind == "probe")
    assert [len(first[name]) for name in probe.QUANTITIES] == [7, 7, 3, 3, 3]


def interrupted(built, asked):
    """Returns the events, but for checkpoints, of a run that is stopped when it asks once more, and goes on."""
    calls, seen, until = itertools.count(1), [], 0
    state, measured = built.initial_state(), {}
    for event, at in fit(built, built.initial_state(), lambda: next(calls) >= asked):
        seen.append(event)
        if event.kind == "checkpoint":
            state, measured, until = jax.tree.map(jnp.copy, at), event.values, len(seen)
    resumed = [event for event, _ in fit(built, state, measured=measured)]
    return [event for event in seen[:until] + resumed if event.kind != "checkpoint"]


@pytest.mark.parametrize("asked", range(1, 10))
def test_stopped_anywhere_it_goes_on_to_the_same_lines(built, straight, asked):
    assert interrupted(built, asked) == [event for event, _ in straight if event.kind != "checkpoint"]


def test_eight_devices_measure_what_one_does(straight):
    eight = programs(8, **TINY, train__parallel="pmap", train__probe_every=2)
    first = next(event.values for event, _ in straight if event.kind == "probe")
    second = eight.probe(eight.initial_state())
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-4, atol=1e-5)


def test_the_field_changes_no_id_and_is_for_resnets():
    old = config().to_dict()
    del old["train"]["probe_every"]
    assert digest(old) == digest(config())
    assert digest(config(train__probe_every=2)) != digest(config())
    with pytest.raises(
        UserError, match=r"config.train.probe_every=2: only ResNets have probes, not model.family='vgg'"
    ):
        config(model__family="vgg", model__depth=11, train__probe_every=2)


def test_every_arm_is_probed_on_its_own_data_and_drawn(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(local, "load_data", lambda config: asked.append(config.data.fraction))
    values = {key: [1.0, None, 2.0] for key in probe.QUANTITIES}
    monkeypatch.setattr(probe_commands, "initial", lambda config, dataset: values)
    grid = ["--vary=data.fraction=0.5,1.0", "--vary=model.norm=batch,group"]
    written = [f"--json={tmp_path / 'all.json'}", f"--draw={tmp_path / 'drawn'}"]
    assert main(["probe", "--config=base:demo", *grid, *written]) == 0
    assert asked == [0.5, 1.0]
    arms = json.loads((tmp_path / "all.json").read_text())["arms"]
    assert [arm["config"]["model.norm"] for arm in arms] == ["batch", "group"] * 2
    assert all(arm["values"] == values for arm in arms)
    assert len(list((tmp_path / "drawn").glob("*.png"))) >= 4
    assert main(["probe", "--config=base:demo", "--seeds=0"]) == 2


def test_every_arm_of_the_experiment_is_probed():
    for size, depths in {"demo": (8, 20), "short": (20, 56), "paper": (20, 56, 110)}.items():
        arms = sweep.expand(f"signals:{size}", {}, 1)
        assert len(arms) == 10 * len(depths)
        assert {arm.config.train.probe_every * 4 for arm in arms} == {arms[0].config.train.steps}
        grouped = [arm.config.model for arm in arms if arm.config.model.norm == "group"]
        assert {(model.norm_groups, model.width) for model in grouped} == {(4, 8) if size == "demo" else (8, 16)}


# --- the command


def test_the_command_says_what_it_measured(monkeypatch, capsys):
    values = probe_commands.initial(config(), DATASET)

    def taken(state, path):
        return replace(state, params=jax.tree.map(jnp.zeros_like, state.params)), {}, [f"from {path}"]

    monkeypatch.setattr(finished, "init_from", taken)
    assert set(probe_commands.initial(config(init_from="a/run"), DATASET)["gradient"]) == {0.0}
    assert capsys.readouterr().out == "from a/run\n"
    text = probe_commands.table("an arm", values | {"gradient": [None, 2.0, 3.0]})
    rows = [line.split() for line in text.splitlines()]
    assert rows[3] == ["gradient", "norm", "of", "the", "kernels", "3", "layers", "not", "finite", "2.5", "3"]
    assert rows[4][:7] == ["mean", "of", "the", "residual", "stream", "3", "blocks"]
    assert json.loads(json.dumps(values)) == values
    with pytest.raises(UserError, match="only ResNets"):
        probe_commands.initial(config(model__family="vgg", model__depth=11), DATASET)
    with pytest.raises(UserError, match=r"config.model.module='net.py:Net': only ResNets"):
        probe_commands.initial(config(model__module="net.py:Net"), DATASET)
