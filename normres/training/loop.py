"""`fit` trains and yields what happens; it touches no file."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from normres.data import corruptions
from normres.training.programs import Programs
from normres.training.step import TrainState

# Who is told to stop finishes at most two programs, and systems that stop processes give them half a minute.
PROGRAM_SECONDS = 10.0

# What a program's steps measured, by name, and how many steps it did.
_Rows = tuple[dict[str, jax.Array], int]


class _Pace:
    """Says how many steps the next program does: `most`, or as many as take PROGRAM_SECONDS.

    How the steps are divided into programs changes no number.
    """

    def __init__(self, most: int):
        self.most, self.count = most, 1
        self._queued: _Rows | None = None
        self._since = 0.0

    def follow(self, metrics: dict[str, jax.Array], count: int) -> None:
        """Waits for the program before the one that was dispatched, so that no more than one is queued."""
        if self.most == 1:
            return
        now = time.perf_counter()
        if self._queued:
            jax.block_until_ready(self._queued[0])
            now = time.perf_counter()
            seconds = (now - self._since) / self._queued[1]
            self.count = min(max(int(PROGRAM_SECONDS / seconds), 1), self.most)
        self._queued, self._since = (metrics, count), now

    def pause(self) -> None:
        """Forgets the queued program: something else than training comes next, which is not to count as its time."""
        self._queued = None


@dataclass(frozen=True)
class Event:
    """What `fit` yields.

    kind is "train" (means since the last such event), "test" (whole test set), "checkpoint" (values are empty and
    the state may be saved), "diverged" (at `step` the loss was not finite), "corrupted" (test errors by corruption,
    a list over severities) or "finished" (final values).
    """

    kind: str
    step: int
    values: dict[str, Any]


def fit(
    programs: Programs, state: TrainState, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Event, TrainState]]:
    """Trains from `state` to the config's last step and yields events with the state they belong to.

    When `should_stop()` turns true, it yields a last "checkpoint" and returns; it is asked between two programs.  A
    yielded state, at most a program ahead of a "train" event, is valid until the next event is asked for.  Metrics are
    fetched one program late, so that the device has work while Python reads them.
    """
    train = programs.config.train
    step = int(state.step)
    pending: list[_Rows] = []
    pace = _Pace(programs.steps_per_program)
    while step < train.steps and not should_stop():
        waiting = sum(count for _, count in pending)
        until_logged = train.log_every - waiting % train.log_every
        until = (every - step % every for every in (train.eval_every, train.checkpoint_every))
        count = min(pace.count, train.steps - step, until_logged, *until)
        state, metrics = programs.train(state, step, count)
        pace.follow(metrics, count)
        step += count
        pending.append((metrics, count))
        at_eval, at_checkpoint = step % train.eval_every == 0, step % train.checkpoint_every == 0
        due = []
        if waiting == train.log_every:
            due.append((pending[:-1], step - count))
            pending = pending[-1:]
        if at_eval or at_checkpoint or step == train.steps:
            due.append((pending, step))
            pending = []
        if due:
            pace.pause()
        for rows, last in due:
            event = _interval(rows, last)
            yield event, state
            if event.kind == "diverged":
                return
        if step == train.steps:
            break
        if at_eval and (values := programs.evaluate(state, "test", should_stop)):
            yield Event("test", step, dict(values)), state
        if at_checkpoint:
            yield Event("checkpoint", step, {}), state
    if pending:
        yield _interval(pending, step), state
    on_train = programs.evaluate(state, "train", should_stop) if step == train.steps else None
    on_test = programs.evaluate(state, "test", should_stop) if on_train else None
    evaluate = partial(programs.evaluate, state, "test", should_stop)
    corrupted = corruptions.errors(programs.config.data, evaluate) if on_test else None
    if on_train is None or on_test is None or corrupted is None:
        yield Event("checkpoint", step, {}), state
        return
    yield Event("test", step, dict(on_test)), state
    if corrupted:
        yield Event("corrupted", step, dict(corrupted)), state
    final = {f"train_{name}": value for name, value in on_train.items()}
    yield Event("finished", step, final | {f"test_{name}": value for name, value in on_test.items()}), state


def _interval(pending: list[_Rows], last_step: int) -> Event:
    """Means over the steps that end with `last_step`, or where among them the loss was first not finite."""
    values = {
        name: np.concatenate([np.asarray(metrics[name], np.float64)[:count] for metrics, count in pending])
        for name in pending[0][0]
    }
    bad = np.flatnonzero(~np.isfinite(values["loss"]))
    if bad.size:
        return Event("diverged", last_step - len(values["loss"]) + 1 + int(bad[0]), {})
    means = {name: float(rows.mean()) for name, rows in values.items()}
    return Event("train", last_step, means | {"learning_rate": float(values["learning_rate"][-1])})
