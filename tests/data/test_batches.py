"""Which examples make a batch."""

import numpy as np
import pytest

from normres.data import batches


@pytest.mark.parametrize(("seed", "size"), [(3, 10), (4, 7)])
def test_every_epoch_holds_every_example_once(seed, size):
    # 12 steps of 7 examples: several epochs of `size`, most batches spanning the end of one.
    stream = np.concatenate([batches.train_indices(seed, step, 7, size) for step in range(12)])
    for epoch in range(len(stream) // size):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
    # Published runs were trained in this order, so a change of it has to be noticed.
    orders = [np.random.default_rng([seed, epoch]).permutation(size) for epoch in range(len(stream) // size + 1)]
    np.testing.assert_array_equal(stream, np.concatenate(orders)[: len(stream)])
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("size", [1, 7, 8, 17])
def test_evaluation_weighs_every_example_once(size):
    weight = np.zeros(size)
    for indices, weights in batches.eval_batches(size, 8):
        assert indices.shape == weights.shape == (8,)
        np.add.at(weight, indices, weights)
    assert weight.tolist() == [1.0] * size


def test_each_example_is_mixed_with_the_one_before_it_in_the_whole_batch():
    indices = batches.train_indices(0, 3, 16, 40)
    pairs = batches.with_partners(indices)
    np.testing.assert_array_equal(pairs[:, 0], indices)
    assert pairs[0, 1] == indices[15]
    np.testing.assert_array_equal(pairs[1:, 1], indices[:15])
