"""Data of one's own: the sources `npz` and `folder`, what they read and what they refuse."""

import io
import os
import pickle
import resource
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from data_files import Malicious, error_line
from PIL import Image

from normres.data import load


def arrays(shape=(8, 6, 3)):
    random = np.random.default_rng(0)
    return {
        "train_images": random.integers(0, 256, (6, *shape), np.uint8),
        "train_labels": np.arange(6) % 3,
        "test_images": random.integers(0, 256, (4, *shape), np.uint8),
        "test_labels": np.arange(4, dtype=np.uint8) % 3,
    }


def written(tmp_path, **changes):
    """An npz file of `arrays`, with these arrays in the place of its own; None leaves one out."""
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in (arrays() | changes).items() if value is not None})
    return path


@pytest.mark.parametrize(("save", "channels"), [(np.savez, 3), (np.savez_compressed, 1)])
def test_npz(tmp_path, save, channels):
    held = arrays((8, 6, channels))
    in_column_order = {key: np.asfortranarray(value) for key, value in held.items()}
    save(tmp_path / "x.npz", **in_column_order, class_names=["a", "b", "c"])
    data = load("mine", "npz", str(tmp_path / "x.npz"))
    for key, value in held.items():
        np.testing.assert_array_equal(getattr(data, key), value)
    assert data.train_images.flags.c_contiguous
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert (data.name, data.source, data.class_names) == ("mine", "npz", ("a", "b", "c"))
    assert replace(data, train_labels=np.array([0, 2])).empty_classes() == [
        "no training image is of the class b (labels count from 0)"
    ]
    assert data.summary()["image_shape"] == [8, 6, channels]
    save(tmp_path / "x.npz", **held, class_names=[b"a", b"b", b"c"])
    assert load("mine", "npz", str(tmp_path / "x.npz")).class_names == ("a", "b", "c")
    assert replace(data, class_names=("a",)).empty_classes() == [
        "the data have one class: the error is 0 whatever the network does"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "has no array test_labels"),
        ({"train_images": np.zeros((6, 8, 6, 3))}, "train_images is float64 (6, 8, 6, 3), not uint8 (N, H, W, C)"),
        ({"train_images": np.zeros((6, 8, 6), np.uint8)}, "train_images is uint8 (6, 8, 6), not uint8 (N, H, W, C)"),
        (arrays((3, 8, 6)), "train_images is (6, 3, 8, 6): channels first"),
        ({"test_images": np.zeros((4, 8, 8, 3), np.uint8)}, "test_images has images of (8, 8, 3), not (8, 6, 3)"),
        ({"test_images": np.zeros((0, 8, 6, 3), np.uint8)}, "test_images is uint8 (0, 8, 6, 3)"),
        ({"train_labels": np.zeros((6, 1), int)}, "train_labels is int64 (6, 1), not integers (6,)"),
        ({"train_labels": np.zeros(6)}, "train_labels is float64 (6,), not integers"),
        ({"train_labels": np.array([0, 1, 2, -1, 0, 0])}, "train_labels has label -1 in record 3, outside 0..2"),
        ({"test_labels": np.array([0, 1, 3, 0])}, "test_labels has label 3 in record 2, outside 0..2"),
        ({"class_names": ["a", "b"]}, "train_labels has label 2 in record 2, outside 0..1"),
    ],
)
def test_npz_with_wrong_arrays(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    line = error_line("mine", "npz", path)
    assert str(path) in line
    assert message in line


def test_npz_that_is_called_cifar_and_is_not(tmp_path):
    line = error_line("cifar10", "npz", written(tmp_path))
    assert line.endswith("train_images has images of (8, 6, 3), not (32, 32, 3) as cifar10's others")


def test_npz_with_objects_executes_nothing(tmp_path):
    touched = tmp_path / "touched"
    harmful = Malicious(os.system, f"touch {touched}")
    path = written(tmp_path, class_names=np.array([harmful] * 3, dtype=object))
    np.load(path, allow_pickle=True)["class_names"]  # it does what it says ...
    assert touched.exists()
    touched.unlink()
    line = error_line("mine", "npz", path)
    assert not touched.exists()  # ... but not here
    assert "cannot be read: damaged or no .npz file (Object arrays cannot be loaded" in line
    path.write_bytes(pickle.dumps(harmful))
    assert "no .npz file" in error_line("mine", "npz", path)
    assert not touched.exists()


def test_npz_that_is_damaged(tmp_path):
    path = written(tmp_path)
    good = path.read_bytes()
    for size in (0, 10, len(good) // 2, len(good) - 5):
        path.write_bytes(good[:size])
        assert f"{path} cannot be read: damaged or no .npz file" in error_line("mine", "npz", path)
    middle = good.index(arrays()["train_images"].tobytes()[:20]) + 50
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    assert "Bad CRC-32 for file 'train_images.npy'" in error_line("mine", "npz", path)
    # A header that asks for memory: 192 TiB, which numpy cannot have, and 24 GiB, which it asks for and never touches.
    for count in (2**40, 2**27):
        path = written(tmp_path)
        header = io.BytesIO()
        forged = {"descr": "|u1", "fortran_order": False, "shape": (count, 8, 8, 3)}
        np.lib.format.write_array_header_1_0(header, forged)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("class_names.npy", header.getvalue())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "cannot be read: damaged" in error_line("mine", "npz", path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


# ---- folder


@pytest.fixture
def pictures(tmp_path):
    """Two classes of 4x4-pixel images; an image's red value says which file it is."""
    value = 0
    for split, files in (("train", ("b.png", "a.JPG", "c.jpeg")), ("test", ("x.png",))):
        for class_name in ("dog", "cat"):
            folder = tmp_path / "pictures" / split / class_name
            folder.mkdir(parents=True)
            for file in files:
                value += 20
                Image.new("RGB", (4, 4), (value, 0, 0)).save(folder / file)
    (tmp_path / "pictures" / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "pictures" / "train" / "cat" / "._b.png").write_text("hidden")
    (tmp_path / "pictures" / "train" / ".hidden").mkdir()
    return tmp_path / "pictures"


def test_folder_order(pictures):
    data = load("pets", "folder", str(pictures), image_size=4)
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 1]
    # dog: b 20, a 40, c 60; cat: b 80, a 100, c 120; by class, then by file name.  JPEG may be off by one.
    red = data.train_images[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(red, [100, 80, 120, 40, 20, 60], atol=2)
    assert data.test_images[:, 0, 0, 0].tolist() == [160, 140]  # PNG files that fit keep their pixels
    assert data.train_labels.dtype == np.int32
    assert (data.name, data.source) == ("pets", "folder")


@pytest.mark.parametrize("size", [(4, 10), (100, 41)])
def test_folder_resizes_the_shorter_side_and_cuts_out_the_middle(pictures, size):
    # Along the longer side: a quarter blue, a quarter black, a quarter red, a quarter blue.  The middle shows no blue,
    # and black and red in equal parts.
    length = max(size)
    line = np.zeros((length, 3), np.uint8)
    line[: length // 4, 2] = line[-(length // 4) :, 2] = line[length // 2 : -(length // 4), 0] = 255
    pixels = np.broadcast_to(line, (min(size), length, 3))
    wide = size[0] > size[1]
    Image.fromarray(np.ascontiguousarray(pixels if wide else pixels.swapaxes(0, 1))).save(pictures / "test/cat/x.png")
    image = load("pets", "folder", str(pictures), image_size=4).test_images[0].astype(int)
    across = image.mean(axis=0 if wide else 1)
    np.testing.assert_allclose(across[:, 0], [0, 0, 255, 255], atol=40)
    assert across[:, 2].max() < 40
    assert image.std(axis=0 if wide else 1).max() == 0


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_folder_makes_every_image_rgb(pictures, mode):
    Image.new("RGB", (9, 7), (255, 255, 255)).convert(mode).save(pictures / "test" / "cat" / "x.png")
    data = load("pets", "folder", str(pictures), image_size=5)
    assert data.test_images.shape == (2, 5, 5, 3)
    assert (data.test_images[0] == 255).all()


def test_folder_that_lacks_something(pictures, tmp_path):
    (pictures / "test" / "bird").mkdir()
    assert f"{pictures / 'test' / 'bird'}: there is no such class in train" in error_line("pets", "folder", pictures)
    (pictures / "test" / "bird").rmdir()
    (pictures / "train" / "ant").mkdir()
    assert f"{pictures / 'train' / 'ant'} has no .png, .jpg, .jpeg files" in error_line("pets", "folder", pictures)
    (pictures / "train" / "ant").rmdir()
    (pictures / "train" / "dog" / "y.webp").touch()
    assert error_line("pets", "folder", pictures).endswith("y.webp: only .png, .jpg, .jpeg are read")
    (pictures / "train" / "dog" / "y.webp").unlink()
    line = error_line("cifar10", "folder", pictures)
    assert line.startswith(f"data.name=cifar10, but {pictures} has 2 classes (cat, dog, ...)")
    shutil.rmtree(pictures / "test" / "cat")
    assert load("pets", "folder", str(pictures)).test_labels.tolist() == [1]  # a class may lack test images
    (pictures / "test" / "dog" / "x.png").unlink()
    assert f"{pictures / 'test'} has no images" in error_line("pets", "folder", pictures)
    shutil.rmtree(pictures / "test")
    assert f"{pictures / 'test'} has no folders of classes" in error_line("pets", "folder", pictures)
    assert f"{tmp_path / 'train'} has no folders of classes" in error_line("pets", "folder", tmp_path)


def test_folder_finds_any_flipped_bit_of_a_png(pictures):
    file = pictures / "test" / "cat" / "x.png"
    good = file.read_bytes()
    # The last 12 bytes are the end mark, whose checksum nothing reads.
    for position in range(0, len(good) - 12, 2):
        file.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        assert f"{file} is no readable PNG or JPEG image" in error_line("pets", "folder", pictures, image_size=4)
