"""Metrics and losses: by hand in float64, in the step as in evaluation, and from the table to record and JSON lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import config, programs

from normres.data.augment import Targets
from normres.training import metrics
from normres.training.losses import cross_entropy
from normres.training.metrics import METRICS, Outcome
from normres.training.tasks import loss_of

LOGITS = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
LABELS = np.array([0, 3, 7, 2, 2, 5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_smoothed_targets(smoothing):
    targets = (1 - smoothing) * np.eye(8)[LABELS] + smoothing / 8
    logits = LOGITS.astype(np.float64)
    expected = -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), expected, rtol=1e-5)


def test_mixed_targets_are_soft_targets():
    others = LABELS[::-1].copy()
    soft = 0.3 * np.eye(8)[LABELS] + 0.7 * np.eye(8)[others]
    log_p = np.asarray(jax.nn.log_softmax(LOGITS), np.float64)
    mixed = Targets(jnp.asarray(LABELS), jnp.asarray(others), jnp.float32(0.3))
    losses = mixed.mixed(lambda labels: cross_entropy(LOGITS, labels))
    np.testing.assert_allclose(losses, -(soft * log_p).sum(1), rtol=1e-5)


def test_an_answer_that_is_no_number_is_wrong():
    logits = np.where(np.arange(6)[:, None] < [3], np.nan, LOGITS)
    # The largest of NaNs is the first of them.
    outcome = Outcome(jnp.zeros(6), jnp.asarray(logits), jnp.where(jnp.arange(6) < 3, 0, jnp.argmax(LOGITS, 1)))
    values = metrics.measured("examples", outcome)
    for name in ("error", "top5_error"):
        np.testing.assert_array_equal(values[name], [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("k", [1, 5])
def test_top_errors_count_the_classes_in_front(k):
    order = np.argsort(-LOGITS, axis=1)[:, :k]
    wrong = [label not in row for label, row in zip(LABELS, order, strict=True)]
    outcome = Outcome(jnp.zeros(6), jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_array_equal(metrics.top_error(outcome, k), wrong)
    if k == 1:
        np.testing.assert_array_equal(METRICS["error"].value(outcome), wrong)


def test_the_norms_are_those_of_the_step():
    built = programs(optim__momentum=0.0)
    before = built.initial_state()
    kernels = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(before.params)]
    after, values = built.train(before, 0)
    # Without momentum, the change is rate * (gradient + decay * parameter).
    rate, decay = float(values["learning_rate"][0]), built.config.optim.weight_decay
    changes = zip(kernels, jax.tree.leaves(after.params), strict=True)
    gradients = [(old - np.asarray(new, np.float64)) / rate - decay * old for old, new in changes]
    for name, leaves in (("gradient_norm", gradients), ("parameter_norm", kernels)):
        assert float(values[name][0]) == pytest.approx(np.sqrt(sum(np.sum(leaf**2) for leaf in leaves)), rel=1e-4)


def test_the_loss_of_a_config_is_smoothed():
    loss = loss_of(config(optim__label_smoothing=0.2))
    np.testing.assert_array_equal(loss(LOGITS, LABELS), cross_entropy(LOGITS, LABELS, 0.2))
