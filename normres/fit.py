"""`fit` trains and yields what happens; it touches no file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from normres.data import corruptions
from normres.group import Member
from normres.programs import Programs


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
    programs: Programs | Member, state: Any, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Event, Any]]:
    """Trains from `state` to the config's last step and yields events with the state they belong to.

    When `should_stop()` turns true, it yields a last "checkpoint" and returns.  A yielded state is valid until the
    next event is asked for; `programs.saved` has its arrays.  Metrics are fetched one step late, so that the device
    has work while Python reads them.
    """
    train = programs.config.train
    step = int(state.step)
    pending: list[jax.Array] = []
    while step < train.steps and not should_stop():
        state, metrics = programs.train(state, step)
        step += 1
        pending.append(metrics)
        at_eval, at_checkpoint = step % train.eval_every == 0, step % train.checkpoint_every == 0
        if at_eval or at_checkpoint or step == train.steps:
            due = len(pending)
        elif len(pending) > train.log_every:
            due = train.log_every
        else:
            continue
        event = _interval(pending[:due], step - len(pending) + due)
        pending = pending[due:]
        yield event, state
        if event.kind == "diverged":
            return
        if step == train.steps:
            break
        if at_eval and (found := programs.evaluate(state, "test", should_stop)):
            yield Event("test", step, dict(found)), state
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
    final = {"train_loss": on_train["loss"], "train_error": on_train["error"]}
    final |= {"test_loss": on_test["loss"], "test_error": on_test["error"]}
    yield Event("finished", step, final), state


def _interval(metrics: list[jax.Array], last_step: int) -> Event:
    """Means over the steps that end with `last_step`, or where among them the loss was first not finite."""
    values = np.asarray(jax.device_get(metrics), np.float64)
    bad = np.flatnonzero(~np.isfinite(values[:, 0]))
    if bad.size:
        return Event("diverged", last_step - len(values) + 1 + int(bad[0]), {})
    loss, error, _ = values.mean(axis=0)
    return Event("train", last_step, {"loss": loss, "error": error, "learning_rate": values[-1, 2]})
