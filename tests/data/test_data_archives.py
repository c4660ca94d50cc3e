"""Archives and files of the official releases that are damaged, forged or in the way: one clear line, no harm done."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import add, archive, binary10, error_line, record, same

from normres.data import load, official


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    return binary10(tmp_path)


def broken_archives(good: bytes) -> dict[str, bytes]:
    middle = len(good) // 2
    return {
        "empty": b"",
        "text": b"<html>404 Not Found</html>" * 100,
        "two bytes": good[:2],
        "half": good[:middle],
        "without the end": good[:-5],
        "header": good[:3] + b"\xff" + good[4:],
        # gzip.compress writes a header of 10 bytes; the bits 110 after it are deflate's reserved block type.
        "block type": good[:10] + b"\x06" + good[11:],
        "zeros": good[:middle] + bytes(200) + good[middle + 200 :],
        # The last eight bytes are gzip's CRC-32 and length.
        "checksum": good[:-8] + bytes(byte ^ 1 for byte in good[-8:-7]) + good[-7:],
    }


@pytest.mark.parametrize("damage", broken_archives(b""))
def test_damaged_gzip_archive(cifar10: Path, damage: str) -> None:
    # Pixels that do not compress, so that the middle of the archive is image data.
    noise = np.random.default_rng(0).integers(0, 256, 3072, dtype=np.uint8)
    (cifar10 / "data_batch_3.bin").write_bytes(record(3, pixels=noise))
    path = archive(cifar10)
    path.write_bytes(broken_archives(path.read_bytes())[damage])
    line = error_line("cifar10", "binary", path, verify=False)
    assert f"{path} is damaged" in line
    assert "get cifar-10-binary.tar.gz again" in line


def test_damage_far_behind_the_last_member(cifar10: Path) -> None:
    # tarfile reads a block of 1 MiB at a time and stops at its end mark, before gzip compares the checksum.
    path = archive(cifar10, ".tar")
    padded = gzip.compress(path.read_bytes() + bytes(3 * 2**20))
    path.write_bytes(padded)
    assert len(load("cifar10", "binary", str(path), verify=False).test_labels) == 2
    path.write_bytes(padded[:-8] + bytes(4) + padded[-4:])
    assert "CRC check failed" in error_line("cifar10", "binary", path, verify=False)
    # A second gzip stream, with deflate's reserved block type.
    path.write_bytes(padded + padded[:10] + b"\x06")
    assert "invalid block type" in error_line("cifar10", "binary", path, verify=False)


def test_truncated_tar(cifar10: Path) -> None:
    path = archive(cifar10, ".tar")
    path.write_bytes(path.read_bytes()[:10_000])
    assert str(path) in error_line("cifar10", "binary", path, verify=False)


def test_zip_archive(cifar10: Path) -> None:
    path = cifar10.parent / "cifar.zip"
    with zipfile.ZipFile(path, "w") as archive_file:
        archive_file.write(cifar10 / "test_batch.bin", "test_batch.bin")
    assert "no .tar.gz or .tar archive" in error_line("cifar10", "binary", path)


def test_odd_members_do_no_harm(cifar10: Path) -> None:
    path = cifar10.parent / "odd.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "../../escaped.bin", b"x")
        add(tar, "/absolute.bin", b"x")
        add(tar, "cifar-10-batches-bin/._data_batch_1.bin", b"resource fork")
        for kind, name in [
            (tarfile.SYMTYPE, "link"),
            (tarfile.FIFOTYPE, "fifo"),
            (tarfile.CHRTYPE, "device"),
        ]:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            tar.addfile(member)
        tar.add(cifar10, arcname=cifar10.name)
    expected = load("cifar10", "binary", str(cifar10), verify=False)
    before = sorted(cifar10.parent.rglob("*"))
    assert same(load("cifar10", "binary", str(path), verify=False), expected)
    assert sorted(cifar10.parent.rglob("*")) == before


def test_link_in_the_place_of_a_file(cifar10: Path) -> None:
    (cifar10 / "data_batch_4.bin").unlink()
    (cifar10 / "data_batch_4.bin").symlink_to(cifar10 / "data_batch_3.bin")
    # In a folder a link is the user's own business; in an archive it is not followed.
    assert len(load("cifar10", "binary", str(cifar10), verify=False).train_labels) == 10
    assert "has no data_batch_4.bin" in error_line("cifar10", "binary", archive(cifar10), verify=False)


def test_the_same_file_twice(cifar10: Path) -> None:
    path = archive(cifar10, ".tar")
    with tarfile.open(path, "a") as tar:
        add(tar, "other/test_batch.bin", record(1))
    assert "holds test_batch.bin twice" in error_line("cifar10", "binary", path, verify=False)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_far_too_large_a_file(cifar10: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(official, "MAX_FILE_BYTES", 3073 * 2)
    path = cifar10 if form == "folder" else archive(cifar10)
    assert len(load("cifar10", "binary", str(path), verify=False).test_labels) == 2
    monkeypatch.setattr(official, "MAX_FILE_BYTES", 3073 * 2 - 1)
    line = error_line("cifar10", "binary", path, verify=False)
    assert "has 6,146 bytes, too many" in line
    assert "data_batch_1.bin" in line


def test_file_that_cannot_be_read(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not stop a superuser, so the refusal is made here.
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    line = error_line("cifar10", "binary", cifar10, verify=False)
    assert f"{cifar10 / 'data_batch_1.bin'} cannot be read: Permission denied" in line
