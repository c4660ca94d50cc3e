"""The table of sources: names, paths, records, and what `auto` takes."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import archive, binary10, binary100, error_line, python10, python100, same

from normres.configs import base
from normres.data import load
from normres.data.sources import SOURCES
from normres.runs import config as configs
from normres.runs import local


@pytest.mark.parametrize(
    ("name", "source", "fields", "message"),
    [
        ("cifar10", "binery", {}, "data.source: unknown source 'binery'; did you mean 'binary'?"),
        ("cifar-10", "binary", {}, "data.name: unknown data set 'cifar-10'; did you mean 'cifar10'?"),
        *(("cifar10", source, {}, f"data.path is empty; data.source='{source}' needs") for source in ("npz", "tfds")),
        # Without a path, auto is the embedded images.
        (
            "cifar10",
            "auto",
            {"image_size": 64},
            "data.image_size=64: the source 'embedded' cannot do this; data.source=",
        ),
        (
            "cifar10",
            "auto",
            {"stream": "always"},
            "data.stream='always': the source 'embedded' cannot do this; data.s",
        ),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_read(name: str, source: str, fields: Any, message: str) -> None:
    assert error_line(name, source, **fields).startswith(message)


def test_what_auto_takes_does_not_ignore_a_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    line = error_line("mine", "auto", tmp_path / "x.npz", image_size=64)
    assert line.startswith("data.image_size=64: the source 'npz' cannot do this; data.source=parquet, tfds, folder, ")
    line = error_line("mine", "auto", tmp_path / "x.npz", stream="always")
    assert line == "data.stream='always': the source 'npz' cannot do this; data.source=tfds, auto can"


def test_summary_is_json_and_depends_on_every_array(tmp_path: Path) -> None:
    data = load("cifar10", "binary", str(binary10(tmp_path)), verify=False)
    summary = data.summary()
    assert json.loads(json.dumps(summary)) == summary
    digest = hashlib.sha256()
    # The documented order and types, written out independently.
    digest.update(data.train_images.tobytes() + np.asarray(data.train_labels, "<i4").tobytes())
    digest.update(data.test_images.tobytes() + np.asarray(data.test_labels, "<i4").tobytes())
    assert summary == {
        "name": "cifar10",
        "source": "binary",
        "train_examples": 10,
        "test_examples": 2,
        "classes": 10,
        "class_names": list(data.class_names),
        "image_shape": [32, 32, 3],
        "evaluated_on": "test",
        "splits": {},
        "streamed": False,
        "sha256": digest.hexdigest(),
    }
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(data, field).copy()
        changed.flat[0] += 1
        assert dataclasses.replace(data, **{field: changed}).summary()["sha256"] != summary["sha256"]


# ---- synthetic


@pytest.mark.parametrize(("name", "classes", "size"), [("cifar10", 10, 32), ("cifar100", 100, 8)])
def test_synthetic_is_deterministic_balanced_and_says_what_it_is(name: str, classes: int, size: int) -> None:
    data = load(name, "synthetic", image_size=size)
    assert data.summary() == load(name, "synthetic", image_size=size).summary()
    assert data.summary()["source"] == "synthetic"
    assert data.train_images.shape == (1000, size, size, 3)
    assert data.test_images.shape == (500, size, size, 3)
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(data.train_labels), [1000 // classes] * classes)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [500 // classes] * classes)
    assert len(data.class_names) == classes
    # The training images are not the test images again.
    assert not np.array_equal(data.train_images[:500], data.test_images)


def test_synthetic_bytes_are_the_same_everywhere() -> None:
    # NumPy promises the streams of bits, not what `integers` makes of them, so a change has to be noticed.
    assert (
        load("cifar10", "synthetic", image_size=2).sha256
        == "e2b9ff8c045373c857a79ffdbbb8488d16a1fb72aa57be4e0bf40defb6f9422d"
    )


# ---- auto


@pytest.mark.parametrize(
    ("write", "name", "source", "form"),
    [
        (binary10, "cifar10", "binary", "parent"),
        (binary100, "cifar100", "binary", ".tar.gz"),
        (python10, "cifar10", "python", ".tar"),
        (python100, "cifar100", "python", "folder"),
    ],
)
def test_auto_takes_what_lies_there(tmp_path: Path, write: Any, name: str, source: str, form: str) -> None:
    folder = write(tmp_path)
    path = {"folder": folder, "parent": tmp_path}.get(form) or archive(folder, form)
    data = load(name, "auto", str(path), verify=False)
    assert data.source == data.summary()["source"] == source
    assert same(data, load(name, source, str(path), verify=False))


def test_downloaded_files_beside_a_prepared_set_are_not_taken_for_it(tmp_path: Path) -> None:
    for file in ("cifar10/3.0.2/dataset_info.json", "cifar10-parquet/train-0.parquet"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert [name for name, source in SOURCES.items() if source.lies_at(tmp_path)] == ["tfds"]


def test_auto_never_takes_the_embedded_images_in_the_place_of_a_path(tmp_path: Path) -> None:
    # A mistyped path would otherwise train on 2,560 images for hours.
    line = error_line("cifar10", "auto", tmp_path / "cifar")
    assert f"{tmp_path / 'cifar'} does not exist; leave it empty for the embedded images" in line
    line = error_line("cifar10", "auto", tmp_path)
    assert f"{tmp_path} holds nothing that a source knows; binary: " in line
    (tmp_path / "x").write_text("text")
    assert f"{tmp_path / 'x'} is damaged, incomplete or no .tar.gz" in error_line("cifar10", "auto", tmp_path / "x")


def test_auto_names_a_mistake_as_the_source_would(tmp_path: Path) -> None:
    folder = python10(tmp_path)
    assert "set data.source=python and data.name=cifar10" in error_line("cifar100", "auto", folder)
    assert "is a single file; give the folder" in error_line("cifar10", "auto", folder / "data_batch_1")


def test_auto_says_what_it_took_and_synthetic_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert local.load_data(configs.apply(base.get_config(), {"data.source": "auto"})).source == "embedded"
    assert capsys.readouterr().out == "data.source=auto: took embedded\n"
    local.load_data(configs.apply(base.get_config(), {"data.source": "synthetic"}))
    assert "random pixels" in capsys.readouterr().out
