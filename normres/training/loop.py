"""`fit` trains and yields what happens; it touches no file."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from normres.data import corruptions
from normres.training import tpu
from normres.training.programs import Programs
from normres.training.step import TrainState

# After a stop signal at most two programs still run; schedulers kill a process after half a minute.
PROGRAM_SECONDS = 10.0

# What a program measured of its steps, by name, and how many steps it did.
_Measured = tuple[Mapping[str, Any], int]


class _Pace:
    """Says how many steps the next program does: `most`, or as many as take PROGRAM_SECONDS.

    How many steps one call does changes no number.
    """

    def __init__(self, most: int):
        self.most, self.count = most, 1
        self._queued: _Measured | None = None
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

    kind is "train" (means since the last such event), "test" (whole test set), "checkpoint" (the state may be saved;
    the values are what the steps since the last "train" event measured), "diverged" (at `step` the loss was not
    finite), "corrupted" (test errors by corruption, a list over severities), "probe" (lists over layers, see probe.py),
    "pictures" (see Programs.pictures) or "finished" (final values).
    """

    kind: str
    step: int
    values: dict[str, Any]


def fit(
    programs: Programs,
    state: TrainState,
    should_stop: Callable[[], bool] = lambda: False,
    measured: Mapping[str, Sequence[float]] | None = None,
) -> Iterator[tuple[Event, TrainState]]:
    """Trains from `state` to the config's last step and yields events with the state they belong to.

    All later events depend only on a "checkpoint"'s state and values: the evaluation and the probe of its step come
    after it.  So a run that was stopped goes on as if it had not been.

    A yielded state, at most a program ahead of a "train" event, is valid until the next event is asked for.
    Metrics are fetched one program late, so that the device has work while Python reads them.

    Args:
      programs: the run's.
      state: the initial one, or that of a checkpoint whose values are `measured`.
      should_stop: asked between two programs and in evaluations.  When it turns true, a last "checkpoint" is yielded.
    """
    for event, after in _events(programs, state, should_stop, measured):
        whole = programs.together(after)
        yield event, whole
        if whole is not after:
            tpu.free(whole, kept=after)


def _events(
    programs: Programs,
    state: TrainState,
    should_stop: Callable[[], bool],
    measured: Mapping[str, Sequence[float]] | None,
) -> Iterator[tuple[Event, TrainState]]:
    """As fit, but that a state may be one that Programs.train returned."""
    train = programs.config.train
    step = saved = int(state.step)
    rows: list[_Measured] = [(measured, len(measured["loss"]))] if measured else []
    pace = _Pace(programs.steps_per_program)
    while True:
        stopped, at_end, at_eval = should_stop(), step == train.steps, step > 0 and step % train.eval_every == 0
        at_probe = train.probe_every > 0 and step % train.probe_every == 0
        at_kept = train.keep_every > 0 and step % train.keep_every == 0
        if step > saved and (stopped or at_end or at_kept or step % train.checkpoint_every == 0):
            pace.pause()
            saved = step
            yield Event("checkpoint", step, {name: row.tolist() for name, row in _values(rows).items()}), state
        if stopped:
            return
        late = []
        if rows and (at_end or at_eval or step % train.log_every == 0):
            late, rows = rows, []
        if late and (at_end or at_eval or at_probe):
            pace.pause()
            event, late = _interval(late, step), []
            yield event, state
            if event.kind == "diverged":
                return
        if at_end:
            break
        if at_eval:
            values = programs.evaluate(state, "test", should_stop)
            if values is None:
                continue
            yield Event("test", step, dict(values)), state
        if at_probe:
            pace.pause()
            yield Event("probe", step, dict(programs.probe(state))), state
        own = (train.log_every, train.eval_every, train.checkpoint_every, train.probe_every, train.keep_every)
        count = min(pace.count, train.steps - step, *(every - step % every for every in own if every))
        state, metrics = programs.train(state, step, count)
        pace.follow(metrics, count)
        rows.append((metrics, count))
        if late:
            event = _interval(late, step)
            yield event, state
            if event.kind == "diverged":
                return
        step += count
    yield from _finish(programs, state, step, should_stop)


def _finish(
    programs: Programs, state: TrainState, step: int, should_stop: Callable[[], bool]
) -> Iterator[tuple[Event, TrainState]]:
    """Yields what is measured after the last step, or nothing if told to stop."""
    on_train = programs.evaluate(state, "train", should_stop)
    on_test = programs.evaluate(state, "test", should_stop) if on_train else None
    evaluate = partial(programs.evaluate, state, "test", should_stop)
    corrupted = corruptions.errors(programs.config.data, evaluate) if on_test else None
    if on_train is None or on_test is None or corrupted is None:
        return
    yield Event("test", step, dict(on_test)), state
    if programs.config.train.probe_every:
        yield Event("probe", step, dict(programs.probe(state))), state
    if corrupted:
        yield Event("corrupted", step, dict(corrupted)), state
    if (pictures := programs.pictures(state)) is not None:
        yield Event("pictures", step, {"pictures": pictures}), state
    final = {f"train_{name}": value for name, value in on_train.items()}
    yield Event("finished", step, final | {f"test_{name}": value for name, value in on_test.items()}), state


def _values(programs: Sequence[_Measured]) -> dict[str, np.ndarray]:
    """Returns the values of all steps, float64 (steps,), by name."""
    return {
        name: np.concatenate([np.asarray(metrics[name], np.float64)[:count] for metrics, count in programs])
        for name in (programs[0][0] if programs else ())
    }


def _interval(pending: Sequence[_Measured], last_step: int) -> Event:
    """Means over the steps that end with `last_step`, or where among them the loss was first not finite."""
    values = _values(pending)
    bad = np.flatnonzero(~np.isfinite(values["loss"]))
    if bad.size:
        return Event("diverged", last_step - len(values["loss"]) + 1 + int(bad[0]), {})
    means = {name: float(rows.mean()) for name, rows in values.items()}
    return Event("train", last_step, means | {"learning_rate": float(values["learning_rate"][-1])})
