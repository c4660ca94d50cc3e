"""The official files, binary version, in folders and archives: what they hold arrives, and every fault is one line."""

import dataclasses
import gzip
import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_files import CIFAR10_FILES, CIFAR10_NAMES, add, archive, error_line, record, release, same

from normres.data import load, official


@pytest.fixture
def cifar10(tmp_path):
    return release(tmp_path, "binary", "cifar10")


@pytest.fixture
def cifar100(tmp_path):
    return release(tmp_path, "binary", "cifar100")


def test_pixel_placement(cifar10):
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
def test_the_official_order(cifar10, form):
    path = {"folder": cifar10, "parent": cifar10.parent}.get(form) or archive(cifar10, form)
    if path.is_file():
        shutil.rmtree(cifar10)  # so that unpacking the archive would be seen
    before = sorted(cifar10.parent.rglob("*"))
    data = load("cifar10", "binary", str(path), verify=False)
    assert data.train_labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    assert data.test_labels.tolist() == [5, 9]
    assert data.test_images[:, 31, 31, 2].tolist() == [50, 51]
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert list(data.class_names) == CIFAR10_NAMES
    assert sorted(cifar10.parent.rglob("*")) == before


def test_fine_labels_of_cifar100(cifar100, cifar10):
    # The CIFAR-10 folder beside it must not confuse the parent form.
    data = load("cifar100", "binary", str(cifar10.parent), verify=False)
    assert data.train_labels.tolist() == [99, 42]  # the second byte; the first is coarse
    assert data.test_labels.tolist() == [7]
    assert data.train_images[1].tolist() == np.full((32, 32, 3), 2).tolist()
    assert (data.class_names[42], len(data.class_names)) == ("fine_42", 100)


def test_odd_archives_do_no_harm(cifar10):
    path = cifar10.parent / "odd.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "../../escaped.bin", b"x")
        add(tar, "/absolute.bin", b"x")
        add(tar, "cifar-10-batches-bin/._data_batch_1.bin", b"resource fork")
        for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.FIFOTYPE, "fifo"), (tarfile.CHRTYPE, "device")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        # In any order and folder, without the names.
        for file in reversed(CIFAR10_FILES):
            tar.add(cifar10 / file, arcname=f"./{file}")
    expected = load("cifar10", "binary", str(cifar10), verify=False)
    before = sorted(cifar10.parent.rglob("*"))
    assert same(load("cifar10", "binary", str(path), verify=False), expected)
    assert sorted(cifar10.parent.rglob("*")) == before


# ---- what is refused


def test_a_damaged_archive(cifar10):
    # Pixels that do not compress, so that the middle of the archive is image data.
    noise = np.random.default_rng(0).integers(0, 256, 3072, dtype=np.uint8)
    (cifar10 / "data_batch_3.bin").write_bytes(record(3, pixels=noise))
    path, plain = archive(cifar10), archive(cifar10, ".tar").read_bytes()
    good = path.read_bytes()
    middle = len(good) // 2
    # tarfile reads a block of 1 MiB at a time and stops at its end mark, before gzip compares the checksum.
    padded = gzip.compress(plain + bytes(3 * 2**20))
    path.write_bytes(padded)
    assert len(load("cifar10", "binary", str(path), verify=False).test_labels) == 2
    broken = {
        "empty": b"",
        "text": b"<html>404 Not Found</html>" * 100,
        "a .zip": b"PK\x03\x04" + bytes(3000),
        "half": good[:middle],
        "half of a .tar": plain[:12_000],
        "without the end": good[:-5],
        "header": good[:3] + b"\xff" + good[4:],
        # gzip.compress writes a header of 10 bytes; the bits 110 after it are deflate's reserved block type.
        "block type": good[:10] + b"\x06" + good[11:],
        "zeros": good[:middle] + bytes(200) + good[middle + 200 :],
        # The last eight bytes are gzip's CRC-32 and length.
        "checksum": good[:-8] + bytes(byte ^ 1 for byte in good[-8:-7]) + good[-7:],
        "checksum far behind": padded[:-8] + bytes(4) + padded[-4:],
        "block type far behind": padded + padded[:10] + b"\x06",
    }
    for damage, content in broken.items():
        path.write_bytes(content)
        line = error_line("cifar10", "binary", path, verify=False)
        assert line.startswith(f"data.path: {path} is damaged, incomplete or no .tar.gz or .tar archive"), damage
        assert line.endswith("get it again")


def test_a_link_in_the_place_of_a_file(cifar10):
    (cifar10 / "data_batch_4.bin").unlink()
    (cifar10 / "data_batch_4.bin").symlink_to(cifar10 / "data_batch_3.bin")
    # In a folder a link is the user's own business; in an archive it is not followed.
    assert len(load("cifar10", "binary", str(cifar10), verify=False).train_labels) == 10
    assert "has no data_batch_4.bin" in error_line("cifar10", "binary", archive(cifar10), verify=False)


def test_a_file_that_cannot_be_read(cifar10, monkeypatch):
    # Permissions do not stop a superuser, so the refusal is made here.
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    line = error_line("cifar10", "binary", cifar10, verify=False)
    assert f"{cifar10 / 'data_batch_1.bin'} cannot be read: Permission denied" in line


def test_a_path_without_the_files(cifar10, tmp_path):
    line = error_line("cifar10", "binary")
    assert line.startswith("data.path is empty")
    assert "cifar-10-binary.tar.gz" in line
    assert f"{tmp_path / 'nowhere'} does not exist" in error_line("cifar10", "binary", tmp_path / "nowhere")
    line = error_line("cifar10", "binary", cifar10 / "data_batch_1.bin")
    assert "data_batch_1.bin is a single file; give the folder" in line
    archive(cifar10).rename(tmp_path / "cifar-10-binary.tar.gz")
    shutil.rmtree(cifar10)
    assert "give the path of that file" in error_line("cifar10", "binary", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").unlink()
    line = error_line("cifar10", "binary", tmp_path)
    assert f"{tmp_path} has no data_batch_1.bin; give the complete folder cifar-10-batches-bin" in line


@pytest.mark.parametrize(("size", "form"), [(0, "folder"), (6145, "folder"), (6147, "archive")])
def test_a_truncated_file(cifar10, form, size):
    content = (cifar10 / "data_batch_3.bin").read_bytes() + b"\0"
    (cifar10 / "data_batch_3.bin").write_bytes(content[:size])
    path = cifar10 if form == "folder" else archive(cifar10)
    line = error_line("cifar10", "binary", path, verify=False)
    assert f"data_batch_3.bin has {size:,} bytes, not a whole number of 3,073-byte records" in line
    assert str(path) in line


def test_wrong_labels_and_names(cifar10, cifar100):
    (cifar10 / "data_batch_5.bin").write_bytes(record(9) + record(10))
    line = error_line("cifar10", "binary", cifar10, verify=False)
    assert "data_batch_5.bin has label 10 in record 1, outside 0..9" in line
    for coarse, fine, message in ((19, 100, "label 100 in record 0, outside 0..99"), (20, 9, "label 20 in record 0")):
        (cifar100 / "test.bin").write_bytes(record(coarse, fine))
        assert message in error_line("cifar100", "binary", cifar100, verify=False)
    (cifar100 / "fine_label_names.txt").write_text("apple\n")
    assert "fine_label_names.txt names 1 classes, not 100" in error_line("cifar100", "binary", cifar100, verify=False)
    (cifar100 / "fine_label_names.txt").unlink()
    assert "has no fine_label_names.txt;" in error_line("cifar100", "binary", cifar100, verify=False)


def small_release(monkeypatch, name, **fields):
    """Makes these the official numbers and checksums."""
    small = dataclasses.replace(official.LAYOUTS["binary", name], **fields)
    monkeypatch.setitem(official.LAYOUTS, ("binary", name), small)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_flipped_bit_has_another_md5(cifar10, monkeypatch, form):
    # The official numbers and md5 of these small files, so that only the flipped bit is wrong.
    md5 = {file: hashlib.md5((cifar10 / file).read_bytes()).hexdigest() for file in CIFAR10_FILES}
    small_release(monkeypatch, "cifar10", md5=md5)
    assert len(load("cifar10", "binary", str(cifar10)).train_labels) == 10
    content = bytearray((cifar10 / "test_batch.bin").read_bytes())
    content[1000] ^= 1
    (cifar10 / "test_batch.bin").write_bytes(content)
    path = cifar10 if form == "folder" else archive(cifar10)
    line = error_line("cifar10", "binary", path)
    assert "test_batch.bin has md5" in line
    assert f"not {md5['test_batch.bin']}: damaged, altered" in line
    assert "for altered data set data.verify=False" in line


@pytest.fixture
def balanced100(cifar100, monkeypatch):
    """CIFAR-100's files with two training records and one test record of each fine class, and no more asked for."""
    for file, number in (("train.bin", 2), ("test.bin", 1)):
        # Fine class f belongs to the coarse class f mod 20.
        (cifar100 / file).write_bytes(b"".join(record(fine % 20, fine, value=fine) for fine in range(100)) * number)
    monkeypatch.setattr(official, "EXAMPLES", {"train": 200, "test": 100})
    return cifar100


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        # Of class 7 one record fewer, of class 27 of the same coarse class one more.
        ("train.bin", {7: (7, 27)}, "train.bin has 200 records of 100 kinds, 1 to 3 of each kind, not cifar100's 200"),
        # The coarse labels of two records of fine classes 0 and 1 change places: the counts stay.
        ("train.bin", {0: (1, 0), 1: (0, 1)}, "train.bin has 200 records of 102 kinds, 1 to 2 of each kind"),
        ("test.bin", {99: (18, 98)}, "test.bin has 100 records of 99 kinds, 1 to 2 of each kind"),
    ],
)
def test_cifar100_has_as_many_records_of_each_class(balanced100, file, changes, message):
    assert len(load("cifar100", "binary", str(balanced100)).train_labels) == 200
    content = bytearray((balanced100 / file).read_bytes())
    for index, labels in changes.items():
        content[index * 3074 : index * 3074 + 2] = bytes(labels)
    (balanced100 / file).write_bytes(content)
    line = error_line("cifar100", "binary", balanced100)
    assert message in line
    assert "get it again, or for altered data set data.verify=False" in line
    assert len(load("cifar100", "binary", str(balanced100), verify=False).train_labels) == 200


def test_the_archive_of_cifar100_has_its_md5(balanced100, monkeypatch):
    # As published beside the archives; the files' own are not.
    published = "03b5dce01913d631647c71ecec9e9cb8"
    path = archive(balanced100)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    line = error_line("cifar100", "binary", path)
    assert f"{path} has md5 {md5}, not {published}: damaged, altered or packed anew" in line
    assert len(load("cifar100", "binary", str(path), verify=False).test_labels) == 100
    # Of a .tar no md5 is published.
    assert len(load("cifar100", "binary", str(archive(balanced100, ".tar"))).test_labels) == 100
    small_release(monkeypatch, "cifar100", archive_md5=md5)
    assert len(load("cifar100", "auto", str(path)).test_labels) == 100
    # A file that is not there, or damage that gzip knows of, says more than another md5.
    (balanced100 / "test.bin").unlink()
    assert "has no test.bin" in error_line("cifar100", "binary", archive(balanced100))
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} is damaged, incomplete" in error_line("cifar100", "binary", path)
