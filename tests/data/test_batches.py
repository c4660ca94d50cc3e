"""Which examples make a batch, and what is done to them before the network sees them."""

import jax
import numpy as np
import pytest

from normres.data import augment, batches


@pytest.mark.parametrize("size", [10, 7])
def test_every_epoch_holds_every_example_once(size):
    # 12 steps of 7 examples: several epochs of `size`, most batches spanning the end of one.
    stream = np.concatenate([batches.train_indices(3, step, 7, size) for step in range(12)])
    for epoch in range(len(stream) // size):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert not np.array_equal(stream[:size], stream[size : 2 * size])


def test_a_batch_depends_on_seed_and_step_alone():
    first = batches.train_indices(0, 5, 8, 100)
    batches.epoch_order.cache_clear()
    np.testing.assert_array_equal(first, batches.train_indices(0, 5, 8, 100))
    assert not np.array_equal(first, batches.train_indices(1, 5, 8, 100))
    assert not np.array_equal(first, batches.train_indices(0, 6, 8, 100))


@pytest.mark.parametrize("size", [1, 7, 8, 17])
def test_evaluation_weighs_every_example_once(size):
    weight = np.zeros(size)
    for indices, weights in batches.eval_batches(size, 8):
        assert indices.shape == weights.shape == (8,)
        np.add.at(weight, indices, weights)
    assert weight.tolist() == [1.0] * size


def test_crop_flip_gives_every_window_of_the_padded_image():
    # Every pixel of this image is different and none is zero, so a window tells where it was cut and whether flipped.
    image = np.arange(1, 6 * 6 + 1, dtype=np.float32).reshape(6, 6, 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {}
    for row in range(9):
        for column in range(9):
            window = padded[row : row + 6, column : column + 6]
            windows[window.tobytes()] = (row, column, False)
            windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (row, column, True)
    keys = jax.random.split(jax.random.key(0), 2_000)
    cut = np.asarray(jax.jit(augment.crop_flip)(np.broadcast_to(image, (2_000, 6, 6, 1)), keys))
    places = [windows[np.ascontiguousarray(one).tobytes()] for one in cut]  # a KeyError is a window that is none
    rows, columns, flips = (np.array(values) for values in zip(*places, strict=True))
    # 2,000 draws: each of 9 places 222 +- 14, each side 1,000 +- 22; five standard deviations.
    assert np.abs(np.bincount(rows, minlength=9) - 222).max() < 70
    assert np.abs(np.bincount(columns, minlength=9) - 222).max() < 70
    assert abs(flips.sum() - 1_000) < 112
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.12


def test_an_images_crop_depends_on_its_own_key_alone():
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 6)
    whole = augment.crop_flip(images, keys)
    np.testing.assert_array_equal(whole[3:5], augment.crop_flip(images[3:5], keys[3:5]))
