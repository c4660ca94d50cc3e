"""Finished runs in one file, for PyTorch and for serving."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_finished import OWN, embedded, logits_of, saved_run

from normres import runs
from normres.errors import UserError
from normres.interop import network_from_torch
from normres.runs import config as configs
from normres.runs import export, finished
from normres.runs.fields import digest

IMAGES = embedded().test_images[:3]


@pytest.fixture(scope="module")
def projections(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("export") / "run", model__depth=14, model__shortcut="B")


def written(path, output, form="safetensors", **options):
    export.export(path, output, form, **options)
    return output


def test_safetensors_have_the_weights_and_say_where_they_are_from(projections, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    file = written(projections, tmp_path / "net.safetensors")
    run = runs.load(projections)
    variables = network_from_torch(safetensors.load_file(file), run.module.config)
    np.testing.assert_array_equal(logits_of(replace(run, variables=variables), IMAGES), logits_of(run, IMAGES))
    content = file.read_bytes()
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert (about["format"], about["step"], about["config_digest"]) == ("pt", "3", digest(run.config))
    assert configs.apply(finished.rebuilt(json.loads(about["config"])), {}) == run.config
    numbers = json.loads(about["preprocess"])
    assert numbers["formula"] == "images / 255 - mean"
    np.testing.assert_allclose(IMAGES / 255 - numbers["mean"], run.preprocess(IMAGES), atol=1e-6)


def test_a_folded_state_dict_is_the_other_by_the_formula(projections):
    safetensors = pytest.importorskip("safetensors.numpy")
    plain = export.state_dict(runs.load(projections))
    folded = safetensors.load_file(written(projections, projections / "f.safetensors", fold=True))
    convolutions = {key.removesuffix(".weight") for key, array in plain.items() if array.ndim == 4}
    assert len(convolutions) == 15  # stem, 12 in the branches, 2 projections
    assert folded.keys() == {f"{path}.{leaf}" for path in [*convolutions, "fc"] for leaf in ("weight", "bias")}
    np.testing.assert_array_equal(folded["fc.weight"], plain["fc.weight"])
    for path in convolutions:
        norm = path.replace("conv", "bn").replace("downsample.0", "downsample.1")
        factor = plain[f"{norm}.weight"] / np.sqrt(plain[f"{norm}.running_var"] + 1e-5)
        bias = plain[f"{norm}.bias"] - plain[f"{norm}.running_mean"] * factor
        kernel = plain[f"{path}.weight"] * factor[:, None, None, None]
        np.testing.assert_allclose(folded[f"{path}.weight"], kernel, rtol=1e-5, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(folded[f"{path}.bias"], bias, rtol=1e-5, atol=1e-6, err_msg=path)


def test_stablehlo_is_read_without_normres(projections, tmp_path):
    pytest.importorskip("flatbuffers")
    for fold in (False, True):
        written(projections, tmp_path / f"{fold}.stablehlo", form="stablehlo", fold=fold)
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, numpy as np, jax.export\n"
        "images = np.load('images.npy')\n"
        "for name in ('False', 'True'):\n"
        "    network = jax.export.deserialize(bytearray(open(f'{name}.stablehlo', 'rb').read()))\n"
        "    np.save(name, np.concatenate([network.call(images[:1]), network.call(images[1:])]))\n"
        "    print(network.platforms, [name for name in sys.modules if 'normres' in name])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said == "('cpu', 'cuda', 'tpu') []\n" * 2
    expected = logits_of(runs.load(projections), IMAGES)
    for fold in (False, True):
        np.testing.assert_allclose(np.load(tmp_path / f"{fold}.npy"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "missing", "message"),
    [
        ({"form": "torch"}, "torch", "--format=torch needs PyTorch, which is not here; --format=safetensors "),
        ({}, "safetensors.numpy", "safetensors is needed: pip install 'normres[export]'"),
        ({"form": "stablehlo"}, "flatbuffers", "flatbuffers is needed: pip install 'normres[export]'"),
        ({"form": "onnx"}, "torch", "--format=onnx does not exist; choices: safetensors, torch, stablehlo"),
        ({"dtype": "float16"}, "torch", "--dtype=float16 does not exist; did you mean 'bfloat16'?"),
    ],
)
def test_what_cannot_be_written_is_one_line(projections, tmp_path, monkeypatch, options, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError) as caught:
        written(projections, tmp_path / "net", **options)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "net").exists()


def test_a_vgg_and_a_module_of_the_users_are_loaded_and_exported(tmp_path):
    own = saved_run(tmp_path / "own", model__module=OWN)
    vgg = saved_run(tmp_path / "vgg", model__family="vgg", model__depth=11, model__width=2)
    for path in (own, vgg):
        assert np.ptp(logits_of(runs.load(path), IMAGES)) > 0
    with pytest.raises(UserError, match="own: --format=safetensors knows no module of yours"):
        export.export(own, tmp_path / "x", "safetensors")
    keys = export.state_dict(runs.load(vgg))
    # torchvision.models.vgg11_bn().features has its convolutions there.
    convolutions = [key for key, array in keys.items() if array.ndim == 4]
    assert convolutions == [f"features.{number}.weight" for number in (0, 4, 8, 11, 15, 18, 22, 25)]
    assert {"features.1.running_var", "features.0.bias", "classifier.weight"} <= keys.keys()
