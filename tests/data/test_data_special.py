"""What could be read without end, or fits no memory, is one line before anything is read."""

import os

import numpy as np
import pytest
from data_files import error_line
from PIL import Image

from normres.data import load


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_a_special_file_among_images_is_one_line(tmp_path, make):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / split / "cat" / "a.png")
    assert load("mine", "folder", str(tmp_path), image_size=4).train_images.shape == (1, 4, 4, 3)
    make(tmp_path / "test" / "cat" / "b.png")
    line = error_line("mine", "folder", tmp_path, image_size=4)
    assert line.startswith(f"data.path: {tmp_path}/test/cat/b.png is no regular file, but a folder, a FIFO")


@pytest.mark.parametrize("source", ["npz", "binary", "parquet", "folder", "auto"])
def test_a_fifo_as_the_path_is_one_line(tmp_path, source):
    os.mkfifo(tmp_path / "data.npz")
    line = error_line("cifar10", source, tmp_path / "data.npz")
    assert line.startswith(f"data.path: {tmp_path}/data.npz is no regular file")


@pytest.mark.parametrize(
    ("source", "name"),
    [("parquet", "train-0.parquet"), ("tfds", "dataset_info.json"), ("tfds", "features.json"), ("auto", "train.bin")],
)
def test_a_fifo_in_the_folder_is_one_line(tmp_path, source, name):
    folder = tmp_path / "cifar10" / "3.0.2" if source == "tfds" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    if name == "features.json":
        (folder / "dataset_info.json").write_text("{}")
    os.mkfifo(folder / name)
    assert error_line("cifar10", source, tmp_path).startswith("data.path")


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
