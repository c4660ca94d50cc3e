"""Whether the contenders compute the same, so that nobody wins by doing less.

From the same weights and batch each makes the very step that is timed.  Compared are the losses of the first steps, of
which the second depends on the gradients and the third on the momentum, and what the first step has made of every
parameter and running statistic.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from normres.bench.step.cells import LEARNING_RATE
from normres.errors import UserError

StateDict = Mapping[str, np.ndarray]
STATISTICS = ("running_mean", "running_var")
HALF_ULP = 2.0**-24  # of a float32, relative: what rounding the new parameter may have changed


@dataclass(frozen=True)
class Difference:
    """How far one contender is from another, or what is allowed; relative numbers.

    Attributes:
      loss: of the first step.
      later_loss: of the steps after it, the larger one.
      change: of one parameter tensor's change in the first step, to its largest number.
      angle: one minus the cosine between the changes of all parameters.
      decay: of the change along the parameters themselves, as a weight decay: kernels, or scales and biases.
      statistics: of a tensor of running statistics, to its largest number.
    """

    loss: float
    later_loss: float
    change: float
    angle: float
    decay: float
    statistics: float


# Between three and a hundred times what was seen at depths 20 to 110 (a ReLU whose input is near zero may switch; a
# PyTorch variance is n / (n - 1) times ours), and far below what a left-out piece of work makes: a missing gradient is
# a change of 1, a missing decay one of 1e-4, a missing momentum some hundredths of the third loss.  In bfloat16 single
# tensors say little; that the same code agrees in float32 says that it is the same network.
TOLERANCES = {
    "float32": Difference(loss=1e-5, later_loss=1e-4, change=0.1, angle=1e-4, decay=2e-5, statistics=1e-3),
    "bfloat16": Difference(loss=5e-3, later_loss=5e-3, change=math.inf, angle=1e-2, decay=5e-5, statistics=1e-2),
}
WORDS = {
    "loss": "in the loss of the first step",
    "later_loss": "in the loss of the second or third step",
    "change": "in the gradient of {}",
    "angle": "in the direction of the whole gradient (1 - cosine)",
    "decay": "in the weight decay of {}",
    "statistics": "in the running statistics {}",
}


@dataclass(frozen=True)
class Outcome:
    """What a contender has computed: the losses of the first steps and the state dict after the first."""

    losses: tuple[float, ...]
    after: StateDict


def check(dtype: str, before: StateDict, outcomes: Mapping[str, Outcome]) -> dict[str, Difference]:
    """Compares every contender with the first one and returns the differences; `before` is the first state dict.

    Raises:
      UserError: it names the contender, what differs and by how much.
    """
    (first, reference), *others = outcomes.items()
    found = {}
    for name, outcome in others:
        try:
            found[name], where = difference(before, reference, outcome)
        except UserError as error:
            raise UserError(f"{name} and {first} do not compute the same: {error}") from None
        for kind, allowed in asdict(TOLERANCES[dtype]).items():
            value = getattr(found[name], kind)
            if not value <= allowed:
                what = WORDS[kind].format(where.get(kind, ""))
                raise UserError(
                    f"{name} and {first} do not compute the same: they differ by {value:.1e} {what}, "
                    f"and {allowed:.0e} is allowed in {dtype}"
                )
    return found


def difference(before: StateDict, one: Outcome, other: Outcome) -> tuple[Difference, dict[str, str]]:
    """Compares two outcomes that began with the same state dict; also returns where the differences are.

    Raises:
      UserError: they have not the same tensors.
    """
    worst = {"change": 0.0, "statistics": 0.0, "decay": 0.0}
    where: dict[str, str] = {}

    def note(kind: str, value: float, name: str) -> None:
        # What is no number is worse than any, and stays.
        if not (math.isnan(worst[kind]) or value <= worst[kind]):
            worst[kind], where[kind] = float(value), name

    products = np.zeros(3)
    along = {"kernels": np.zeros(2), "scales and biases": np.zeros(2)}
    for name in before:
        if name.endswith("num_batches_tracked"):
            continue
        shapes = [state.after[name].shape if name in state.after else None for state in (other, one)]
        if shapes != [before[name].shape] * 2:
            raise UserError(f"{name} has the shapes {shapes[0]} and {shapes[1]}")
        start, a, b = (np.asarray(state[name], np.float64) for state in (before, one.after, other.after))
        if name.endswith(STATISTICS):
            note("statistics", np.abs(a - b).max() / np.abs(a).max(), name)
            continue
        a, b = (start - a) / LEARNING_RATE, (start - b) / LEARNING_RATE
        products += (a * b).sum(), (a * a).sum(), (b * b).sum()
        along["kernels" if start.ndim > 1 else "scales and biases"] += ((b - a) * start).sum(), (start**2).sum()
        # Both new parameters were rounded.
        rounding = 2 * HALF_ULP * np.abs(start).max() / LEARNING_RATE
        note("change", np.maximum(np.abs(a - b).max() - rounding, 0) / max(np.abs(a).max(), 1e-30), name)
    for name, (part, whole) in along.items():
        note("decay", abs(part / whole), name)
    first, *later = (abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))
    angle = abs(1 - products[0] / np.sqrt(products[1] * products[2]))
    return Difference(float(first), float(np.max(later)), angle=float(angle), **worst), where
