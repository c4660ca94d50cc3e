"""Two sets of runs: the comparison by hand, and the certificate, which is rarely wrong."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import experiment, made, write_run

from normres import cli
from normres.errors import UserError
from normres.report.pairs import certificate, compare

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
    quick = SimpleNamespace(
        title="", measure="error", arms=lambda side: arms[side is sides[1]]
    )  # the arms stay the same
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


# --- compare


def test_two_sets_by_hand(tmp_path, capsys):
    for at, norm, shift in (("a", "batch", (0.0, 0.0)), ("b", "group", (0.01, 0.03))):
        for seed, more in enumerate(shift):
            for depth in (14, 56):
                change = {"model.norm": norm, "model.depth": depth}
                losses = {"test_loss": 1.5 + more}
                write_run(tmp_path / at, (0.1, 0.2 + more), seed=seed, change=change, final=losses)
    write_run(tmp_path / "b", (0.1, 0.2), change={"model.norm": "group", "model.depth": 8})
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert cli.main(["compare", a, b]) == 0
    said = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("| ")
    ]
    # Mean 22 of 21 and 23; the standard error is 1 point, and Holm's level for two rows 97.5 %: t(0.9875, 1) = 25.45.
    assert rows[1:] == [
        [
            f"depth {depth}",
            "20.00 ± 0.00",
            "22.00 ± 1.41",
            "+2.00 points, 97.5 % interval −23.45 to +27.45 (paired over 2 seeds); 6 more seeds for each arm would "
            "probably decide",
        ]
        for depth in (14, 56)
    ]
    assert "Fields that differ between the sets: model.norm (batch in A, group in B)." in said
    assert "Only in B: depth 8." in said
    assert cli.main(["compare", a, b, "--metric=test_loss"]) == 0
    said = re.sub(" +", " ", capsys.readouterr().out)
    assert "1.500 ± 0.000 | 1.520 ± 0.014 | +0.020, 97.5 % interval −0.235 to +0.275" in said
    assert "percent" not in said
    write_run(tmp_path / "b", (0.1, 0.2), name="copy", change={"model.norm": "group", "model.depth": 14})
    assert cli.main(["compare", a, b]) == 0
    assert "depth 14, B: More than one run of seed 0: their mean counts as one seed." in capsys.readouterr().out


def test_a_field_that_came_later_has_its_value_of_before():
    sides = ([made((0.1, 0.2), change={"optim.optimizer": name})] for name in ("sgd", "adamw"))
    assert "optim.optimizer (sgd in A, adamw in B)" in compare(*sides, "test_error", (Path("a"), Path("b")))


def test_sets_that_share_nothing_are_one_line():
    names = (Path("a"), Path("b"))
    first = [made((0.1, 0.2), change={"model.depth": at}) for at in (14, 20)]
    second = [made((0.1, 0.2), change={"model.depth": at}) for at in (56, 110)]
    with pytest.raises(UserError, match=r"^a and b have no arm in common; arms are told apart by model\.depth$"):
        compare(first, second, "test_error", names)
    with pytest.raises(UserError, match="=test_eror is no final number of these runs; did you mean 'test_error'"):
        compare(first, first, "test_eror", names)
    assert compare(first[:1], first[:1], "test_error", names).endswith("Fields that differ between the sets: none.")
    elsewhere = [made((0.1, 0.2), change={"model.depth": 14}, attempt={"commit": "f" * 40})]
    said = compare(first[:1], elsewhere, "test_error", names)
    assert said.endswith("none.\nCommit: 0123456789ab in A; ffffffffffff in B.")
    assert "not finished" in compare(first[:1], [made((0, 0), status="running")], "test_error", names)
    said = compare(first[:1], [first[0], made((0, 0), seed=1, status="diverged")], "test_error", names)
    assert "diverged runs count at the error of guessing, 1 of 2; 0 not finished." in said
