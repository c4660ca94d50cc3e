"""Corrupted test sets against CIFAR-10-C's formulas in numpy, and the errors under them."""

import colorsys

import numpy as np
import pytest
from scipy import ndimage, stats

from normres.configs import base
from normres.data import corruptions, load
from normres.errors import UserError

# make_cifar_c.py, severities 1 to 5.
AMOUNTS = {
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.1],
}


@pytest.fixture(scope="module")
def images():
    return load("cifar10", "embedded").test_images[::16]  # 40 of them, of every class


def corrupt(images, name, severity, seed=0, examples=None):
    examples = np.arange(len(images)) if examples is None else np.asarray(examples)
    return np.asarray(corruptions.corrupt(images, examples, name, np.int32(severity), np.uint32(seed)))


def contrast(image, amount):
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * amount + mean


def brightness(image, amount):
    def brighter(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1.0))

    return np.apply_along_axis(brighter, -1, image)


def gaussian_blur(image, amount):
    return ndimage.gaussian_filter(image, (amount, amount, 0), mode="nearest", truncate=4.0)


def test_the_amounts_are_those_of_cifar_10_c():
    ours = {name: list(amounts) for name, (_, amounts) in corruptions.CORRUPTIONS.items()}
    assert ours == AMOUNTS | {"color_cast": AMOUNTS["brightness"]}  # the last has ours


@pytest.mark.parametrize("severity", [2, 5])
@pytest.mark.parametrize("formula", [contrast, brightness, gaussian_blur])
def test_the_formulas_are_those_of_cifar_10_c(images, formula, severity):
    images = np.concatenate([images[:8], np.zeros_like(images[:1])])  # black has no hue
    amount = AMOUNTS[formula.__name__][severity - 1]
    exact = np.array([np.clip(formula(image / 255.0, amount), 0, 1) * 255 for image in images])
    corrupted = corrupt(images, formula.__name__, severity)
    assert corrupted.dtype == np.uint8
    # Truncated: float32 may fall on the other side of a whole level, but only where the value is one.
    whole = np.abs(exact - np.round(exact)) < 2e-3
    np.testing.assert_array_equal(corrupted[~whole], exact[~whole].astype(np.uint8))
    assert np.abs(corrupted - exact).max() <= 1 + 2e-3
    assert whole.mean() < 0.5


def test_noise_is_normal_with_the_amount_of_cifar_10_c():
    grey = np.full((64, 32, 32, 3), 128, np.uint8)
    noise = (corrupt(grey, "gaussian_noise", 5) - 127.5) / 255  # truncation takes half a level on average
    amount = AMOUNTS["gaussian_noise"][4]
    # 196,608 draws: the standard deviation of their mean is amount / 443, of their deviation amount / 627.
    assert abs(noise.mean()) < 5 * amount / 443
    assert abs(noise.std() - amount) < 5 * amount / 627 + 1e-4
    assert abs(stats.kurtosis(noise.ravel())) < 0.06
    channels = noise.reshape(-1, 3).T
    assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.02


def test_a_color_cast_has_its_length_any_hue_and_no_brightness():
    grey = np.full((400, 4, 4, 3), 128, np.uint8)
    cast = corrupt(grey, "color_cast", 5).astype(float)
    shift = (cast[:, 0, 0] - 127.5) / 255
    assert np.ptp(cast, axis=(1, 2)).max() == 0
    # Truncation is worth up to half a level either way in each of three channels.
    np.testing.assert_allclose(shift.sum(1), 0, atol=1.6 / 255)
    amount = corruptions.CORRUPTIONS["color_cast"][1][4]
    np.testing.assert_allclose(np.linalg.norm(shift, axis=1), amount, atol=0.9 / 255)
    angles = np.arctan2(np.sqrt(3) * (shift[:, 1] - shift[:, 2]), 2 * shift[:, 0] - shift[:, 1] - shift[:, 2])
    assert stats.kstest(angles / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_an_image_is_a_function_of_seed_and_example(images, name):
    whole = corrupt(images, name, 3)
    np.testing.assert_array_equal(whole[5:9], corrupt(images[5:9], name, 3, examples=range(5, 9)))
    random = name in ("gaussian_noise", "color_cast")
    assert np.any(whole != corrupt(images, name, 3, seed=1)) == random
    assert np.any(whole[:4] != corrupt(images[:4], name, 3, examples=range(4, 8))) == random


def test_the_errors_under_each_severity_are_those_of_corrupted_images(images):
    config = base.get_config().data
    config.corruptions, config.corruption_seed = ("contrast", "gaussian_noise"), 3
    stopped = []

    def evaluate(change):
        return None if stopped else {"error": np.asarray(change(images, np.arange(len(images)))).mean()}

    errors = corruptions.errors(config, evaluate)
    assert errors == {
        name: [corrupt(images, name, severity, seed=3).mean() for severity in corruptions.SEVERITIES]
        for name in config.corruptions
    }
    stopped.append("at the next batch")
    assert corruptions.errors(config, evaluate) is None


def test_grey_images_have_no_color_cast():
    corruptions.check(("contrast", "color_cast"), 3)
    with pytest.raises(UserError, match="color_cast is of images with 3 channels, and these have 1"):
        corruptions.check(("contrast", "color_cast"), 1)
