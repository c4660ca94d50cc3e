"""Whether a repetition agrees: rarely wrong without a difference, and what differs around it is named."""

import numpy as np
import pytest
from synthetic import experiment, made

from normres.errors import UserError
from normres.report.certificate import certificate

DEGRADATION = experiment("degradation")
ARMS = [(shortcut, depth) for shortcut in ("none", "A") for depth in (20, 32)]


def runs(errors, seeds, **more):
    """Returns a run of each arm and seed; `errors` gives the test error of both."""
    return [
        made(
            (0.1, errors(arm, seed)),
            seed=seed,
            change={"model.shortcut": arm[0], "model.depth": arm[1]},
            data={"test_examples": 10_000},
            **more,
        )
        for arm in ARMS
        for seed in seeds
    ]


@pytest.mark.parametrize(("ours", "yours"), [(3, 1), (3, 3), (5, 2)])
def test_without_a_difference_it_rarely_says_one(ours, yours):
    random, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        first, second = (runs(lambda *_: 0.2 + 0.004 * random.normal(), range(count)) for count in (ours, yours))
        wrong += not certificate(DEGRADATION, first, second)[1]
    assert wrong / 300 < 0.08  # 5 % are meant, and 300 draws are few


def test_a_difference_is_said_and_what_else_differs():
    def ours(arm, seed):
        return 0.2 + 0.001 * seed

    def yours(arm, seed):
        return ours(arm, seed) + 0.1 * (arm == ("A", 32))

    text, agrees = certificate(DEGRADATION, runs(ours, range(3)), runs(yours, range(1), attempt={"commit": "f" * 40}))
    assert not agrees
    assert "**agrees: 3 of 4, differs: 1 of 4**" in text
    (line,) = [line for line in text.splitlines() if "differs |" in line.replace("  ", " ")]
    assert line.split("|")[1].strip() == "residual (A), depth 32"
    assert "+9.90" in line
    assert "* Commit: ours 0123456789ab; yours ffffffffffff" in text
    assert "Processor" not in text


def test_one_seed_of_ours_decides_nothing():
    text, agrees = certificate(DEGRADATION, runs(lambda *_: 0.2, [0]), runs(lambda *_: 0.4, [0]))
    assert agrees
    assert "**cannot be judged: 4 of 4**" in text


def test_nothing_was_run():
    with pytest.raises(UserError, match="no arm of the result was run to its end"):
        certificate(DEGRADATION, runs(lambda *_: 0.2, [0]), [])
