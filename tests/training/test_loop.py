"""Events, at the same steps with the same values however a run is cut: into programs, by a stop, by divergence."""

from pathlib import Path

import numpy as np
import pytest
from small_run import after_steps, assert_close, leaves, programs

from normres.layers import PLAIN
from normres.runs import checkpoint
from normres.training import loop
from normres.training.loop import fit


def test_fit_yields_every_event_at_its_step_however_many_are_one_program(monkeypatch):
    alone, together = (programs(train__steps_per_program=most) for most in (1, 8))
    other = PLAIN._replace(conv=lambda *arguments: PLAIN.conv(*arguments))
    chosen = [(PLAIN, 1), (other, 1), (other, 8)]
    most = [programs(devices, ops=ops, train__steps_per_program=0) for ops, devices in chosen]
    assert [built.steps_per_program for built in most] == [1, 8, 1]
    own = f"{Path(__file__).parents[1] / 'runs/small_network.py'}:Net"  # in plain JAX, whatever the operations are
    assert programs(1, ops=other, train__steps_per_program=0, model__module=own).steps_per_program == 1
    dispatched, train = [], together.train

    def noted(state, step, count):
        dispatched.append(count)
        return train(state, step, count)

    together.train = noted
    monkeypatch.setattr(loop, "PROGRAM_SECONDS", 1e6)
    computed, expected = ([*fit(built, built.initial_state())] for built in (together, alone))
    assert dispatched == [1, 1, 1, 1, 2]  # one, as long as nobody knows how long it takes
    assert [(event.kind, event.step) for event, _ in computed] == [
        ("train", 2),
        ("train", 3),
        ("test", 3),
        ("checkpoint", 4),
        ("train", 4),
        ("checkpoint", 6),
        ("train", 6),
        ("test", 6),
        ("finished", 6),
    ]
    for (ours, _), (theirs, _) in zip(computed, expected, strict=True):
        assert (ours.kind, ours.step) == (theirs.kind, theirs.step)
        for name, value in ours.values.items():
            assert value == pytest.approx(theirs.values[name], rel=1e-5)
    assert_close(computed[-1][1], expected[-1][1])


def test_programs_are_as_short_as_a_signal_may_wait(monkeypatch):
    clock, waited = iter([0.0, 1.0, 3.0, 3.5, 9.0, 9.0, 9.1]), []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(loop.jax, "block_until_ready", waited.append)
    pace, counts = loop._Pace(8), []
    for name, count in (("first", 1), ("second", 1), ("third", 3), ("fourth", 1)):
        counts.append(pace.count)
        pace.follow(name, count)
    # The first took 3 seconds; the second, begun then, 6; the three steps of the third 0.1 together.
    assert [*counts, pace.count] == [1, 1, 3, 1, 8]
    assert waited == ["first", "second", "third"]  # each when the next was queued
    pace.pause()
    clock = iter([100.0])
    pace.follow("fifth", 8)  # after an evaluation, whose time is not the fourth's
    assert (pace.count, len(waited)) == (8, 3)


def test_resuming_equals_never_having_stopped(tmp_path):
    built = programs()
    straight = [(event, leaves(state)) for event, state in fit(built, built.initial_state())]
    for event, state in fit(built, built.initial_state()):
        if event.kind == "checkpoint":
            checkpoint.save(tmp_path, event.step, state, {"measured": event.values}, lambda step: False)
            break
    saved, _ = checkpoint.newest(tmp_path)
    restored = saved.state(programs(model__depth=8).initial_state())
    measured = saved.document["measured"]
    resumed = [(event, leaves(state)) for event, state in fit(programs(), restored, measured=measured)]
    expected = straight[-len(resumed) :]
    assert [event for event, _ in resumed] == [event for event, _ in expected]  # bit for bit, values included
    for ours, theirs in zip(resumed[-1][1], expected[-1][1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_diverged_run_says_where():
    built = programs(optim__learning_rate=1e30)
    losses = after_steps(built, 6)[1][:, 0]
    first_bad = np.flatnonzero(~np.isfinite(losses))[0] + 1
    events = [event for event, _ in fit(built, built.initial_state())]
    assert (events[-1].kind, events[-1].step) == ("diverged", first_bad)
    assert all(event.kind == "train" for event in events[:-1])
