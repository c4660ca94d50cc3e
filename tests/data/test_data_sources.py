"""The table of sources: names, paths, records, memory, what `auto` takes, and the sources that need no files."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from data_files import CIFAR10_NAMES, archive, error_line, record, release, same

from normres.configs import base
from normres.data import builtin, load
from normres.data.sources import SOURCES
from normres.runs import config as configs
from normres.runs import local


@pytest.mark.parametrize(
    ("name", "source", "fields", "message"),
    [
        ("cifar10", "binery", {}, "data.source: unknown source 'binery'; did you mean 'binary'?"),
        ("cifar-10", "binary", {}, "data.name: unknown data set 'cifar-10'; did you mean 'cifar10'?"),
        ("cifar10", "npz", {}, "data.path is empty; data.source='npz' needs"),
        # Without a path, auto is the embedded images.
        (
            "cifar10",
            "auto",
            {"image_size": 64},
            "data.image_size=64: the source 'embedded' cannot do this; data.source",
        ),
        ("cifar10", "auto", {"stream": "always"}, "data.stream='always': the source 'embedded' cannot do this; data.s"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_read(name, source, fields, message):
    assert error_line(name, source, **fields).startswith(message)


def test_what_auto_takes_does_not_ignore_a_field(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    (tmp_path / "folder.npz").mkdir()
    assert "holds nothing that a source knows" in error_line("mine", "auto", tmp_path / "folder.npz")
    line = error_line("mine", "auto", tmp_path / "x.npz", stream="always")
    assert line == "data.stream='always': the source 'npz' cannot do this; data.source=tfds, auto can"


def test_summary_is_json_and_depends_on_every_array(tmp_path):
    data = load("cifar10", "binary", str(release(tmp_path, "binary", "cifar10")), verify=False)
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


def test_images_that_fit_no_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2_000_000, "SC_PAGE_SIZE": 4_096}.get)
    line = error_line("cifar10", "synthetic", image_size=4096)
    assert line.startswith("data.image_size=4096: 1,500 images of 4096x4096x3 take 75.5 GB, more than half")
    for place in (tmp_path / "train" / "cat", tmp_path / "test" / "cat"):
        place.mkdir(parents=True)
        for number in range(3):
            (place / f"{number}.png").touch()
    line = error_line("mine", "folder", tmp_path, image_size=10**6)
    assert line.startswith(f"data.path: {tmp_path}/train: 3 images of 1000000x1000000x3 take 9,000.0 GB")


# ---- without files

# sha256 of whole 3,073-byte records cut out of the official files (md5 as in official.LAYOUTS).
RECORDS = {
    # data_batch_1.bin record 0, a frog, so the first example of class 6: 6 * 256 = 1536;
    ("train", 1536, 6): "945dc5584f8efcf7dc58367c3b072c0a23dacc05ae824d7c77a33874a8ec83c7",
    # data_batch_1.bin record 2531, the 256th truck;
    ("train", 2559, 9): "cb2e320f618cc5ee4e6e5c3eb9b3ba105a82311c915dc1b04ab7884b9d45efc9",
    # test_batch.bin record 0, a cat, so the first example of class 3: 3 * 64 = 192.
    ("test", 192, 3): "35ce668430e638d9f487715a81e2051fc1b8ca1263461ce72179c29bfdbc1ee8",
}


def test_embedded_images_are_the_official_bytes(tmp_path):
    data = load("cifar10", "embedded")
    assert (data.train_images.shape, data.test_images.shape) == ((2560, 32, 32, 3), (640, 32, 32, 3))
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert list(data.class_names) == CIFAR10_NAMES
    for kind, sha256 in json.loads((builtin.FOLDER / "labels.json").read_text())["sha256"].items():
        assert hashlib.sha256(getattr(data, kind).astype(np.uint8).tobytes()).hexdigest() == sha256
    for (split, index, label), sha256 in RECORDS.items():
        images, labels = data.split(split)
        assert labels[index] == label
        official = record(label, pixels=images[index].transpose(2, 0, 1).ravel())
        assert hashlib.sha256(official).hexdigest() == sha256
    for line in (error_line("cifar100", "embedded"), error_line("cifar10", "embedded", tmp_path)):
        assert "the source 'embedded' has only cifar10 and reads no path; set data.source=binary" in line


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_synthetic_images_are_balanced_and_the_same_everywhere(name, classes):
    data = load(name, "synthetic", image_size=2)
    for split, count in (("train", 1000), ("test", 500)):
        images, labels = data.split(split)
        assert (images.shape, labels.dtype) == ((count, 2, 2, 3), np.int32)
        np.testing.assert_array_equal(np.bincount(labels), [count // classes] * classes)
    assert len(data.class_names) == classes
    # The training images are not the test images again.
    assert not np.array_equal(data.train_images[:500], data.test_images)
    # NumPy promises the streams of bits, not what `integers` makes of them, so a change has to be noticed.
    if name == "cifar10":
        assert data.sha256 == "e2b9ff8c045373c857a79ffdbbb8488d16a1fb72aa57be4e0bf40defb6f9422d"


# ---- auto


@pytest.mark.parametrize(
    ("name", "source", "form"),
    [
        ("cifar10", "binary", "parent"),
        ("cifar100", "binary", ".tar.gz"),
        ("cifar10", "python", ".tar"),
        ("cifar100", "python", "folder"),
    ],
)
def test_auto_takes_what_lies_there(tmp_path, name, source, form):
    folder = release(tmp_path, source, name)
    path = {"folder": folder, "parent": tmp_path}.get(form) or archive(folder, form)
    data = load(name, "auto", str(path), verify=False)
    assert data.source == source
    assert same(data, load(name, source, str(path), verify=False))


def test_downloaded_files_beside_a_prepared_set_are_not_taken_for_it(tmp_path):
    for file in ("cifar10/3.0.2/dataset_info.json", "cifar10-parquet/train-0.parquet"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert [name for name, source in SOURCES.items() if source.lies_at(tmp_path)] == ["tfds"]


def test_auto_never_takes_the_embedded_images_in_the_place_of_a_path(tmp_path):
    # A mistyped path would otherwise train on 2,560 images for hours.
    line = error_line("cifar10", "auto", tmp_path / "cifar")
    assert f"{tmp_path / 'cifar'} does not exist; without files there is data.source=embedded" in line
    line = error_line("cifar10", "auto", tmp_path)
    assert f"{tmp_path} holds nothing that a source knows; binary: " in line
    (tmp_path / "x").write_text("text")
    assert f"{tmp_path / 'x'} is damaged, incomplete or no .tar.gz" in error_line("cifar10", "auto", tmp_path / "x")
    assert "cannot be read: Could not determine home" in error_line("cifar10", "auto", "~nobody-of-this-name/x")


def test_auto_says_what_it_took_and_synthetic_what_it_is(capsys):
    assert local.load_data(configs.apply(base.get_config(), {"data.source": "auto"})).source == "embedded"
    assert capsys.readouterr().out == "data.source=auto: took embedded\n"
    local.load_data(configs.apply(base.get_config(), {"data.source": "synthetic"}))
    assert "random pixels" in capsys.readouterr().out
