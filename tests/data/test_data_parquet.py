"""The source `parquet`: rows become images, the official md5 holds, a bad file is one clear line, the hub stands in."""

import dataclasses
import hashlib
import http.server
import io
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from normres.data import fetch, load, official
from normres.errors import UserError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def encoded(image, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def write(file, pixels, labels, image="img", label="label", names=None, **other):
    structs = [{"bytes": encoded(one), "path": None} for one in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image: pa.array(structs, kind), label: pa.array(labels, pa.int64()), **other}
    table = pa.table(columns)
    if names:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


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
    few = dataclasses.replace(layout, examples=(20, 10), md5=files)
    monkeypatch.setitem(official.LAYOUTS, ("binary", "cifar10"), few)
    folder = tmp_path / "hub"
    # The second official file comes first, as the hub has it; two Parquet files of one split, and a folder between.
    hub = np.concatenate([train[10:], train[:10]])
    write(folder / "plain_text/train-00000-of-00002.parquet", hub[:12], labels[:12], names=NAMES)
    write(folder / "plain_text/train-00001-of-00002.parquet", hub[12:], labels[12:], names=NAMES)
    write(folder / "plain_text/test-00000-of-00001.parquet", test, labels[:10], names=NAMES)
    return folder, train, labels


def test_rows_become_the_official_images(small):
    folder, train, labels = small
    for source in ("parquet", "auto"):
        dataset = load("cifar10", source, str(folder))
        assert dataset.source == "parquet"
        np.testing.assert_array_equal(dataset.train_images, train)
        np.testing.assert_array_equal(dataset.train_labels, labels)
        assert (dataset.class_names, len(dataset.test_labels)) == (NAMES, 10)


def test_a_changed_pixel_or_order_is_not_official(small):
    folder, train, labels = small
    test = folder / "plain_text/test-00000-of-00001.parquet"
    write(test, images(10, seed=1)[::-1], labels[:10], names=NAMES)
    with pytest.raises(UserError, match=r"test rows from 0 on make no official file .*altered.*data\.verify=False"):
        load("cifar10", "parquet", str(folder))
    assert len(load("cifar10", "parquet", str(folder), verify=False).test_labels) == 10
    write(test, train[:5], labels[:5])
    with pytest.raises(UserError, match=r"test has 5 records of 5 kinds, 1 to 1 of each kind, not CIFAR-10's 10 of 10"):
        load("cifar10", "parquet", str(folder))


def test_a_file_that_stands_twice_is_not_official(small):
    folder, train, labels = small
    twice = np.concatenate([train[10:], train[10:]])
    write(folder / "plain_text/train-00000-of-00002.parquet", twice[:12], labels[:12], names=NAMES)
    write(folder / "plain_text/train-00001-of-00002.parquet", twice[12:], labels[12:], names=NAMES)
    with pytest.raises(UserError, match="train rows from 10 on make no official file"):
        load("cifar10", "parquet", str(folder))


def test_any_images_of_any_size_under_a_name_of_their_own(tmp_path):
    write(tmp_path / "train-0.parquet", images(4, 48), [0, 2, 1, 2], image="image", label="fine_label")
    write(tmp_path / "validation-0.parquet", images(3, 20), [0, 0, 2], image="image", label="fine_label")
    dataset = load("mine", "parquet", str(tmp_path), image_size=16)
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((4, 16, 16, 3), (3, 16, 16, 3))
    assert dataset.class_names == ("0", "1", "2")


def broken(folder, fault):
    file = folder / "plain_text/test-00000-of-00001.parquet"
    match fault:
        case "cut off":
            file.write_bytes(file.read_bytes()[:-40])
        case "no parquet":
            file.write_bytes(b"PAR1 nothing PAR1")
        case "missing":
            file.unlink()
        case "no image":
            pq.write_table(pa.table({"pixels": [1], "label": [2]}), file)
        case "no label":
            write(file, images(1), [0], label="target")
        case "no rows":
            write(file, [], [])
        case "damaged image":
            structs = [{"bytes": encoded(images(1)[0])[:-30], "path": None}]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            pq.write_table(pa.table({"img": pa.array(structs, kind), "label": [0]}), file)
        case "null":
            write(file, images(1), [None])
        case "label":
            write(file, images(1), [10])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut off", "test-00000-of-00001.parquet is no Parquet file, or damaged"),
        ("no parquet", "test-00000-of-00001.parquet is no Parquet file, or damaged"),
        ("missing", "has no test-*.parquet; the source 'parquet' needs"),
        (
            "no image",
            "needs a column of images (a struct with `bytes`) and one of integer labels",
        ),
        ("no label", "and one of integer labels (label, fine_label, labels); it has img, target"),
        ("no rows", "test-00000-of-00001.parquet has no rows"),
        ("damaged image", "test-00000-of-00001.parquet: row 0 is no readable PNG or JPEG"),
        ("null", "test-00000-of-00001.parquet: row 0 lacks its image or its label"),
        ("label", "test_labels has label 10 in record 0, outside 0..9"),
    ],
)
def test_a_bad_file_is_one_line(small, fault, message):
    broken(small[0], fault)
    with pytest.raises(UserError) as caught:
        load("cifar10", "parquet", str(small[0]), verify=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_the_hub_stands_in_for_a_university_that_fails(small, tmp_path, monkeypatch, capsys):
    served = tmp_path / "served"
    (served / "cifar10/resolve/main").mkdir(parents=True)
    small[0].rename(served / "cifar10/resolve/main/hub")
    names = [
        f"plain_text/{split}-0000{n}-of-0000{c}.parquet"
        for split, n, c in (("train", 0, 2), ("train", 1, 2), ("test", 0, 1))
    ]
    monkeypatch.setitem(fetch.HUB_FILES, "cifar10", [f"cifar10/resolve/main/hub/{name}" for name in names])
    handler = lambda *arguments: Quiet(*arguments, directory=served)  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}/"
    try:
        folder = fetch.download("cifar10", tmp_path / "data", f"{site}gone/", site)
    finally:
        server.shutdown()
        server.server_close()
    assert (
        f"gone/cifar-10-binary.tar.gz: not reachable (HTTP Error 404: File not found); took {site}cifar10"
        in capsys.readouterr().out
    )
    assert len(load("cifar10", "auto", str(folder)).train_labels) == 20
