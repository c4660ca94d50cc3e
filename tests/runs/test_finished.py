"""Finished runs: loaded, measured, and the start of other runs; test_export.py writes them for other programs."""

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from normres import cli, data, runs
from normres.errors import UserError
from normres.runs import checkpoint, durable, fields, finished, local, results
from normres.runs import config as configs
from normres.runs.fields import declared, digest
from normres.training.networks import build_network, user_module
from normres.training.programs import Programs
from normres.training.step import build_state

TINY = {
    "model.depth": 8,
    "model.width": 4,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.eval_batch_size": 320,
    "train.eval_every": 2,
    "train.dtype": "float32",
    "train.ops": "plain",
    "train.keep": ("last", "best"),
    "data.fraction": 0.05,
    "optim.warmup_steps": 2,
}
OWN = f"{Path(__file__).with_name('small_network.py')}:Net"


def config_of(**fields):
    return configs.load("base:demo", {**TINY, **{name.replace("__", "."): value for name, value in fields.items()}})


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    devices = jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices)
        yield


@cache
def initial_state(**fields):
    config = config_of(**fields)
    return Programs(config, local.load_data(config), "float32").initial_state()


def saved_run(path, state=None, **fields):
    """Writes the checkpoint of a run that did nothing, with weights and running statistics off their initial values."""
    config = config_of(**fields)
    programs = Programs(config, dataset := local.load_data(config), "float32")
    state = state or initial_state(**fields)
    state = jax.tree.map(lambda leaf: leaf * 1.2 + 0.02 if leaf.dtype == jnp.float32 else leaf, state)
    record = {"run_id": path.name, "config_digest": digest(config), "dtype": "float32", "data": dataset.summary()}
    record["preprocess"] = programs.preprocess.summary()
    preprocess = {name: array.tolist() for name, array in programs.preprocess.arrays().items()}
    document = {"config": configs.to_dict(config), "record": record, "metrics": [], "preprocess": preprocess}
    path.mkdir()
    checkpoint.save(path / "checkpoints", 3, state, document, lambda step: False)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "one"
    local.run(config_of(), path, Console(quiet=True), "one")
    return path


def embedded():
    return data.load("cifar10", "embedded")


@pytest.fixture(scope="module")
def images():
    return embedded().test_images


def logits_of(run, images):
    return np.asarray(jax.jit(lambda pixels: run.module.apply(run.variables, run.preprocess(pixels)))(images))


# --- loading


def test_the_loaded_network_makes_the_errors_of_the_record_from_images_prepared_as_in_training(trained, images):
    assert runs.load(trained, dtype="bfloat16").module.config.dtype == jnp.bfloat16
    run, labels = runs.load(trained), embedded().test_labels
    assert np.mean(logits_of(run, images).argmax(-1) != labels) == run.record["final"]["test_error"]
    assert run.step == 4
    mean = local.load_data(run.config).train_images.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(run.preprocess(images[:3]), images[:3] / 255 - mean / 255, atol=1e-6)
    with pytest.raises(ValueError, match="expected uint8 images with levels 0 to 255, got float32"):
        run.preprocess(np.float32(images[:3]))


@pytest.mark.parametrize("kind", ["channel_mean_std", "image_standardization"])
def test_numbers_of_channels_come_from_the_record(tmp_path, images, kind, monkeypatch):
    path = saved_run(tmp_path / "run", initial_state(), data__preprocess=kind)
    train = local.load_data(config_of()).train_images / 255
    monkeypatch.setattr(local, "load_data", None)
    run = runs.load(path)
    x = images[:2] / 255
    expected = {
        "channel_mean_std": (x - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2)),
        "image_standardization": (x - x.mean(axis=(1, 2, 3), keepdims=True)) / x.std(axis=(1, 2, 3), keepdims=True),
    }
    np.testing.assert_allclose(run.preprocess(images[:2]), expected[kind], atol=1e-5)


def test_a_run_of_several_devices_trains_on_alone(tmp_path, images):
    run = runs.load(saved_run(tmp_path / "run", initial_state(), train__parallel="pmap"))
    x = run.preprocess(images[:2])
    jax.eval_shape(partial(run.module.clone(train=True).apply, mutable="batch_stats"), run.variables, x)


def test_nothing_to_load_is_one_line(tmp_path):
    for message in ("no run here", "no checkpoint to read"):
        with pytest.raises(UserError, match=message):
            runs.load(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)


def test_a_run_that_is_older_than_a_field_has_the_value_of_then(trained, monkeypatch):
    values = finished.open_run(trained).document["config"]
    values["train"]["seeds_per_program"] = 1  # of versions that are gone
    assert finished.rebuilt(values) == config_of()
    younger = {"optim.epsilon": replace(declared()["optim.epsilon"], before=0.5)}
    monkeypatch.setattr(fields, "declared", lambda known=declared(): {**known, **younger})  # noqa: B008
    del values["optim"]["epsilon"]
    assert finished.rebuilt(values).optim.epsilon == 0.5


# --- evaluation


def test_without_overrides_the_numbers_are_the_records(trained):
    last, best = (finished.evaluate(trained, which=which) for which in ("last", "best"))
    record = runs.load(trained).record
    assert {f"test_{name}": value for name, value in last["values"].items()}.items() <= record["final"].items()
    assert (best["values"]["error"], best["step"]) == (record["best_test_error"], record["best_test_step"])
    assert last["data"] == best["data"] == record["data"]


def test_a_module_with_other_weights_by_now_is_one_line(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(Path(OWN.rpartition(":")[0]).read_text())
    module = {"model__module": f"{file}:Net"}
    path = saved_run(tmp_path / "run", initial_state(**module), **module)
    file.write_text(file.read_text().replace("nn.Dense(self.classes)", 'nn.Dense(self.classes, name="renamed")'))
    user_module.cache_clear()
    with pytest.raises(UserError, match=r"config.model.module: .* has the shape absent, and .* in the run"):
        finished.evaluate(path)


def test_other_data_are_prepared_with_the_runs_own_statistics(trained, images, tmp_path):
    labels = np.arange(40) % 10
    dark = images[:40] // 2
    file = tmp_path / "dark.npz"
    # Fewer to train on than a batch has.
    np.savez(file, train_images=dark[:10], train_labels=labels[:10], test_images=dark, test_labels=labels)
    overrides = {"source": "npz", "path": str(file), "name": "dark"}
    overrides = {f"data.{name}": value for name, value in overrides.items()} | {"train.eval_batch_size": "16"}
    result = finished.evaluate(trained, overrides)
    log = jax.nn.log_softmax(logits_of(runs.load(trained), dark))
    np.testing.assert_allclose(result["values"]["loss"], -np.mean(np.asarray(log)[np.arange(40), labels]), rtol=1e-5)
    assert result["data"]["test_examples"] == 40
    # The same classes in another order: their numbers mean others.
    names = runs.load(trained).record["data"]["class_names"][::-1]
    np.savez(file, train_images=dark, train_labels=labels, test_images=dark, test_labels=labels, class_names=names)
    with pytest.raises(UserError, match=r"the classes are truck, ship, horse, \.\.\. in another order than the run's"):
        finished.evaluate(trained, overrides)


def test_where_the_data_lie_and_how_the_run_was_trained_do_not_count(images, tmp_path, monkeypatch):
    labels, one = np.arange(96) % 10, jax.devices()[:1]
    arrays = {"train_images": images[:96], "train_labels": labels, "test_images": images[:9], "test_labels": labels[:9]}
    for name in ("here", "moved"):
        np.savez(tmp_path / name, **arrays)
    fields = {"data__source": "npz", "data__path": str(tmp_path / "here.npz"), "data__fraction": 1.0}
    fields |= {"data__validation": 64, "data__evaluate_on": "validation", "data__cutout": 12}
    fields |= {"data__preprocess": "channel_mean", "train__parallel": "pmap"}
    fields |= {"model__norm": "ghost_batch", "model__norm_sub_batches": 16}  # of one device: a half does not divide
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: one)
        run = saved_run(tmp_path / "run", **fields)
    moved = finished.evaluate(run, {"data.path": str(tmp_path / "moved.npz")})["data"]
    assert (moved["evaluated_on"], moved["test_examples"]) == ("validation", 64)
    small = finished.evaluate(run, {"data.source": "synthetic", "data.image_size": 8})["data"]
    assert (small["evaluated_on"], small["image_shape"]) == ("test", [8, 8, 3])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.depth", 14, r"config\.model\.depth is the run's own and stays; evaluate takes train\.eval_batch_size"),
        ("data.preprocess", "none", r"config\.data\.preprocess is the run's own"),
        ("data.label_noise", 0.5, r"config\.data\.label_noise is the run's own"),
        ("data.cutmix", 1, r"config\.data\.cutmix is the run's own"),
        ("data.sorce", "npz", r"config\.data\.sorce is not a field; did you mean 'data\.source'"),
        ("data.name", "cifar100", r"'cifar100': 100 classes, but the run was trained on 10 \(cifar10\)"),
        ("data.image_size", 16, "images of 16x16x3, but the run subtracts a mean image of 32x32x3"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(trained, name, value, message):
    with pytest.raises(UserError, match=message):
        finished.evaluate(trained, {"data.source": "synthetic", name: value})


@pytest.mark.parametrize("change", [{"data.validation": 32}, {"data.validation": 16, "data.split_seed": 1}])
def test_images_of_the_training_are_no_validation_images(tmp_path, change):
    run = saved_run(tmp_path / "run", data__validation=16)
    measured = finished.evaluate(run, {"data.evaluate_on": "validation"})
    assert measured["data"]["evaluated_on"] == "validation"
    with pytest.raises(UserError, match=r"^config\.data\.validation=.*: the run was trained on images of this set"):
        finished.evaluate(run, {"data.evaluate_on": "validation", **change})


def test_the_training_images_by_another_name_are_no_validation_images(trained, tmp_path, capsys):
    asked = {"data.validation": 100, "data.evaluate_on": "validation"}
    for named in ({"data.source": "embedded"}, {"data.name": "cifar10"}, {"data.source": "synthetic"}):
        with pytest.raises(
            UserError, match=r"^config\.data\.validation=100: the run was trained on images of this set"
        ):
            finished.evaluate(trained, {**asked, **named})


def test_data_that_have_changed_and_runs_that_diverged_are_said(images, tmp_path, capsys):
    labels, file = np.arange(96) % 10, tmp_path / "mine.npz"
    arrays = {"train_images": images[:96], "train_labels": labels, "test_images": images[:9], "test_labels": labels[:9]}
    np.savez(file, **arrays)
    fields = {"data__name": "mine", "data__source": "npz", "data__path": str(file), "data__fraction": 1.0}
    run = saved_run(tmp_path / "run", **fields)
    finished.evaluate(run)
    assert capsys.readouterr().err == ""
    np.savez(file, **{**arrays, "test_labels": labels[1:10]})
    finished.evaluate(run, {"data.corruption_seed": 3})
    unread, changed = capsys.readouterr().err.splitlines()
    assert unread == "warning: config.data.corruption_seed=3 has no effect with config.data.corruptions=()"
    assert changed == "warning: config.data.path: the data have changed since this run"
    finished.evaluate(run, {"data.fraction": 0.5})
    assert capsys.readouterr().err == "warning: config.data.fraction has no effect on the test images\n"
    durable.write_json(run / "config.json", configs.to_dict(config_of(**fields)))
    assert finished.other_data(run, config_of(**fields)) == ""
    elsewhere = config_of(**fields | {"data__path": "other.npz"})
    there = f"config.data.path='other.npz': this run was trained with {str(file)!r}"
    assert finished.other_data(run, elsewhere) == there
    results.write_record(run, {"status": "diverged", "attempts": []})
    with pytest.raises(UserError, match=r"config\.init_from=.*: that run diverged"):
        finished.init_from(initial_state(), run)


def test_running_averages_of_each_row_and_column_fit_one_size_of_images(tmp_path):
    run = saved_run(tmp_path / "run", model__norm="NC", model__norm_groups=1, data__preprocess="channel_mean")
    there = r"for images of 16x16x3, batch_stats\..*\.mean has the shape \(16, 16\), and \(32, 32\) in the run"
    with pytest.raises(UserError, match=rf"^config\.data\.image_size: {there}"):
        finished.evaluate(run, {"data.source": "synthetic", "data.image_size": 16})


# --- the start of another run


def test_a_cumulative_average_counts_the_new_runs_batches_alone(tmp_path):
    run = saved_run(tmp_path / "run", model__norm_average="cumulative")
    state, *_ = finished.init_from(initial_state(model__norm_average="cumulative"), run)
    assert runs.load(run).variables["batch_stats"]["stem_norm1"]["updates"] > 0
    assert state.batch_stats["stem_norm1"]["updates"] == 0


def test_another_network_of_the_same_shapes_is_said(tmp_path):
    run = saved_run(tmp_path / "run")
    same, other = (config_of(init_from=str(run), model__order=order) for order in ("post", "relu_before_addition"))
    assert finished.other_networks(same) == []
    (line,) = finished.other_networks(other)
    assert line == "config.model.order='relu_before_addition': config.init_from was trained with 'post'"


def test_another_run_starts_from_the_last_weights(saved):
    before = initial_state()
    state, summary, lines = finished.init_from(before, saved)
    expected = runs.load(saved).variables
    jax.tree.map(np.testing.assert_array_equal, state.params, expected["params"])
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, expected["batch_stats"])
    jax.tree.map(lambda new, old: new.sharding == old.sharding or pytest.fail("moved"), state.params, before.params)
    assert (state.step, summary["step"], summary["anew"]) == (0, 3, [])
    assert lines == [f"starts from {saved} at its step 3"]


def test_a_classifier_of_other_classes_starts_anew(saved):
    before = initial_state(data__source="synthetic", data__name="cifar100", data__fraction=1.0)
    state, summary, lines = finished.init_from(before, saved)
    assert summary["anew"] == ["params.classifier.bias", "params.classifier.kernel"]
    np.testing.assert_array_equal(state.params["classifier"]["kernel"], before.params["classifier"]["kernel"])
    stem = runs.load(saved).variables["params"]["stem_conv1"]["kernel"]
    np.testing.assert_array_equal(state.params["stem_conv1"]["kernel"], stem)
    assert "10 classes there" in lines[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__depth": 20}, r"params\.stage1_rest\.conv1\.kernel is absent there and \(2, 3, 3, 4, 4\) here"),
        ({"model__width": 5}, r"params\.classifier\.kernel is \(16, 10\) there and \(20, 10\) here"),
        ({"model__norm": "instance"}, r"batch_stats\.stage1_first\.norm1\.mean is \(4,\) there and absent here"),
    ],
)
def test_another_network_is_refused(saved, fields, message):
    config = config_of(**fields)
    build = partial(build_state, config, build_network(config, 10, "float32"), (32, 32, 3))
    with pytest.raises(UserError, match=rf"^config\.init_from=.*: {message}$"):
        finished.init_from(jax.eval_shape(build, jax.random.key(0)), saved)


# --- the commands


def test_the_commands_print_a_table_and_write_files(trained, tmp_path, capsys):
    assert cli.main(["evaluate", str(trained), f"--json={tmp_path / 'out.json'}"]) == 0
    final = runs.load(trained).record["final"]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "one, last weights (step 4), on 640 test images of cifar10 (embedded)"
    assert sorted(line.split() for line in said[1:]) == [
        ["error", f"{final['test_error']:.2%}"],
        ["loss", f"{final['test_loss']:.4f}"],
        ["top5_error", f"{final['test_top5_error']:.2%}"],
    ]
    assert json.loads((tmp_path / "out.json").read_text())["values"]["error"] == final["test_error"]
    safetensors = pytest.importorskip("safetensors.numpy")
    assert cli.main(["export", str(trained), f"--output={tmp_path / 'net.safetensors'}", "--fold"]) == 0
    assert "conv1.bias" in safetensors.load_file(tmp_path / "net.safetensors")
