"""Running averages against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from normres.norms import Average, Moments, pooled


def running_means(average, values, counts=None):
    mean, var, means, variances = jnp.zeros(()), jnp.ones(()), [], []
    for update, value in enumerate(values):
        count = jnp.asarray(4.0 if counts is None else counts[update])
        new = Moments(jnp.asarray(value), jnp.asarray(value), count)
        mean, var = average.update(mean, var, new, jnp.asarray(float(update)))
        means.append(float(mean))
        variances.append(float(var))
    return means, variances


def test_running_averages_by_hand():
    values = [10.0, 20.0, 30.0]
    # Exponential, from 0, keeping 0.9: 1; 0.9 * 1 + 2 = 2.9; 0.9 * 2.9 + 3 = 5.61.
    exponential = [1.0, 2.9, 5.61]
    np.testing.assert_allclose(running_means(Average(momentum=0.9), values)[0], exponential, rtol=1e-6)
    in_torch_terms = Average(momentum=0.1, torch_momentum=True)
    np.testing.assert_allclose(running_means(in_torch_terms, values)[0], exponential, rtol=1e-6)
    # Divided by 1 - 0.9^t = 0.1, 0.19, 0.271.
    debiased = [10.0, 2.9 / 0.19, 5.61 / 0.271]
    np.testing.assert_allclose(running_means(Average("debiased", momentum=0.9), values)[0], debiased, rtol=1e-5)
    np.testing.assert_allclose(running_means(Average("cumulative"), values)[0], [10.0, 15.0, 20.0], rtol=1e-6)
    # Of four elements the unbiased variance is 4/3 of the biased one.
    unbiased = running_means(Average("cumulative", unbiased=True), values)[1]
    np.testing.assert_allclose(unbiased, np.array([10.0, 15.0, 20.0]) * 4 / 3, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "debiased", "cumulative"])
def test_a_batch_without_elements_leaves_the_averages_as_they_are(kind):
    means, variances = running_means(Average(kind), [7.0, 0.0], counts=[4, 0])
    assert (means[0], variances[0]) == (means[1], variances[1])


def test_sub_batches_are_pooled_by_their_counts():
    mean, var, count = (jnp.asarray(values).reshape(3, 1) for values in ([2.0, 6, 9], [4.0, 8, 9], [1.0, 3, 0]))
    computed = pooled(Moments(mean, var, count))
    # (1 * 2 + 3 * 6) / 4 and (1 * 4 + 3 * 8) / 4; the third has no element.
    assert (float(computed.mean[0, 0]), float(computed.var[0, 0])) == (5.0, 7.0)
    none = pooled(Moments(*jnp.zeros((3, 0, 4))))  # of an empty batch
    np.testing.assert_array_equal(jnp.stack(none), np.zeros((3, 1, 4)))
