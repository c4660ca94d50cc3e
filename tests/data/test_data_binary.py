"""The source `binary`: what arrives is what the official files hold, and every bad file is one clear line."""

import dataclasses
import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_files import CIFAR10_FILES, CIFAR10_NAMES, archive, binary10, binary100, error_line, record, same

from normres.data import load, official


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    return binary10(tmp_path)


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    return binary100(tmp_path)


def test_binary_pixel_placement(cifar10: Path) -> None:
    pixels = np.zeros(3072, np.uint8)
    # Channel-major, row by row: byte = channel * 1024 + row * 32 + column.
    pixels[0 * 1024 + 2 * 32 + 5] = 11  # red of row 2, column 5
    pixels[1 * 1024 + 31 * 32 + 0] = 22  # green of row 31, column 0
    pixels[3071] = 33  # blue of the last row and column
    (cifar10 / "data_batch_2.bin").write_bytes(record(4, value=1) + record(8, pixels=pixels))
    data = load("cifar10", "binary", str(cifar10), verify=False)
    image = data.train_images[3]  # two records of data_batch_1, then the second of data_batch_2
    assert image[2, 5].tolist() == [11, 0, 0]
    assert image[31, 0].tolist() == [0, 22, 0]
    assert image[31, 31].tolist() == [0, 0, 33]
    assert np.count_nonzero(image) == 3
    assert data.train_labels[3] == 8


@pytest.mark.parametrize("form", ["folder", "parent", ".tar.gz", ".tar"])
def test_binary_keeps_the_official_order(cifar10: Path, form: str) -> None:
    path = {"folder": cifar10, "parent": cifar10.parent}.get(form) or archive(cifar10, form)
    if path.is_file():
        shutil.rmtree(cifar10)  # so that unpacking the archive would be seen
    before = sorted(cifar10.parent.rglob("*"))
    data = load("cifar10", "binary", str(path), verify=False)
    assert data.train_labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    assert data.test_labels.tolist() == [5, 9]
    assert data.test_images[:, 31, 31, 2].tolist() == [50, 51]
    assert data.train_images.shape == (10, 32, 32, 3)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert list(data.class_names) == CIFAR10_NAMES
    assert sorted(cifar10.parent.rglob("*")) == before


def test_binary_members_in_any_order_and_folder(cifar10: Path) -> None:
    path = cifar10.parent / "reordered.tar"
    with tarfile.open(path, "w") as tar:
        for file in reversed(CIFAR10_FILES):
            tar.add(cifar10 / file, arcname=f"./{file}")
    expected = load("cifar10", "binary", str(cifar10), verify=False)
    assert same(load("cifar10", "binary", str(path), verify=False), expected)


def test_cifar10_without_the_names_file(cifar10: Path) -> None:
    (cifar10 / "batches.meta.txt").unlink()
    assert list(load("cifar10", "binary", str(cifar10), verify=False).class_names) == CIFAR10_NAMES


@pytest.mark.parametrize("form", ["folder", "parent", ".tar.gz", ".tar"])
def test_cifar100_fine_labels(cifar100: Path, cifar10: Path, form: str) -> None:
    # The CIFAR-10 folder beside it must not confuse the parent form.
    path = {"folder": cifar100, "parent": cifar10.parent}.get(form) or archive(cifar100, form)
    data = load("cifar100", "binary", str(path), verify=False)
    assert data.train_labels.tolist() == [99, 42]  # the second byte; the first is coarse
    assert data.test_labels.tolist() == [7]
    assert data.train_images[1].tolist() == np.full((32, 32, 3), 2).tolist()
    assert data.class_names[42] == "fine_42"
    assert len(data.class_names) == 100


# ---- what is refused


def test_binary_without_a_path() -> None:
    line = error_line("cifar10", "binary")
    assert line.startswith("data.path is empty")
    assert "cifar-10-binary.tar.gz" in line


def test_path_that_is_not_there(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} does not exist" in error_line("cifar10", "binary", tmp_path / "nowhere")
    assert "cannot be read" in error_line("cifar10", "binary", tmp_path / ("x" * 300))


def test_path_of_the_wrong_kind(cifar10: Path) -> None:
    assert "neither a folder nor an archive" in error_line("cifar10", "binary", "/dev/null")
    line = error_line("cifar10", "binary", cifar10 / "data_batch_1.bin")
    assert "data_batch_1.bin is a single file; give the folder" in line


def test_unrelated_folder(tmp_path: Path) -> None:
    line = error_line("cifar10", "binary", tmp_path)
    assert f"{tmp_path} has no data_batch_1.bin and 5 more" in line
    assert "cifar-10-batches-bin" in line


def test_folder_that_holds_the_archive(cifar10: Path) -> None:
    archive(cifar10).rename(cifar10.parent / "cifar-10-binary.tar.gz")
    shutil.rmtree(cifar10)
    assert "give the path of that file" in error_line("cifar10", "binary", cifar10.parent)


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_python_version_given(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"pickle")
    path = {"folder": folder, "parent": tmp_path}.get(form) or archive(folder)
    assert "it holds the python version of CIFAR-10; set data.source=python" in error_line("cifar10", "binary", path)


@pytest.mark.parametrize("file", CIFAR10_FILES)
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_missing_file_is_named(cifar10: Path, file: str, form: str) -> None:
    (cifar10 / file).unlink()
    path = cifar10 if form == "folder" else archive(cifar10)
    line = error_line("cifar10", "binary", path, verify=False)
    assert f"{path} has no {file};" in line


def test_file_that_is_a_folder_counts_as_missing(cifar10: Path) -> None:
    (cifar10 / "test_batch.bin").unlink()
    (cifar10 / "test_batch.bin").mkdir()
    assert "has no test_batch.bin" in error_line("cifar10", "binary", cifar10, verify=False)


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_the_other_data_set_is_recognized(cifar10: Path, cifar100: Path, form: str) -> None:
    def path_of(folder: Path, other: Path) -> Path:
        if form == "archive":
            return archive(folder)
        if form == "parent":
            other.rename(other.parent / "elsewhere")
            return folder.parent
        return folder

    line = error_line("cifar10", "binary", path_of(cifar100, cifar10))
    assert "it holds CIFAR-100, not CIFAR-10; set data.name=cifar100" in line
    if form == "parent":
        (cifar10.parent / "elsewhere").rename(cifar10)
    line = error_line("cifar100", "binary", path_of(cifar10, cifar100))
    assert "it holds CIFAR-10, not CIFAR-100; set data.name=cifar10" in line


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("size", [0, 100, 3073 * 2 - 1, 3073 * 2 + 1])
def test_truncated_file(cifar10: Path, form: str, size: int) -> None:
    content = (cifar10 / "data_batch_3.bin").read_bytes() + b"\0"
    (cifar10 / "data_batch_3.bin").write_bytes(content[:size])
    path = cifar10 if form == "folder" else archive(cifar10)
    line = error_line("cifar10", "binary", path, verify=False)
    assert "data_batch_3.bin" in line
    assert str(path) in line
    assert "not a whole number of 3,073-byte records" in line


def test_too_few_records(cifar10: Path, cifar100: Path) -> None:
    line = error_line("cifar10", "binary", cifar10)
    assert "data_batch_1.bin has 2 records, not the official 10,000" in line
    assert "data.verify=False" in line
    assert "train.bin has 2 records, not the official 50,000" in error_line("cifar100", "binary", cifar100)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_wrong_md5(cifar10: Path, monkeypatch: pytest.MonkeyPatch, form: str, verify: bool) -> None:
    # The official record counts and md5 of these small files, so that only the flipped bit is wrong.
    small = dataclasses.replace(
        official.LAYOUTS["binary", "cifar10"],
        train_records=dict.fromkeys(CIFAR10_FILES[:5], 2),
        test_records={"test_batch.bin": 2},
        md5={file: hashlib.md5((cifar10 / file).read_bytes()).hexdigest() for file in CIFAR10_FILES},
    )
    monkeypatch.setitem(official.LAYOUTS, ("binary", "cifar10"), small)
    assert len(load("cifar10", "binary", str(cifar10), verify=True).train_labels) == 10
    content = bytearray((cifar10 / "test_batch.bin").read_bytes())
    content[1000] ^= 1
    (cifar10 / "test_batch.bin").write_bytes(content)
    path = cifar10 if form == "folder" else archive(cifar10)
    if verify:
        line = error_line("cifar10", "binary", path)
        assert "test_batch.bin has md5" in line
        assert small.md5["test_batch.bin"] in line
    else:
        assert len(load("cifar10", "binary", str(path), verify=False).test_labels) == 2


def balanced100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100's files with two training records and one test record of each fine class, and no more asked for."""
    for file, number in (("train.bin", 2), ("test.bin", 1)):
        # Fine class f belongs to the coarse class f mod 20.
        (folder / file).write_bytes(b"".join(record(fine % 20, fine, value=fine) for fine in range(100)) * number)
    small = dataclasses.replace(
        official.LAYOUTS["binary", "cifar100"], train_records={"train.bin": 200}, test_records={"test.bin": 100}
    )
    monkeypatch.setitem(official.LAYOUTS, ("binary", "cifar100"), small)
    return folder


@pytest.mark.parametrize(
    ("file", "index", "labels", "message"),
    [
        # Of class 7 one record fewer, of class 8 one more: the first of the two that are furthest off is named.
        ("train.bin", 7, (7, 8), "train.bin has 1 records of label 7 in byte 1, not 2: damaged or altered"),
        ("test.bin", 99, (18, 99), "test.bin has 6 records of label 18 in byte 0, not 5: damaged or altered"),
    ],
)
def test_cifar100_has_as_many_records_of_each_class(
    cifar100: Path, monkeypatch: pytest.MonkeyPatch, file: str, index: int, labels: tuple[int, int], message: str
) -> None:
    balanced100(cifar100, monkeypatch)
    assert len(load("cifar100", "binary", str(cifar100)).train_labels) == 200
    content = bytearray((cifar100 / file).read_bytes())
    content[index * 3074 : index * 3074 + 2] = bytes(labels)
    (cifar100 / file).write_bytes(content)
    line = error_line("cifar100", "binary", cifar100)
    assert message in line
    assert "get cifar-100-binary.tar.gz again" in line
    assert len(load("cifar100", "binary", str(cifar100), verify=False).train_labels) == 200


def test_a_fine_class_of_cifar100_has_one_coarse_class(cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    balanced100(cifar100, monkeypatch)
    content = bytearray((cifar100 / "train.bin").read_bytes())
    # The coarse labels of two records of fine classes 0 and 1 change places: the counts stay.
    content[0], content[3074] = content[3074], content[0]
    (cifar100 / "train.bin").write_bytes(content)
    line = error_line("cifar100", "binary", cifar100)
    assert "train.bin has 102 pairs of a coarse and a fine class, not 100" in line


def test_the_archive_of_cifar100_has_its_md5(cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As published beside the archives; the files' own are not.
    layout = official.LAYOUTS["binary", "cifar100"]
    assert layout.archive_md5 == "03b5dce01913d631647c71ecec9e9cb8"
    assert not layout.md5
    balanced100(cifar100, monkeypatch)
    path = archive(cifar100)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    line = error_line("cifar100", "binary", path)
    assert f"{path} has md5 {found}, not {layout.archive_md5}: damaged, altered or packed anew" in line
    assert "unpack what was packed anew" in line
    assert len(load("cifar100", "binary", str(path), verify=False).test_labels) == 100
    # Of a .tar no md5 is published.
    assert len(load("cifar100", "binary", str(archive(cifar100, ".tar"))).test_labels) == 100
    right = dataclasses.replace(official.LAYOUTS["binary", "cifar100"], archive_md5=found)
    monkeypatch.setitem(official.LAYOUTS, ("binary", "cifar100"), right)
    assert len(load("cifar100", "binary", str(path)).test_labels) == 100
    assert len(load("cifar100", "auto", str(path)).test_labels) == 100
    # A file that is not there, or damage that gzip knows of, says more than another md5.
    (cifar100 / "test.bin").unlink()
    assert "has no test.bin" in error_line("cifar100", "binary", archive(cifar100))
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} is damaged, incomplete" in error_line("cifar100", "binary", path)


def test_label_out_of_range(cifar10: Path, cifar100: Path) -> None:
    (cifar10 / "data_batch_5.bin").write_bytes(record(9) + record(10))
    line = error_line("cifar10", "binary", cifar10, verify=False)
    assert "data_batch_5.bin has label 10 in record 1, outside 0..9" in line
    (cifar100 / "test.bin").write_bytes(record(19, 100))
    assert "label 100 in record 0, outside 0..99" in error_line("cifar100", "binary", cifar100, verify=False)
    (cifar100 / "test.bin").write_bytes(record(20, 99))
    assert "label 20 in record 0, outside 0..19" in error_line("cifar100", "binary", cifar100, verify=False)


def test_names_file_with_the_wrong_number_of_names(cifar10: Path, cifar100: Path) -> None:
    (cifar10 / "batches.meta.txt").write_text("airplane\n")
    line = error_line("cifar10", "binary", cifar10, verify=False)
    assert "batches.meta.txt names 1 classes, not 10" in line
    (cifar100 / "fine_label_names.txt").unlink()
    assert "fine_label_names.txt is missing" in error_line("cifar100", "binary", cifar100, verify=False)
