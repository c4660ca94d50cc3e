"""The worker's side of the pipe: requests and answers, one JSON object a line, and the timing, the same for everybody.

PyTorch's worker runs this file with a Python of its own, so it needs NumPy only and no Python newer than 3.9.
The calls and their arguments stay as they are: the workers of older commits answer them too (--before).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CHECKED_STEPS = 3  # whose losses are compared; the third loss depends on the momentum, the second on the rate
CALLS = ("start", "prepare", "sample", "memory")


def serve(contender: Any) -> None:
    """Answers requests {"call": NAME, **arguments} with what Timed's method returns, until the input ends.

    A method that fails is answered with {"error": one line}.
    """
    timed = Timed(contender)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {name: getattr(timed, name) for name in CALLS}[request.pop("call")](**request)
        except Exception as error:
            words = [text for text in str(error).splitlines() if text.strip()]
            answer = {"error": f"{type(error).__name__}: {words[0].strip() if words else ''}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def most_memory() -> int:
    """Returns the most bytes that this process has held in memory so far."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        # Second best: Linux lets a process inherit its parent's number.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Timed:
    """The requests that a contender answers.

    Attributes:
      contender: has `version`, a text; build(spec, weights, images, labels), which makes the network and its optimizer;
        compile(), which does what can be done before the first step; step(count), which starts training steps, at most
        `steps_per_program`, and returns the last one's loss; wait(loss), which returns it as a number when all is
        computed; state_dict(), the parameters and statistics in PyTorch's names and layout; and device_bytes(), the
        most memory that an accelerator held, None on a CPU.
    """

    def __init__(self, contender: Any) -> None:
        self.contender = contender

    def start(self) -> dict[str, Any]:
        """Returns the version and XLA's flags: everything is imported."""
        return {"version": self.contender.version, "xla_flags": os.environ.get("XLA_FLAGS", "")}

    def prepare(self, spec: dict[str, Any], source: str, destination: str) -> dict[str, Any]:
        """Builds, compiles and makes the first CHECKED_STEPS steps.

        Args:
          spec: what cells.Cell.spec returns.
          source: an .npz with "images" uint8 (N, H, W, C), "labels" and "weights/NAME" in PyTorch's layout.
          destination: an .npz that gets the parameters and statistics after the first step.

        Returns:
          The losses, the seconds until the first step was done, and the most steps that are dispatched at once.
        """
        with np.load(source) as file:
            arrays = {name: file[name] for name in file.files}
        weights = {name[len("weights/") :]: array for name, array in arrays.items() if name.startswith("weights/")}
        self.contender.build(spec, weights, arrays["images"], arrays["labels"])
        began = time.perf_counter()
        self.contender.compile()
        losses = [self.contender.wait(self.contender.step())]
        seconds = time.perf_counter() - began
        np.savez(destination, **self.contender.state_dict())
        while len(losses) < CHECKED_STEPS:
            losses.append(self.contender.wait(self.contender.step()))
        most = self.contender.steps_per_program
        return {"losses": losses, "seconds_to_first_step": seconds, "steps_per_program": most}

    def sample(self, steps: int) -> dict[str, Any]:
        """Returns the seconds that `steps` steps take, and the last loss.

        One step before them is not timed: while the others had their turn, the system may have taken back the memory
        that a contender frees and allocates at every step, which does not happen to one that trains without a pause.
        """
        self.contender.wait(self.contender.step())
        began = time.perf_counter()
        most = self.contender.steps_per_program
        for done in range(0, steps, most):
            result = self.contender.step(min(most, steps - done))
        loss = self.contender.wait(result)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def memory(self) -> dict[str, Any]:
        """Returns the most memory of all this, in bytes: of the accelerator, or of the process on a CPU."""
        on_device = self.contender.device_bytes()
        return {"peak_bytes": most_memory() if on_device is None else on_device}
