"""Several runs in one program: the numbers of separate runs, and the same files."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_train import after_steps, assert_close, config, dataset, leaves, programs  # noqa: F401

from normres.errors import InterruptedRun, UserError
from normres.runs import arms as launch
from normres.runs import results
from normres.runs.sweep import Arm
from normres.training.group import Group
from normres.training.loop import fit

OWN = [{"seed": 0}, {"seed": 5, "optim__learning_rate": 0.03}, {"seed": 2, "optim__weight_decay": 0.01}]


def group_of(dataset, own=OWN, devices=1, **fields):  # noqa: F811
    built = [programs(dataset, devices, **fields, **each) for each in own]
    return Group(built, [each.initial_state() for each in built]), built


@pytest.mark.parametrize(
    ("devices", "fields"),
    [
        (1, {}),
        (1, {"model__norm": "group", "model__norm_groups": 2, "data__mixup": 1.0}),
        (8, {"train__parallel": "jit"}),
        (8, {"train__parallel": "pmap", "model__dropout": 0.3}),
    ],
)
def test_a_group_computes_the_numbers_of_separate_runs(dataset, devices, fields):  # noqa: F811
    group, built = group_of(dataset, devices=devices, **fields)
    found = np.concatenate([group.metrics(step) for step in (1, 2, 3)])
    for number, alone in enumerate(built):
        state, losses = after_steps(alone, 3)
        np.testing.assert_allclose(found[:, number], losses, rtol=1e-4)
        member = group.members[number]
        member.step = 3
        assert_close(member.saved(member), state)
    assert not np.allclose(found[:, 0], found[:, 1], rtol=1e-3)


def assert_alike(values, wanted, images):
    """Compares what was measured; rounding may decide for one of at least so many images on a tie of two classes."""
    assert values.keys() == wanted.keys()
    for name, value in wanted.items():
        allowed = 1.01 / images if "error" in name else 1e-3
        np.testing.assert_allclose(values[name], value, rtol=1e-3, atol=allowed, err_msg=name)


def in_turns(group):
    """Runs fit on every member as the launcher does, an event of each in turn."""
    events = [fit(member, member) for member in group.members]
    seen = [[] for _ in events]
    open_ones = set(range(len(events)))
    while open_ones:
        for number in sorted(open_ones):
            event = next(events[number], None)
            if event is None:
                group.members[number].leave()
                open_ones.discard(number)
            else:
                seen[number].append(event[0])
    return seen


def test_events_are_those_of_separate_runs_and_a_diverged_one_harms_no_other(dataset):  # noqa: F811
    own = [{"seed": 1, "optim__learning_rate": 1e30}, {"seed": 1}, {"seed": 4}]
    group, built = group_of(dataset, own)
    for seen, alone in zip(in_turns(group), built, strict=True):
        expected = [event for event, _ in fit(alone, alone.initial_state())]
        assert [(event.kind, event.step) for event in seen] == [(event.kind, event.step) for event in expected]
        for event, wanted in zip(seen, expected, strict=True):
            assert_alike(event.values, wanted.values, 16)
    assert seen[-1].kind == "finished"
    assert min(group._metrics) > 2  # what all have had is dropped


def test_what_cannot_train_together_is_said(dataset):  # noqa: F811
    with pytest.raises(UserError, match="different shapes"):
        group_of(dataset, [{"model__shortcut": "none"}, {"model__shortcut": "A"}])
    built = [programs(dataset, seed=seed) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"runs at steps \[0, 1\]"):
        Group(built, [after_steps(built[0], 1)[0], built[1].initial_state()])


def sweep_arms(members, **fields):
    """Three seeds and two depths, as a sweep orders them."""
    return [
        Arm(
            f"depth={depth},seed={seed}",
            f"{depth} {seed}",
            config(model__depth=depth, seed=seed, train__seeds_per_program=members, **fields),
        )
        for seed in (0, 1, 2)
        for depth in (8, 14)
    ]


def test_arms_of_one_shape_are_grouped_and_keep_their_order():
    named = [[arm.run_id for arm in arms] for arms in launch.programs_of(sweep_arms(2))]
    assert named == [
        ["depth=8,seed=0", "depth=8,seed=1"],
        ["depth=14,seed=0", "depth=14,seed=1"],
        ["depth=8,seed=2"],
        ["depth=14,seed=2"],
    ]
    assert all(len(arms) == 1 for arms in launch.programs_of(sweep_arms(1)))


class StopsAt(threading.Event):
    """An event that is set once it has been asked so many times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def is_set(self):
        self.times -= 1
        return self.times < 0


def read(workdir: Path, arm: Arm):
    path = workdir / arm.run_id
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return results.read_run(path).record, lines


def test_a_sweep_in_groups_leaves_what_separate_runs_leave_also_when_stopped(tmp_path):
    console, never = Console(quiet=True), threading.Event()
    alone, together = [arm for arm in sweep_arms(1) if "=8" in arm.run_id], sweep_arms(3)[::2]
    assert launch.run_sweep(alone, tmp_path / "alone", never, console) == 0
    for times in (4, 13, 20):  # in the first interval, later, and in an evaluation
        with pytest.raises(InterruptedRun):
            launch.run_sweep(together, tmp_path / "together", StopsAt(times), console)
    assert {read(tmp_path / "together", arm)[0]["status"] for arm in together} == {"running"}
    assert launch.run_sweep(together, tmp_path / "together", never, console) == 0
    for one, other in zip(alone, together, strict=True):
        (record, lines), (wanted, expected) = read(tmp_path / "together", other), read(tmp_path / "alone", one)
        assert record["status"] == wanted["status"] == "finished"
        assert record["restarts"] > 0
        assert (record["runs_in_program"], wanted["runs_in_program"]) == (3, 1)
        assert_alike(record["final"], wanted["final"], 320)
        by_step = {(line["step"], line["split"]): line["loss"] for line in lines}
        for line in expected:
            # A run that is stopped where an evaluation is due goes on after it.
            if line["split"] == "test" and (line["step"], "test") in by_step:
                np.testing.assert_allclose(by_step[line["step"], "test"], line["loss"], rtol=1e-3)
        assert (6, "test") in by_step
        assert not list((tmp_path / "together" / other.run_id / "checkpoints").glob("*"))
