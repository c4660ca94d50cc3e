"""The worker's side of the pipe: requests and answers, one JSON object a line, and the timing, the same for everybody.

PyTorch's worker runs this file with a Python of its own, so it needs NumPy only and no Python newer than 3.9.
The requests stay as they are: the workers of older commits answer them too (--before).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHECKED_STEPS = 3  # whose losses are compared; the third loss depends on the momentum, the second on the rate


def serve(timed: Timed) -> None:
    """Answers requests {"call": a method of Timed, **its arguments} until the input ends; errors are one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(timed, request.pop("call"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


def most_memory() -> int:
    """Returns the most bytes that this process has held in memory so far."""
    try:
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        # Second best: Linux lets a process inherit its parent's number.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Timed:
    """The requests that a contender answers.

    Attributes:
      build: f(spec, weights, images, labels) makes the network and its optimizer.  What it returns has train(count),
        which does so many training steps and returns the last one's loss when all is computed; `most`, the steps that
        are dispatched at once; and state_dict(), the parameters and statistics in PyTorch's names and layout.
      device_bytes: f() returns the most memory that an accelerator held, None on a CPU.
    """

    def __init__(self, build: Callable[..., Any], device_bytes: Callable[[], int | None]) -> None:
        self.build, self.device_bytes = build, device_bytes

    def prepare(self, spec: dict[str, Any], source: str, destination: str) -> dict[str, Any]:
        """Builds, compiles and makes the first CHECKED_STEPS steps.

        `spec` is that of a cell, `source` an .npz of cells.arrays; the .npz `destination` gets the parameters and
        statistics after the first step.
        """
        with np.load(source) as file:
            arrays = dict(file)
        images, labels = arrays.pop("images"), arrays.pop("labels")
        weights = {name[len("weights/") :]: array for name, array in arrays.items()}
        self.contender = contender = self.build(spec, weights, images, labels)
        began = time.perf_counter()
        losses = [contender.train(1)]
        seconds = time.perf_counter() - began
        np.savez(destination, **contender.state_dict())
        losses += [contender.train(1) for _ in range(CHECKED_STEPS - 1)]
        return {"losses": losses, "seconds_to_first_step": seconds, "steps_per_program": contender.most}

    def sample(self, steps: int) -> dict[str, Any]:
        """Returns the seconds that `steps` steps take, and the last loss.

        One step before them is not timed: while the others had their turn, the system may have taken back the memory
        that a contender frees and allocates at every step, which does not happen to one that trains without a pause.
        """
        self.contender.train(1)
        began = time.perf_counter()
        loss = self.contender.train(steps)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def memory(self) -> dict[str, Any]:
        """Returns the most memory of all this, in bytes: of the accelerator, or of the process on a CPU."""
        on_device = self.device_bytes()
        return {"peak_bytes": most_memory() if on_device is None else on_device}
