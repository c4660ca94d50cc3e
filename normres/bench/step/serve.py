"""The worker's side of the pipe: requests and answers, one JSON object a line, and the timing, the same for everybody.

PyTorch's worker runs this file with a Python of its own, so it needs NumPy only and no Python newer than 3.9.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHECKED_STEPS = 3  # whose losses are compared; the third loss depends on the momentum, the second on the rate


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers requests {"call": NAME, **arguments} with what the handler returns, until the input ends.

    A failing handler is answered with {"error": one line}.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("call")](**request)
        except Exception as error:
            words = [text for text in str(error).splitlines() if text.strip()]
            answer = {"error": f"{type(error).__name__}: {words[0].strip() if words else ''}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_with(parent: int) -> None:
    """Ends this process and its children when its parent has been killed, which no request tells: it may compile."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def most_memory() -> int:
    """Returns the most bytes that this process has held in memory so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
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
        self.baseline = most_memory()

    def handlers(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """Returns what serve() takes."""
        return {"start": self.start, "prepare": self.prepare, "sample": self.sample, "memory": self.memory}

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
        with np.load(source) as given:
            arrays = {name: given[name] for name in given.files}
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
        """Returns the most memory of all this, and what the imports alone took, in bytes."""
        on_device = self.contender.device_bytes()
        if on_device is not None:
            return {"peak_bytes": on_device, "baseline_bytes": 0}
        return {"peak_bytes": most_memory(), "baseline_bytes": self.baseline}
