"""Any prepared data set by its name: images of several sizes, grey ones, other splits, TFRecord; what is refused."""

import io
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from data_files import error_line, png, prepared_set
from PIL import Image, UnidentifiedImageError

from normres.data import load, prepared
from normres.data.files import decode
from normres.models import ResNet, ResNetConfig


def pictures(count, channels=3, seed=0):
    """Images of different sizes, in three classes of different brightness, and their labels."""
    random = np.random.default_rng(seed)
    sizes = random.integers(9, 30, (count, 2))
    return [
        (random.integers(80 * (k % 3), 80 * (k % 3) + 80, (*size, channels)).astype(np.uint8), k % 3)
        for k, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A set as imagenette is: JPEG-like sizes, no ids, "validation" and no "test"."""
    splits = {"train": pictures(24), "validation": pictures(9, seed=1)}
    return prepared_set(tmp_path_factory.mktemp("data"), "pets", splits, classes=3, shards=2)


def same_examples(dataset, images, size, split="train"):
    """Without ids the order is the writer's; so the examples are compared as a set."""
    examples = {(image.tobytes(), int(label)) for image, label in zip(*dataset.split(split), strict=True)}
    assert examples == {(decode(png(image), size).tobytes(), label) for image, label in images}


def test_images_of_several_sizes_are_scaled(pets):
    data = load("pets", "tfds", str(pets), image_size=12)
    assert data.train_images.shape == (24, 12, 12, 3)
    same_examples(data, pictures(24), 12)
    same_examples(data, pictures(9, seed=1), 12, "test")
    assert data.class_names == ("0", "1", "2")
    # Which split the test images are of is in the record; they are no part of the training images.
    assert (data.splits, data.evaluated_on) == ({"test_set": {"split": "validation"}}, "test")
    assert load("pets", "auto", str(pets), image_size=12).sha256 == data.sha256


def test_levels_of_16_bits_are_scaled_and_not_clipped():
    levels = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    assert (decode(png(levels), 32) == (levels >> 8)[..., None]).all()


def test_an_image_of_a_prepared_set_may_have_any_format():
    (image, _), *_ = pictures(1)
    Image.fromarray(image).save(stream := io.BytesIO(), "BMP")
    assert (decode(stream.getvalue(), 12, formats=()) == decode(png(image), 12)).all()
    with pytest.raises(UnidentifiedImageError):
        decode(stream.getvalue(), 12)


def test_grey_images_keep_their_one_channel_and_the_network_takes_it(tmp_path):
    digits = {"train": [(image[:10, :10], label) for image, label in pictures(16, channels=1)], "test": pictures(4, 1)}
    to = prepared_set(tmp_path / "data", "digits", digits, classes=3, shape=(None, None, 1))
    data = load("digits", "tfds", str(to), image_size=10)
    assert data.train_images.shape == (16, 10, 10, 1)
    variables = jax.eval_shape(ResNet(ResNetConfig(depth=8, width=4)).init, jax.random.key(0), data.train_images * 1.0)
    assert variables["params"]["stem_conv1"]["kernel"].shape == (3, 3, 1, 4)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": pictures(3)}, "has no split 'test' or 'validation', only train"),
        ({"train": pictures(3), "test": [(pictures(1)[0][0], -1)]}, "with labels ('test' has none), only"),
        ({"test": pictures(3)}, "has no split 'train', only test"),
    ],
)
def test_missing_splits_are_named(tmp_path, splits, message):
    assert message in error_line("pets", "tfds", prepared_set(tmp_path, "pets", splits, 3), image_size=8)


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    splits = {"train": pictures(6), "test": [(pictures(1)[0][0], -1)], "validation": pictures(4, seed=1)}
    data = load("pets", "tfds", str(prepared_set(tmp_path, "pets", splits, 3)), image_size=8)
    assert len(data.test_labels) == 4
    assert data.splits == {"test_set": {"split": "validation"}}


def test_ids_may_be_numbers():
    parts = {"label": 1}
    decoder = prepared.Decoder.__new__(prepared.Decoder)
    decoder._features = SimpleNamespace(deserialize_example_np=lambda record, decoders: parts)
    decoder._undecoded = {}
    keys = []
    for parts["id"] in (10, 7):
        keys.append(decoder.example(b"", False)[1])
    assert np.argsort(np.array(keys)).tolist() == [1, 0]


def test_a_set_with_several_configs_is_read_by_its_name(tmp_path):
    data = prepared_set(tmp_path, "pets", {"train": pictures(6), "test": pictures(3, seed=1)}, classes=3)
    (version,) = (data / "pets").glob("[0-9]*")
    (data / "pets/full").mkdir()
    version.rename(data / "pets/full" / version.name)
    for source in ("tfds", "auto"):
        assert len(load("pets", source, str(data), image_size=8).train_labels) == 6
    assert "data.name=cifar10, but" in error_line("cifar10", "tfds", data / "pets/full" / version.name, image_size=8)
    shutil.copytree(data / "pets/full", data / "pets/half")
    assert "has pets/full, pets/half; set data.name to one of them" in error_line("pets", "tfds", data, image_size=8)
    assert len(load("pets/half", "tfds", str(data), image_size=8).train_labels) == 6
