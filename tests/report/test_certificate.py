"""Whether a repetition agrees: rarely wrong without a difference, and what differs around it is named."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import experiment, made

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


@pytest.mark.parametrize(("ours", "yours"), [(3, 1), (5, 2)])
def test_without_a_difference_it_rarely_says_one(ours, yours):
    random, wrong = np.random.default_rng(0), 0
    sides = [runs(lambda *_: 0.2, range(count)) for count in (ours, yours)]
    arms = [DEGRADATION.arms(side) for side in sides]
    quick = SimpleNamespace(title="", arms=lambda side: arms[side is sides[1]])  # the arms stay the same
    for _ in range(400):
        for run in (*sides[0], *sides[1]):
            run.record["final"]["test_error"] = 0.2 + 0.004 * random.normal()
        wrong += certificate(quick, *sides)[1] == 1
    assert wrong / 400 < 0.08  # at most 5 % are meant, and 400 draws are few


def ours(arm, seed):
    return 0.2 + 0.0002 * seed


LOST = made((0, 0), seed=0, status="diverged", change={"model.shortcut": "A", "model.depth": 32})


@pytest.mark.parametrize(
    ("result", "again", "status", "counts"),
    [
        (runs(ours, range(3)), runs(ours, [0]), 0, "the same: 4 of 4"),
        # One equal number is not the same run.
        (runs(ours, range(3)), runs(ours, [0], final={"train_error": 0.11}), 0, "agrees: 4 of 4"),
        # One seed of ours has no spread; that of three noisy ones exceeds the margin of one point.
        (runs(ours, [0]), runs(lambda *_: 0.203, [0]), 3, "cannot be judged: 4 of 4"),
        (runs(lambda _, seed: 0.2 + 0.02 * seed, range(3)), runs(lambda *_: 0.203, [0]), 3, "cannot be judged: 4 of 4"),
        # What is missing or diverged is counted.
        (runs(ours, range(3)), runs(ours, range(3))[:6], 3, "the same: 2 of 4, not run: 2 of 4"),
        (runs(ours, range(3)), [*runs(ours, [0])[:3], LOST], 1, "the same: 3 of 4, differs: 1 of 4"),
        (runs(ours, range(3)), [], 3, "not run: 4 of 4"),
        # Runs that diverged at one step are the same, at two steps they are not.
        ([LOST], [LOST], 0, "the same: 1 of 1"),
        ([LOST], [replace(LOST, record=LOST.record | {"diverged_at_step": 300})], 3, "cannot be judged: 1 of 1"),
    ],
)
def test_the_verdict_and_its_exit_status(result, again, status, counts):
    text, computed = certificate(DEGRADATION, result, again)
    assert (computed, text.splitlines()[2]) == (status, f"**{counts}**")


def test_versions_are_those_of_the_seeds_that_were_repeated():
    mine = [*runs(ours, [0]), *runs(ours, [1], attempt={"commit": "e" * 40})]
    again = runs(ours, [0], record={"config_digest": "of another source of the data"})
    assert "What else differs" not in certificate(DEGRADATION, mine, again)[0]


def test_a_difference_is_said_and_what_else_differs():
    def yours(arm, seed):
        return ours(arm, seed) + 0.0001 + 0.1 * (arm == ("A", 32))

    other = runs(yours, range(1), attempt={"commit": "f" * 40})
    for run in other:
        run.config["optim"]["learning_rate"] = 0.3
        run.config["train"]["steps"] = 640
    text, status = certificate(DEGRADATION, runs(ours, range(3)), other)
    assert status == 1
    assert "**agrees: 3 of 4, differs: 1 of 4**" in text
    (line,) = [line for line in text.splitlines() if line.rstrip(" |").endswith("differs") and "|" in line]
    assert line.split("|")[1].strip() == "residual (A), depth 32"
    assert "+10.0" in line
    assert "* Commit: ours 0123456789ab; yours ffffffffffff" in text
    assert "* optim.learning_rate: ours 0.1; yours 0.3\n* train.steps: ours 320; yours 640\n" in text
    assert "Processor" not in text
