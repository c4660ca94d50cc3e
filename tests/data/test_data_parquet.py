"""The source `parquet`: rows become images, the official md5 holds, a bad file is one clear line, the hub stands in."""

import dataclasses
import hashlib
import http.server
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import CIFAR10_NAMES, error_line, png, serving

from normres.data import commands, files, load, official


def images(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def write(file, pictures, labels, image="img", label="label", names=None):
    """Writes a file of rows; a picture is an array, or bytes that stand as they are."""
    contents = [picture if isinstance(picture, bytes) else png(picture) for picture in pictures]
    structs = [{"bytes": content, "path": None} for content in contents]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(structs, kind), label: pa.array(labels, pa.int64())})
    if names:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A release of 20 + 10 images, whose md5 are known: the data set's folder, and its images and labels."""
    train, test = images(20), images(10, seed=1)
    labels = np.arange(20) % 10
    layout = official.LAYOUTS["binary", "cifar10"]
    md5 = []
    for pixels in (train[:10], train[10:], test):
        planes = pixels.transpose(0, 3, 1, 2).reshape(10, -1)
        md5.append(hashlib.md5(np.concatenate([labels[:10, None].astype(np.uint8), planes], 1).tobytes()).hexdigest())
    files = {"one.bin": md5[0], "two.bin": md5[1], "test.bin": md5[2]}
    monkeypatch.setitem(official.LAYOUTS, ("binary", "cifar10"), dataclasses.replace(layout, md5=files))
    monkeypatch.setattr(official, "EXAMPLES", {"train": 20, "test": 10})
    folder = tmp_path / "hub"
    # The second official file comes first, as the hub has it; two Parquet files of one split, and a folder between.
    hub = np.concatenate([train[10:], train[:10]])
    write(folder / "plain_text/train-0.parquet", hub[:12], labels[:12], names=CIFAR10_NAMES)
    write(folder / "plain_text/train-1.parquet", hub[12:], labels[12:], names=CIFAR10_NAMES)
    write(folder / "plain_text/test-0.parquet", test, labels[:10], names=CIFAR10_NAMES)
    return folder, train, labels


def test_official_images_are_checked_at_their_own_size(small, monkeypatch):
    folder, *_ = small
    line = error_line("cifar10", "parquet", folder, image_size=16)
    assert "data.image_size=16: the checksums are of 32x32 pixels" in line
    assert load("cifar10", "parquet", str(folder), verify=False, image_size=16).train_images.shape == (20, 16, 16, 3)
    monkeypatch.setattr(files, "physical_memory", lambda: 100_000)  # of the two files, one has 36,864 bytes
    assert "train: 20 images of 32x32x3 take" in error_line("cifar10", "parquet", folder)


def test_rows_become_the_official_images(small):
    folder, train, labels = small
    for source in ("parquet", "auto"):
        dataset = load("cifar10", source, str(folder))
        assert dataset.source == "parquet"
        np.testing.assert_array_equal(dataset.train_images, train)
        np.testing.assert_array_equal(dataset.train_labels, labels)
        assert (dataset.class_names, len(dataset.test_labels)) == (tuple(CIFAR10_NAMES), 10)


def test_a_changed_pixel_or_order_is_not_official(small):
    folder, train, labels = small
    test = folder / "plain_text/test-0.parquet"
    write(test, images(10, seed=1)[::-1], labels[:10], names=CIFAR10_NAMES)
    said = error_line("cifar10", "parquet", folder).partition("the test rows make no official files: altered")[2]
    assert "data.verify=False" in said
    assert len(load("cifar10", "parquet", str(folder), verify=False).test_labels) == 10
    write(test, train[:5], labels[:5])
    line = error_line("cifar10", "parquet", folder)
    assert "test has 5 records of 5 kinds, 1 to 1 of each kind, not cifar10's 10 of 10" in line
    # An official file that stands twice.
    twice = np.concatenate([train[10:], train[10:]])
    write(folder / "plain_text/train-0.parquet", twice[:12], labels[:12], names=CIFAR10_NAMES)
    write(folder / "plain_text/train-1.parquet", twice[12:], labels[12:], names=CIFAR10_NAMES)
    assert "the train rows make no official files" in error_line("cifar10", "parquet", folder)


def test_any_images_of_any_size_under_a_name_of_their_own(tmp_path):
    write(tmp_path / "train-0.parquet", images(4, 48), [0, 2, 1, 2], image="image", label="fine_label")
    write(tmp_path / "validation-0.parquet", images(3, 20), [0, 0, 2], image="image", label="fine_label")
    dataset = load("mine", "parquet", str(tmp_path), image_size=16)
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((4, 16, 16, 3), (3, 16, 16, 3))
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.summary()["splits"]["test_set"] == {"split": "validation"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "test-0.parquet is no Parquet file, or damaged"),
        (lambda file: file.write_bytes(b"PAR1 nothing PAR1"), "test-0.parquet is no Parquet file, or damaged"),
        (lambda file: file.unlink(), "has no test-*.parquet; the source 'parquet' needs"),
        (
            lambda file: pq.write_table(pa.table({"pixels": [1], "label": [2]}), file),
            "needs a column of images (a struct with `bytes`) and one of integer labels",
        ),
        (lambda file: write(file, images(1), [0], label="target"), "(label, fine_label, labels); it has img, target"),
        (lambda file: write(file, [], []), "test-0.parquet has no rows"),
        (lambda file: write(file, [png(images(1)[0])[:-30]], [0]), "test-0.parquet: row 0 is no readable PNG or JPEG"),
        (lambda file: write(file, images(1), [None]), "test-0.parquet: row 0 lacks its image or its label"),
        (lambda file: write(file, images(1), [10]), "test_labels has label 10 in record 0, outside 0..9"),
    ],
)
def test_a_bad_file_is_one_line(small, damage, message):
    damage(small[0] / "plain_text/test-0.parquet")
    assert message in error_line("cifar10", "parquet", small[0], verify=False)


def test_the_hub_stands_in_for_a_university_that_fails(small, tmp_path, monkeypatch, capsys):
    served = tmp_path / "served"
    (served / "cifar10/resolve/main").mkdir(parents=True)
    small[0].rename(served / "cifar10/resolve/main/hub")
    files = [f"cifar10/resolve/main/hub/plain_text/{name}.parquet" for name in ("train-0", "train-1", "test-0")]
    monkeypatch.setitem(commands.HUB_FILES, "cifar10", files)
    with serving(partial(http.server.SimpleHTTPRequestHandler, directory=served)) as site:
        folder = commands.download("cifar10", tmp_path / "data", f"{site}gone/", site)
    said = f"gone/cifar-10-binary.tar.gz: not reachable (HTTP Error 404: File not found); took {site}cifar10"
    assert said in capsys.readouterr().out
    assert len(load("cifar10", "auto", str(folder)).train_labels) == 20
