"""Whether the contenders compute the same, so that nobody wins by doing less.

From the same weights and batch each makes the very step that is timed.  Compared are the losses of the first steps, of
which the second depends on the gradients and the third on the momentum, and what the first step has made of every
parameter and running statistic.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from normres.bench.step.cells import DTYPES, LEARNING_RATE
from normres.errors import UserError

StateDict = Mapping[str, np.ndarray]

# How far two contenders may be apart, in relative numbers, in each of DTYPES: three to a hundred times what was seen at
# depths 20 to 110, where a ReLU with an input near zero may switch and a PyTorch variance is n / (n - 1) times ours.
# That is far below what a left-out piece of work makes: a missing gradient is a change of 1, a missing decay one of
# 1e-4, a missing momentum some hundredths of the third loss.  In bfloat16 single tensors say little.
TOLERANCES = {
    "loss": (1e-5, 5e-3),  # of the first step
    "later_loss": (1e-4, 5e-3),  # of the steps after it, the larger one
    "change": (0.1, math.inf),  # of one parameter tensor's change in the first step, to its largest number
    "angle": (1e-4, 1e-2),  # one minus the cosine between the changes of all parameters
    "decay": (2e-5, 5e-5),  # of the change along the parameters themselves: kernels, or scales and biases
    "statistics": (1e-3, 1e-2),  # of a tensor of running statistics, to its largest number
}


class Outcome(NamedTuple):
    """What a contender has computed: the losses of the first steps and the state dict after the first."""

    losses: Sequence[float]
    after: StateDict


def check(dtype: str, before: StateDict, outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """Returns {contender: {a key of TOLERANCES: difference from the first one}}; `before` is the first state dict.

    Raises:
      UserError: one differs by more; it names the contender, what differs and by how much.
    """
    (first, reference), *others = outcomes.items()
    by_contender: dict[str, dict[str, float]] = {}
    for name, outcome in others:
        start = f"{name} and {first} do not compute the same: "
        for key, array in reference.after.items():
            if key not in outcome.after or outcome.after[key].shape != array.shape:
                raise UserError(f"{start}{key} is missing or has another shape than {array.shape}")
        by_contender[name] = {}
        for kind, (value, where) in differences(before, reference, outcome).items():
            allowed = TOLERANCES[kind][DTYPES.index(dtype)]
            if not value <= allowed:
                raise UserError(f"{start}{value:.1e} apart in {where}, and {allowed:.0e} is allowed in {dtype}")
            by_contender[name][kind] = value
    return by_contender


def differences(before: StateDict, one: Outcome, other: Outcome) -> dict[str, tuple[float, str]]:
    """Returns the largest difference of each kind of TOLERANCES and of what it is; both began with `before`."""
    first, *later = (abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))
    candidates = {
        "loss": [(first, "the loss of the first step")],
        "later_loss": [(value, "the loss of the second or third step") for value in later],
        "change": [],
        "statistics": [(0.0, "")],
    }
    products = np.zeros(3)  # of the changes: one with the other, each with itself
    along = {"kernels": np.zeros(2), "scales and biases": np.zeros(2)}
    for name in before:
        if name.endswith("num_batches_tracked"):
            continue
        start, a, b = (np.asarray(arrays[name], np.float64) for arrays in (before, one.after, other.after))
        if name.endswith(("running_mean", "running_var")):
            candidates["statistics"].append((float(np.abs(a - b).max() / np.abs(a).max()), name))
            continue
        a, b = (start - a) / LEARNING_RATE, (start - b) / LEARNING_RATE
        products += (a * b).sum(), (a * a).sum(), (b * b).sum()
        along["kernels" if start.ndim > 1 else "scales and biases"] += ((b - a) * start).sum(), (start**2).sum()
        # Both new parameters were rounded, each by half an ulp at most.
        rounding = np.finfo(np.float32).eps * np.abs(start).max() / LEARNING_RATE
        change = np.maximum(np.abs(a - b).max() - rounding, 0) / max(np.abs(a).max(), 1e-30)
        candidates["change"].append((float(change), f"the gradient of {name}"))
    angle = float(abs(1 - products[0] / np.sqrt(products[1] * products[2])))
    candidates["angle"] = [(angle, "the direction of the whole gradient (1 - cosine)")]
    candidates["decay"] = [(float(abs(part / of)), f"the weight decay of {name}") for name, (part, of) in along.items()]
    # What is not a number is larger than any.
    return {kind: max(of, key=lambda one: (math.isnan(one[0]), one[0])) for kind, of in candidates.items()}
