"""Losses: functions of logits and labels."""

from collections.abc import Callable

import jax
import optax


def cross_entropy(logits_NK: jax.Array, labels_N: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns -sum_k t_k log softmax(logits)_k, (N,), in nats; t = (1 - smoothing) onehot(label) + smoothing / K.

    Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, arXiv 1512.00567, section 7.
    """
    targets_NK = optax.smooth_labels(jax.nn.one_hot(labels_N, logits_NK.shape[-1]), smoothing)
    return optax.safe_softmax_cross_entropy(logits_NK, targets_NK)


# (logits_NK, labels_N, smoothing) -> losses_N.  To add a loss, add a row.
LOSSES: dict[str, Callable[..., jax.Array]] = {"cross_entropy": cross_entropy}
