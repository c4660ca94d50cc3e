"""Learning rates at known steps, the paper's hold, and two optimizer steps worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres.configs import base
from normres.runs import config as configs
from normres.training import optim


def rate(config, step, held=False):
    return float(optim.learning_rate(config, jnp.int32(step), held))


def test_he2015_divides_by_ten_at_32k_and_48k():
    config = base.get_config("he2015")
    steps = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    assert {step: rate(config, step) for step in steps} == pytest.approx(steps)
    assert (config.train.steps, config.train.batch_size, config.optim.weight_decay) == (64_000, 128, 1e-4)


def test_short_is_the_paper_in_proportion():
    paper, short = base.get_config(), base.get_config("short")
    factor = short.train.steps / paper.train.steps
    assert (factor, short.optim.boundaries) == (1 / 20, tuple(factor * step for step in paper.optim.boundaries))


def test_cosine_begins_after_the_warmup_and_ends_at_zero():
    config = configs.apply(
        base.get_config(), {"optim.schedule": "cosine", "optim.warmup_steps": 10, "train.steps": 110}
    )
    # Linear: 0.1 * (step + 1) / 10.  Cosine over the remaining 100 steps: half way at step 60.
    expected = {0: 0.01, 4: 0.05, 9: 0.1, 10: 0.1, 60: 0.05, 109: 0.1 * (1 + np.cos(np.pi * 0.99)) / 2}
    assert {step: rate(config, step) for step in expected} == pytest.approx(expected, rel=1e-4)


def test_only_deep_networks_are_held_at_the_small_rate():
    config = base.get_config("he2015")
    assert not optim.holds(config)
    deep = configs.apply(config, {"model.depth": 110})
    assert optim.holds(deep)
    assert rate(deep, 0, held=True) == pytest.approx(0.01)
    assert rate(deep, 50_000, held=True) == pytest.approx(0.001)  # never above the schedule
    assert not optim.holds(configs.apply(deep, {"optim.hold_from_depth": 0}))


def two_steps(config, rates=(0.1, 0.1)):
    params = {"layer": {"kernel": jnp.array([1.0]), "scale": jnp.array([1.0])}}
    optimizer = optim.optimizer(config)
    state = optimizer.init(params)
    for rate in rates:
        gradients = {"layer": {"kernel": jnp.array([0.5]), "scale": jnp.array([0.5])}}
        changes, state = optimizer.update(gradients, state, params, rate=rate)
        params = jax.tree.map(jnp.subtract, params, changes)
    return {name: float(value[0]) for name, value in params["layer"].items()}


def test_momentum_and_decay_by_hand():
    config = configs.apply(base.get_config(), {"optim.weight_decay": 0.1})
    # Step 1: v = 0.5 + 0.1*1 = 0.6; w = 1 - 0.06 = 0.94.  Step 2: v = 0.9*0.6 + 0.5 + 0.094 = 1.134; w = 0.8266.
    assert two_steps(config) == pytest.approx({"kernel": 0.8266, "scale": 0.8266})
    # Without decay of scales: v = 0.5, w = 0.95; v = 0.95, w = 0.855.
    config = configs.apply(config, {"optim.decay_norms": False})
    assert two_steps(config) == pytest.approx({"kernel": 0.8266, "scale": 0.855})


def test_the_two_conventions_of_momentum_differ_when_the_rate_changes():
    outside = configs.apply(base.get_config(), {"optim.weight_decay": 0})
    inside = configs.apply(outside, {"optim.optimizer": "sgd_classical"})
    assert two_steps(inside) == pytest.approx(two_steps(outside))
    # v = 0.5, w = 0.95; then the rate falls to 0.01.  Outside: v = 0.95, w = 0.95 - 0.0095.  Inside: v = 0.05, then
    # 0.9 * 0.05 + 0.01 * 0.5 = 0.05, w = 0.95 - 0.05.
    assert two_steps(outside, (0.1, 0.01))["kernel"] == pytest.approx(0.9405)
    assert two_steps(inside, (0.1, 0.01))["kernel"] == pytest.approx(0.9)


def test_adamw_by_hand():
    config = configs.apply(
        base.get_config(), {"optim.optimizer": "adamw", "optim.weight_decay": 0.1, "optim.decay_norms": False}
    )
    # A constant gradient: Adam's step is its sign, whatever its size.  w = 1 - 0.1 (1 + 0.1) = 0.89, then
    # 0.89 - 0.1 (1 + 0.089) = 0.7811; without decay 0.9, 0.8.
    assert two_steps(config) == pytest.approx({"kernel": 0.7811, "scale": 0.8}, abs=1e-5)
