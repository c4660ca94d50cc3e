"""Metrics: what is measured of each training step, and of the evaluated examples.

A row of METRICS appears by its name in metrics.jsonl and, where it is of examples, in the record's final numbers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Outcome(NamedTuple):
    """What a network said of N examples: losses_N, logits_NK, and the right answers labels_N."""

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


def top_error(outcome: Outcome, k: int) -> jax.Array:
    """Returns, for each example, whether k or more classes have a larger logit than the right one."""
    right = jnp.take_along_axis(outcome.logits_NK, outcome.labels_N[:, None], axis=-1)
    return jnp.sum(outcome.logits_NK > right, axis=-1) >= k


# To add a metric, add a row.
METRICS: dict[str, Metric] = {
    "loss": Metric("examples", lambda outcome: outcome.losses_N),
    "error": Metric("examples", lambda outcome: jnp.argmax(outcome.logits_NK, -1) != outcome.labels_N),
    "top5_error": Metric("examples", lambda outcome: top_error(outcome, 5)),
    "gradient_norm": Metric("update", lambda update: optax.tree.norm(update.gradients)),
    "parameter_norm": Metric("update", lambda update: optax.tree.norm(update.params)),
}


def measured(of: Literal["examples", "update"], what: Outcome | Update) -> dict[str, jax.Array]:
    """Returns the values of all metrics of that kind, float32, by name."""
    return {name: metric.value(what).astype(jnp.float32) for name, metric in METRICS.items() if metric.of == of}
