"""Preprocessing against numpy and exact fractions, and what the record says of it."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from small_run import DATASET, programs

from normres.data import preprocess

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)


def exact(values):
    """Mean and standard deviation of integers / 255, correctly rounded to float64."""
    values = [int(value) for value in values.ravel()]
    mean = Fraction(sum(values), len(values))
    variance = sum(((value - mean) ** 2 for value in values), Fraction(0)) / len(values)
    return float(mean / 255), float(variance / 255**2) ** 0.5


def test_mean_and_standard_deviation_of_the_training_images_are_exact():
    measured = preprocess.measure(IMAGES, "channel_mean_std")
    for channel in range(3):
        mean, std = exact(IMAGES[..., channel])
        assert measured.mean.ravel()[channel] == mean
        assert measured.std.ravel()[channel] == pytest.approx(std, rel=3e-16)
    pixels = preprocess.measure(IMAGES, "pixel_mean")
    assert pixels.mean[0, 3, 5, 1] == exact(IMAGES[:, 3, 5, 1])[0]
    assert pixels.mean.shape == (1, 8, 8, 3)
    # Levels 0 and 255 in equal number but for one: the sum, 25,499,745, is no float32.
    skewed = np.repeat(np.array([0, 255], np.uint8), 100_000)[:-1, None, None, None]
    assert preprocess.measure(skewed, "channel_mean").mean.item() == 99_999 / 199_999


def test_preprocessing_is_the_formula_of_its_name():
    unit = IMAGES / 255.0
    expected = {
        "pixel_mean": unit - unit.mean(0, keepdims=True),
        "channel_mean": unit - unit.mean((0, 1, 2)),
        "channel_mean_std": (unit - unit.mean((0, 1, 2))) / unit.std((0, 1, 2)),
        "image_standardization": (unit - unit.mean((1, 2, 3), keepdims=True)) / unit.std((1, 2, 3), keepdims=True),
        "none": unit,
    }
    assert tuple(expected) == preprocess.KINDS
    for kind, values in expected.items():
        processed = preprocess.preprocess(kind, jnp.asarray(IMAGES), preprocess.measure(IMAGES, kind).arrays())
        assert processed.dtype == jnp.float32
        np.testing.assert_allclose(processed, values, rtol=1e-5, atol=1e-6, err_msg=kind)


# In float32, E[x^2] - E[x]^2 would leave two digits of the first image's variance, 11 / 32 * 21 / 32; the squares of
# the second one have a sum beyond int32.
@pytest.mark.parametrize(("size", "levels", "rtol"), [(32, (251, 250, 250), 1e-6), (480, (255, 0), 1e-5)])
def test_bright_and_large_images_are_standardized_exactly(size, levels, rtol):
    image = np.resize(np.array(levels, np.uint8), size)[None, :, None, None].repeat(size, 2).repeat(3, 3)
    expected = (image - image.mean()) / image.std()
    np.testing.assert_allclose(preprocess.standardized(jnp.asarray(image)), expected, rtol=rtol)


def test_what_has_no_deviation_is_not_divided_by_zero():
    flat = np.stack([np.full((8, 8, 3), 7, np.uint8), IMAGES[0]])
    flat[..., 2] = 9  # a channel without contrast
    statistics = preprocess.measure(flat, "channel_mean_std").arrays()
    processed = preprocess.preprocess("channel_mean_std", jnp.asarray(flat), statistics)
    np.testing.assert_allclose(processed[..., 2], 0, atol=1e-7)
    one_color = preprocess.standardized(jnp.full((1, 8, 8, 3), 200, jnp.uint8))
    np.testing.assert_array_equal(one_color, np.zeros((1, 8, 8, 3)))
    # One level apart in one of 192 values: the deviation, sqrt(191) / 192 = 0.0719..., is less than 1 / sqrt(192).
    nearly = np.full((1, 8, 8, 3), 200, np.uint8)
    nearly[0, 0, 0, 0] = 201
    assert preprocess.standardized(jnp.asarray(nearly)).max() == pytest.approx((1 - 1 / 192) * 192**0.5, rel=1e-6)


def test_the_record_says_what_was_subtracted():
    said = preprocess.measure(IMAGES, "pixel_mean").summary()
    assert said["kind"] == "pixel_mean"
    assert said["std"] is None
    np.testing.assert_allclose(said["mean"], IMAGES.mean((0, 1, 2)) / 255, rtol=1e-14)
    assert len(said["sha256"]) == 64
    said = preprocess.measure(IMAGES, "channel_mean_std").summary()
    np.testing.assert_allclose(said["std"], IMAGES.std((0, 1, 2)) / 255, rtol=1e-14)
    assert preprocess.measure(IMAGES, "none").summary() == {"kind": "none", "mean": None, "std": None}


def test_the_statistics_are_those_of_the_training_images_alone():
    built = programs(data__preprocess="channel_mean")
    expected = DATASET.train_images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(built.data["train"]["mean"].ravel(), expected, rtol=1e-6)
    np.testing.assert_array_equal(built.data["train"]["mean"], built.data["test"]["mean"])
