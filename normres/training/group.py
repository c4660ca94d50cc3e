"""Several runs of one shape in one program: their training steps are one, vmapped over their states.

A member looks to `fit` like the Programs of a run.  The members of a group are asked for the same steps, in turns of
one event each: who first asks for a step has it done for all, the others find their share of it.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from normres.data.stream import Change
from normres.errors import UserError
from normres.training.programs import Programs, compiled_steps, indices_lie
from normres.training.step import TrainState


class Group:
    """Runs that share a compiled step (Programs.trains_like), at the same step, as `members`."""

    def __init__(self, programs: list[Programs], states: list[TrainState]):
        """Takes the runs and their states, which stay valid.

        Raises:
          UserError: the runs are not of one shape, or not at one step.
        """
        first = programs[0]
        if not all(other.trains_like(first) for other in programs):
            raise UserError("config.train.seeds_per_program: runs of different shapes cannot train in one program")
        steps = {int(state.step) for state in states}
        if len(steps) > 1:
            raise UserError(
                f"config.train.seeds_per_program: runs at steps {sorted(steps)} cannot train in one program"
            )
        self.step = steps.pop()
        self.programs = programs
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self.stacked = jax.device_put(stacked, first.replicated)
        self._values = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(each.values for each in programs))
        self._steps = compiled_steps(*first.arguments, members=len(programs))
        self._sharding = NamedSharding(first.replicated.mesh, P(None, *indices_lie(len(programs))))
        self._metrics: dict[int, jax.Array] = {}
        self.members = [Member(self, number) for number in range(len(programs))]

    def compile(self) -> float:
        """Compiles the training step of all members, unless a group of this shape has, and returns the seconds."""
        started = time.perf_counter()
        if self._steps.compiled is None:
            self._steps.compiled = self._steps.train.lower(self.stacked, *self._batch(), self._values).compile()
        return time.perf_counter() - started

    def _batch(self) -> tuple[dict[str, Any], jax.Array, Any]:
        """Returns data, indices of the next step, int32 (1, members, B) or (1, members, B, 2), and their number."""
        indices = np.stack([each.examples(self.step) for each in self.programs])
        return self.programs[0].data["train"], jax.device_put(indices[None], self._sharding), np.int32(1)

    def advance(self) -> jax.Array:
        """Dispatches the next training step of all members and returns its metrics, float32 (1, members, 3)."""
        train = self._steps.compiled or self._steps.train
        self.stacked, metrics = train(self.stacked, *self._batch(), self._values)
        self.step += 1
        return metrics

    def metrics(self, step: int) -> jax.Array:
        """Returns the metrics of the training step before `step`, done now if it was not yet."""
        if step == self.step + 1:
            self._metrics[step] = self.advance()
            # Nobody asks for what every member has had.
            for done in [done for done in self._metrics if done < min(member.step for member in self.members)]:
                del self._metrics[done]
        return self._metrics[step]


class Member:
    """One run of a group, as `fit` sees it: its programs, and its state too, as the state is the group's."""

    steps_per_program = 1

    def __init__(self, group: Group, number: int):
        """Takes the group and the member's place in it."""
        self.group, self.number = group, number
        self.programs, self.step = group.programs[number], group.step
        self.config = self.programs.config

    def train(self, state: "Member", step: int, count: int = 1) -> tuple["Member", jax.Array]:
        """Returns the member after training step `step`, which is done for all members at once, and its metrics."""
        assert state is self
        assert (step, count) == (self.step, 1)
        metrics = self.group.metrics(step + 1)
        self.step = step + 1
        return self, metrics[:, self.number]

    def saved(self, state: "Member") -> TrainState:
        """Returns the member's own state."""
        assert state is self
        assert self.step == self.group.step
        return jax.tree.map(lambda leaf: leaf[self.number], self.group.stacked)

    def leave(self) -> None:
        """Says that the member asks for no more steps."""
        self.step = 2**31

    def stops(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns when the member stops: when told to, but not before it is where the group is."""
        return lambda: should_stop() and self.step == self.group.step

    def evaluate(
        self,
        state: "Member",
        split: str,
        should_stop: Callable[[], bool] = lambda: False,
        change: Change | None = None,
    ) -> dict[str, float] | None:
        """See Programs.evaluate."""
        own: Any = self.saved(state)
        return self.programs.evaluate(own, split, should_stop, change)
