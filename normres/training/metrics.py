"""Metrics: what is measured of each training step, and of the evaluated examples.

A row of METRICS appears by its name in metrics.jsonl and, where it is of examples, in the record's final numbers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax


class Outcome(NamedTuple):
    """A network's outputs for N examples: losses_N and logits_NK, and their labels_N."""

    losses_N: jax.Array
    logits_NK: jax.Array
    labels_N: jax.Array


class Update(NamedTuple):
    """What a training step changes: the parameters before it, and the gradients."""

    params: Any
    gradients: Any


class Metric(NamedTuple):
    """A metric.

    Attributes:
      of: "examples": a value for each, of which the mean is reported, in training and evaluation; "update": one number
        of a training step.
      value: Outcome -> values_N, or Update -> a scalar.
    """

    of: Literal["examples", "update"]
    value: Callable[[Any], jax.Array]


def top1_error(outcome: Outcome) -> jax.Array:
    """Returns, for each example, whether its largest logit is another class's or any logit is NaN."""
    return (jnp.argmax(outcome.logits_NK, -1) != outcome.labels_N) | jnp.isnan(outcome.logits_NK).any(-1)


def top_error(outcome: Outcome, k: int) -> jax.Array:
    """Returns, for each example, whether k or more classes have a larger logit than the right one."""
    is_right_NK = jax.nn.one_hot(outcome.labels_N, outcome.logits_NK.shape[-1], dtype=bool)
    right_N1 = jnp.sum(jnp.where(is_right_NK, outcome.logits_NK, 0), axis=-1, keepdims=True)
    # Not logits > right, which is False for NaN.
    return jnp.sum(~(outcome.logits_NK <= right_N1), axis=-1) >= k


def length(tree: Any) -> jax.Array:
    """Returns the square root of the sum of squares of all numbers in a tree of arrays."""
    # A GPU would start a kernel for each leaf, forty in a ResNet-20; elsewhere the copy is what costs.
    together = lambda leaves: jnp.linalg.norm(jnp.concatenate([leaf.ravel() for leaf in leaves]))  # noqa: E731
    return lax.platform_dependent(jax.tree.leaves(tree), cuda=together, rocm=together, default=optax.tree.norm)


# To add a metric, add a row.
METRICS: dict[str, Metric] = {
    "loss": Metric("examples", lambda outcome: outcome.losses_N),
    "error": Metric("examples", top1_error),
    "top5_error": Metric("examples", lambda outcome: top_error(outcome, 5)),
    "gradient_norm": Metric("update", lambda update: length(update.gradients)),
    "parameter_norm": Metric("update", lambda update: length(update.params)),
}


def measured(of: Literal["examples", "update"], what: Outcome | Update) -> dict[str, jax.Array]:
    """Returns the values of all metrics of that kind, float32, by name."""
    return {name: metric.value(what).astype(jnp.float32) for name, metric in METRICS.items() if metric.of == of}
