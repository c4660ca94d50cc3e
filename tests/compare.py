"""Arrays, and trees of them, compared with one tolerance for all elements of an array."""

import jax
import numpy as np


def close(computed, expected, tolerance=1e-5, name=""):
    """Compares each leaf's shape, and its numbers relative to the largest expected one (or to 1, if that is less)."""
    assert jax.tree.structure(computed) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other, np.float64)
        assert one.shape == other.shape
        largest = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=0, atol=tolerance * largest, err_msg=name)
