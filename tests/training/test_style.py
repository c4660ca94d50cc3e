"""Style: the losses and the loss network written out, AdaIN's formula, conditions, photographs, runs, and mistakes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from PIL import Image
from rich.console import Console

from normres.data import photographs
from normres.errors import UserError
from normres.models import Stylizer, StylizerConfig
from normres.runs import config as configs
from normres.runs import export, finished, local, results
from normres.training import perceptual

FOUR = ("cells", "stars", "gravel", "bricks")
RANDOM = np.random.default_rng(0)


def convolved(x, kernel):
    padded, side = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), x.shape[1]
    return sum(padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3))


def test_the_loss_network_and_the_losses_written_out():
    network, images = perceptual.loss_network(), RANDOM.uniform(size=(3, 16, 16, 3))
    x, features, grams = (images - network["mean"]) / network["std"], [], []
    for number in range(1, 7):
        x = np.maximum(convolved(x, network[f"kernel{number}"]) + network[f"bias{number}"], 0)
        if number % 2 == 0:
            features.append(x)
            flat = x.reshape(3, -1, x.shape[-1])
            grams.append(np.stack([one.T @ one / len(one) for one in flat]))
            side = x.shape[1] // 2
            x = x.reshape(3, side, 2, side, 2, -1).max((2, 4))
    ours = perceptual.features(network, jnp.asarray(images, jnp.float32))
    for mine, expected in zip(ours, features, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
    # The third image in the style of the first, and in its own.
    style = np.mean([np.sum((gram[2] - gram[0]) ** 2) / np.sum(gram[0] ** 2) for gram in grams])
    content = np.sum((features[1][2] - features[1][1]) ** 2) / np.sum(features[1][1] ** 2)
    third = [of[2:] for of in ours]
    two = [jnp.concatenate([of, of]) for of in third]
    losses = perceptual.style_loss(two, ours, jnp.array([0, 2]))
    np.testing.assert_allclose(losses, [style, 0], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(perceptual.content_loss(third, [of[1:2] for of in ours]), [content], rtol=2e-3)


def test_the_loss_network_says_how_it_was_trained():
    with np.load(str(perceptual.__file__).replace("perceptual.py", "loss_network.npz")) as arrays:
        about = json.loads(str(arrays["about"]))
    assert about["final"]["test_error"] < 0.25
    assert about["config"]["data.preprocess"] == "channel_mean_std"


def network(condition, norm="instance"):
    model = Stylizer(StylizerConfig(depth=8, width=4, classes=4, norm=norm, condition=condition))
    images = jnp.asarray(RANDOM.uniform(size=(4, 16, 16, 3)), jnp.float32)
    return model, images, drawn(model, images)


def test_an_image_in_its_own_style_is_not_normalized():
    """AdaIN(x, x) = x: so the network is the one without norms."""
    model, images, variables = network("picture")
    plain = network("none", norm="none")[0]
    apply = jax.jit(model.apply)
    ours, others = (apply(variables, images, None, styles) for styles in (images, images[::-1]))
    np.testing.assert_allclose(ours, jax.jit(plain.apply)(variables, images), rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(others - ours).max()) > 1e-3


def test_a_label_chooses_scale_and_bias():
    model, images, variables = network("label")
    unconditioned, _, plain = network("none")
    params = variables["params"]
    tables = {name: value for name, value in params.items() if name.endswith(("_scales", "_biases"))}
    assert {table.shape[0] for table in tables.values()} == {4}
    # Row 2 of each table, as the parameters of a network without conditions.
    single = {name: value for name, value in params.items() if name not in tables}
    for name, table in tables.items():
        norm, _, part = name.rpartition("_")
        single.setdefault(norm, {})[{"scales": "scale", "biases": "bias"}[part]] = table[2]
    assert jax.tree.structure(single) == jax.tree.structure(plain["params"])
    labels = jnp.array([0, 2, 2, 1])
    ours = jax.jit(model.apply)(variables, images, labels)
    theirs = jax.jit(unconditioned.apply)({"params": single}, images)
    np.testing.assert_allclose(ours[1:3], theirs[1:3], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(ours[0] - theirs[0]).max()) > 1e-3


def test_photographs():
    dataset = photographs.load_photographs("photographs", "", 16, FOUR)
    assert dataset.train_images.shape == (480, 16, 16, 3)
    assert dataset.test_images.shape == (64, 16, 16, 3)
    assert dataset.styles.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(dataset.test_labels[:6], [0, 1, 2, 3, 0, 1])
    again = photographs.load_photographs("photographs", "", 16, FOUR)
    assert dataset.sha256 == again.sha256
    assert dataset.sha256 != photographs.load_photographs("photographs", "", 16, FOUR[:1]).sha256
    train, test = (set(functions) for functions, _ in photographs.CONTENTS.values())
    assert not train & test


def test_a_run_leaves_losses_and_pictures(tmp_path, monkeypatch):
    # Compiled for eight devices it would take three times as long; test_train.py compares eight with one.
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    values = {
        "model.condition": "picture",
        "model.norm": "instance",
        "model.depth": 8,
        "model.width": 4,
        "data.image_size": 16,
        "data.styles": "cells,stars",
        "train.steps": 4,
        "train.batch_size": 8,
        "train.log_every": 2,
        "train.eval_every": 2,
        "data.validation": 3,
        "data.evaluate_on": "validation",
    }
    path = tmp_path / "run"
    local.run(configs.load("style:demo", values), path, Console(quiet=True), "run")
    run = results.read_run(path)
    names = {f"{split}_{name}" for split in ("train", "test") for name in ("loss", "content_loss", "style_loss")}
    assert set(run.record["final"]) == names
    final = run.record["final"]
    assert final["test_loss"] == pytest.approx(final["test_content_loss"] + final["test_style_loss"], rel=1e-5)
    assert run.record["best_test_error"] is None
    assert [line["step"] for line in run.metrics if line["split"] == "test"] == [2, 4]
    # A row of the three photographs, and two of a style each.
    with Image.open(path / "pictures.png") as picture:
        assert picture.size == (4 * 16, 3 * 16)

    # Its weights can be loaded, though there are no running averages, and measured, but not with other styles.
    loaded = finished.load(path)
    inputs = jnp.zeros((2, 16, 16, 3)), jnp.array([0, 1]), jnp.ones((2, 16, 16, 3))
    made = jax.jit(loaded.module.apply)(loaded.variables, *inputs)
    assert made.shape == (2, 16, 16, 3)
    assert finished.evaluate(path)["values"]["loss"] == pytest.approx(final["test_loss"], rel=1e-4)
    with pytest.raises(UserError, match=r"config.data.styles is the run's own and stays"):
        finished.evaluate(path, {"data.styles": "stars,cells"})
    with pytest.raises(UserError, match=r"only classifiers are exported, not config\.model.family='stylizer'"):
        export.export(path, tmp_path / "run.safetensors", "safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.styles": ""}, "data.styles names no style"),
        ({"data.name": "cifar10"}, "data.name='cifar10' must be 'photographs'"),
        ({"data.source": "embedded", "data.name": "cifar10", "data.image_size": 32}, "needs 'photographs'"),
        ({"data.preprocess": "pixel_mean"}, r"data.preprocess='pixel_mean' must be 'none' with config.model.family"),
        ({"data.mixup": 1.0}, r"data.mixup=1.0 must be 0.0"),
        ({"model.family": "vgg", "model.depth": 11}, "has no classes; it is for config.model.family='stylizer'"),
        ({"model.depth": 9}, r"depth=9 is not 2n \+ 6 for n residual blocks; did you mean 10"),
        ({"data.image_size": 30}, "both sides must be multiples of 4"),
        ({"model.condition": "label", "model.norm": "rms"}, "'rms' does not have both scale and bias"),
        ({"model.condition": "labels"}, "did you mean 'label'"),
        ({"data.styles": "cell"}, "did you mean 'cells'"),
        ({"train.keep": "best"}, "has no test error"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        configs.load("style:demo", values)


def test_no_style():
    with pytest.raises(UserError, match=r"data\.styles names no style; choices: cells"):
        photographs.load_photographs("photographs", "", 16, ())
