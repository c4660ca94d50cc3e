"""The data sources: what arrives is what the official files hold, and every bad file is one clear line."""

import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from normres.data import Dataset, binary, load, mosaics
from normres.errors import UserError

CIFAR10_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def record(*labels: int, pixels: np.ndarray | None = None, value: int = 0) -> bytes:
    """One official record: the label bytes, then 3,072 pixel bytes."""
    if pixels is None:
        pixels = np.full(3072, value, np.uint8)
    assert pixels.shape == (3072,)
    return bytes(labels) + pixels.tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """A folder in the official CIFAR-10 layout with two records a file; a blank line ends the meta file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, file in enumerate(CIFAR10_FILES):
        folder.joinpath(file).write_bytes(record(number, value=10 * number) + record(9, value=10 * number + 1))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return folder


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    """A folder in the official CIFAR-100 layout with two training records and one test record."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(record(19, 99, value=1) + record(3, 42, value=2))
    (folder / "test.bin").write_bytes(record(0, 7, value=3))
    (folder / "fine_label_names.txt").write_text("".join(f"fine_{number}\n" for number in range(100)))
    (folder / "coarse_label_names.txt").write_text("".join(f"coarse_{number}\n" for number in range(20)))
    return folder


def archive(folder: Path, suffix: str = ".tar.gz") -> Path:
    """The folder as an archive beside it, members under the folder's name as in the official one."""
    path = folder.parent / f"archive{suffix}"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    path.write_bytes(gzip.compress(plain.getvalue()) if suffix == ".tar.gz" else plain.getvalue())
    return path


def same(first: Dataset, second: Dataset) -> bool:
    return first.summary() == second.summary() and first.class_names == second.class_names


def error_line(name: str, source: str, path: Path | str = "", verify: bool = True) -> str:
    """The message of the UserError that `load` raises; it has to be one line."""
    with pytest.raises(UserError) as caught:
        load(name, source, str(path), verify)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- embedded


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
        # sha256 of whole 3,073-byte records cut out of the official files (md5 as in binary.LAYOUTS):
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


def test_embedded_is_small() -> None:
    assert sum(file.stat().st_size for file in Path(str(mosaics.FOLDER)).iterdir()) < 8_000_000


def test_mosaic_places_tiles_row_by_row() -> None:
    images = np.zeros((64, 32, 32, 3), np.uint8)
    images[33, 5, 7, 2] = 200
    mosaic = mosaics.to_mosaic(images)
    assert mosaic.shape == (64, 1024, 3)
    # Image 33 is the second tile of the second tile row: row 32 + 5, column 32 + 7.
    assert mosaic[37, 39, 2] == 200
    assert np.count_nonzero(mosaic) == 1
    np.testing.assert_array_equal(mosaics.from_mosaic(mosaic), images)


@pytest.fixture
def embedded_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "embedded"
    shutil.copytree(str(mosaics.FOLDER), folder)
    monkeypatch.setattr(mosaics, "FOLDER", folder)
    return folder


def test_embedded_with_one_changed_pixel(embedded_copy: Path) -> None:
    with mosaics.Image.open(embedded_copy / "test.png") as picture:
        pixels = np.array(picture)
    pixels[100, 100, 1] ^= 1
    mosaics.Image.fromarray(pixels).save(embedded_copy / "test.png")
    # Whatever verify says: the check is as good as free.
    line = error_line("cifar10", "embedded", verify=False)
    assert str(embedded_copy / "test.png") in line
    assert "sha256" in line


def test_embedded_with_the_wrong_number_of_labels(embedded_copy: Path) -> None:
    layout = json.loads((embedded_copy / "labels.json").read_text())
    layout["per_class"]["train"] = 128
    (embedded_copy / "labels.json").write_text(json.dumps(layout))
    line = error_line("cifar10", "embedded")
    assert "(2560, 1024, 3)" in line
    assert "(1280, 1024, 3)" in line


def test_embedded_with_another_label_checksum(embedded_copy: Path) -> None:
    layout = json.loads((embedded_copy / "labels.json").read_text())
    layout["sha256"]["train_labels"] = "0" * 64
    (embedded_copy / "labels.json").write_text(json.dumps(layout))
    assert "train_labels" in error_line("cifar10", "embedded")


def test_embedded_with_another_grid(embedded_copy: Path) -> None:
    layout = json.loads((embedded_copy / "labels.json").read_text())
    layout["grid"]["columns"] = 16
    (embedded_copy / "labels.json").write_text(json.dumps(layout))
    assert "16 tiles" in error_line("cifar10", "embedded")


@pytest.mark.parametrize("file", ["train.png", "test.png", "labels.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "header", "text"])
def test_embedded_with_a_damaged_file(embedded_copy: Path, file: str, damage: str) -> None:
    path = embedded_copy / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) // 2],
                "header": content[:20] + b"\xff\xff" + content[22:],
                "text": b"[1, 2]",
            }[damage]
        )
    line = error_line("cifar10", "embedded")
    assert str(path) in line
    assert "install normres again" in line


def test_embedded_has_no_cifar100() -> None:
    line = error_line("cifar100", "embedded")
    assert line.startswith("data.name: the source 'embedded' has only cifar10")


def test_embedded_does_not_ignore_a_path(cifar10: Path) -> None:
    line = error_line("cifar10", "embedded", cifar10)
    assert line.startswith("data.path:")
    assert "data.source=binary" in line


# ---- names


def test_unknown_source_and_data_set() -> None:
    assert error_line("cifar10", "binery").startswith("data.source: unknown source 'binery'; did you mean 'binary'?")
    assert error_line("cifar-10", "binary").startswith(
        "data.name: unknown data set 'cifar-10'; did you mean 'cifar10'?"
    )


# ---- binary: what is read


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


def test_home_directory(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(cifar10.parent))
    assert len(load("cifar10", "binary", "~/cifar-10-batches-bin", verify=False).test_labels) == 2
    line = error_line("cifar10", "binary", "~no-such-user-here/x")
    assert line.startswith("data.path: ~no-such-user-here/x")


def test_summary_is_json_and_depends_on_every_array(cifar10: Path) -> None:
    data = load("cifar10", "binary", str(cifar10), verify=False)
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
        "sha256": digest.hexdigest(),
    }
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(data, field).copy()
        changed.flat[0] += 1
        assert dataclasses.replace(data, **{field: changed}).summary()["sha256"] != summary["sha256"]


# ---- binary: what is refused


def test_binary_without_a_path() -> None:
    line = error_line("cifar10", "binary")
    assert line.startswith("data.path: is empty")
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
    assert "looks like the Python version" in error_line("cifar10", "binary", path)


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
        binary.LAYOUTS["cifar10"],
        train_records=dict.fromkeys(CIFAR10_FILES[:5], 2),
        test_records={"test_batch.bin": 2},
        md5={file: hashlib.md5((cifar10 / file).read_bytes()).hexdigest() for file in CIFAR10_FILES},
    )
    monkeypatch.setitem(binary.LAYOUTS, "cifar10", small)
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


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


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
    monkeypatch.setattr(binary, "MAX_FILE_BYTES", 3073 * 2)
    path = cifar10 if form == "folder" else archive(cifar10)
    assert len(load("cifar10", "binary", str(path), verify=False).test_labels) == 2
    monkeypatch.setattr(binary, "MAX_FILE_BYTES", 3073 * 2 - 1)
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
