"""The embedded images: the official bytes, and every damage to them is one clear line."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import CIFAR10_NAMES, error_line, record

from normres.data import builtin, load


def test_embedded_counts_and_balance() -> None:
    data = load("cifar10", "embedded")
    assert data.train_images.shape == (2560, 32, 32, 3)
    assert data.test_images.shape == (640, 32, 32, 3)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(data.train_labels), [256] * 10)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [64] * 10)
    assert list(data.class_names) == CIFAR10_NAMES


@pytest.mark.parametrize(
    ("split", "index", "label", "sha256"),
    [
        # sha256 of whole 3,073-byte records cut out of the official files (md5 as in official.LAYOUTS):
        # data_batch_1.bin record 29, the first airplane;
        ("train", 0, 0, "1e60e24a9e052e4d8a529726ec0b49839af9332fbe3d82fbcbd0f067559e247f"),
        # data_batch_1.bin record 0, a frog, so the first example of class 6: 6 * 256 = 1536;
        ("train", 1536, 6, "945dc5584f8efcf7dc58367c3b072c0a23dacc05ae824d7c77a33874a8ec83c7"),
        # data_batch_1.bin record 2531, the 256th truck;
        ("train", 2559, 9, "cb2e320f618cc5ee4e6e5c3eb9b3ba105a82311c915dc1b04ab7884b9d45efc9"),
        # test_batch.bin record 0, a cat, so the first example of class 3: 3 * 64 = 192.
        ("test", 192, 3, "35ce668430e638d9f487715a81e2051fc1b8ca1263461ce72179c29bfdbc1ee8"),
    ],
)
def test_embedded_images_are_the_official_bytes(split: str, index: int, label: int, sha256: str) -> None:
    data = load("cifar10", "embedded")
    images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
    assert labels[index] == label
    official = record(label, pixels=images[index].transpose(2, 0, 1).ravel())
    assert hashlib.sha256(official).hexdigest() == sha256


@pytest.fixture
def embedded_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "embedded"
    shutil.copytree(str(builtin.FOLDER), folder)
    monkeypatch.setattr(builtin, "FOLDER", folder)
    return folder


def test_embedded_with_one_changed_pixel(embedded_copy: Path) -> None:
    with builtin.Image.open(embedded_copy / "test.png") as picture:
        pixels = np.array(picture)
    pixels[100, 100, 1] ^= 1
    builtin.Image.fromarray(pixels).save(embedded_copy / "test.png")
    # Whatever verify says: the check is as good as free.
    line = error_line("cifar10", "embedded", verify=False)
    assert str(embedded_copy / "test.png") in line
    assert "sha256" in line


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train.png", lambda content: None),
        ("test.png", lambda content: content[:20] + b"\xff\xff" + content[22:]),
        ("labels.json", lambda content: content[: len(content) // 2]),
        ("labels.json", lambda content: b"[1, 2]"),
    ],
)
def test_embedded_with_a_damaged_file(embedded_copy: Path, file: str, damage: Any) -> None:
    path = embedded_copy / file
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    line = error_line("cifar10", "embedded")
    assert str(path) in line
    assert "install normres again" in line


def test_embedded_has_no_cifar100_and_ignores_no_path(tmp_path: Path) -> None:
    for line in (error_line("cifar100", "embedded"), error_line("cifar10", "embedded", tmp_path)):
        assert "the source 'embedded' has only cifar10 and reads no path; set data.source=binary" in line
