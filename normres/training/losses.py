"""Losses: functions of logits and labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits_NK: jax.Array, labels_N: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns -sum_k t_k log softmax(logits)_k, (N,), in nats; t is the label, one-hot, smoothed: (1 - s) t + s / K.

    Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, arXiv 1512.00567, section 7.
    """
    of_labels = optax.softmax_cross_entropy_with_integer_labels(logits_NK, labels_N)
    if not smoothing:
        return of_labels
    return (1 - smoothing) * of_labels - smoothing * jnp.mean(jax.nn.log_softmax(logits_NK), -1)


# (logits_NK, labels_N, smoothing) -> losses_N.  To add a loss, add a row.
LOSSES: dict[str, Callable[..., jax.Array]] = {"cross_entropy": cross_entropy}
