"""The parent's side of the pipe: who runs in which process, under which environment."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import normres
from normres.runs import machine

SCRIPT = Path(__file__).with_name("torch_worker.py")
START_SECONDS = 120  # to import everything
ENDING_SECONDS = 5  # to go after its input has ended


class WorkerFailed(Exception):
    """A worker refused, died or took too long; the message is one line."""


@dataclass(frozen=True)
class Contender:
    """How a contender is started.

    Attributes:
      title: for people.
      command: the arguments of its process.
      environment: of its process.
      norm: of its network, which is then not compared with the others'; "": the cell's.
    """

    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    norm: str = ""


def contenders(python_of_torch: str | None, platform: str, before: Path | None = None) -> dict[str, Contender]:
    """Returns every contender by its name, those of PyTorch only where there is a Python for it.

    Args:
      python_of_torch: a Python that imports torch.
      platform: JAX's name of what the contenders run on; PyTorch is given a GPU if JAX has one.
      before: a checkout of another commit of normres.
    """
    # The workers import this very code, wherever the command was started.
    root = str(Path(normres.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    ours = {**os.environ, "PYTHONPATH": path}
    theirs = machine.environment_as_given()
    # -P: not the code of the folder in which the command was started.
    module = (sys.executable, "-P", "-m", "normres.bench.step.jax_worker")
    found = {
        "normres": Contender("normres", (*module, "normres"), ours),
        "normres-batch": Contender("normres, batch norm", (*module, "normres"), ours, norm="batch"),
        "flax": Contender("Flax", (*module, "flax"), theirs | {"PYTHONPATH": path}),
        "ceilings": Contender("ceilings", (*module, "ceilings"), ours),
    }
    if before:
        found["before"] = Contender("normres, before", (*module, "normres"), ours | {"PYTHONPATH": str(before)})
    if python_of_torch:
        # -P: the script's own folder has modules that would hide PyTorch's imports.
        script = (python_of_torch, "-P", str(SCRIPT))
        device = "cuda" if platform in ("gpu", "cuda") else "cpu"
        found["torch"] = Contender("PyTorch", (*script, "eager", device), theirs)
        found["torch-compile"] = Contender("PyTorch, compiled", (*script, "compiled", device), theirs)
    return found


class Worker:
    """A running process that answers requests; see serve.serve."""

    def __init__(self, contender: Contender, folder: Path):
        self.contender = contender
        # What compilers keep between processes would hide how long they take.
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "JAX_ENABLE_COMPILATION_CACHE": "false"}
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as errors:
            self.errors = Path(errors.name)
            self.process = subprocess.Popen(
                contender.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**contender.environment, **caches},
                bufsize=0,
                start_new_session=True,  # so that its own children, such as compilers, can be ended with it
            )

    def ask(self, call: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Sends a request and returns the answer.

        Raises:
          WorkerFailed: there is none within `seconds`, or it is an error.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None
        line = self._line(time.monotonic() + seconds)
        if line is None:
            raise WorkerFailed(f"{call} did not end within {seconds:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _line(self, deadline: float) -> bytes | None:
        """Returns the next line of the worker's output, None if it is not there in time."""
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            part = self.process.stdout.read(1 << 16)
            if not part:
                raise WorkerFailed(self._last_words())
            line += part
        return line

    def _last_words(self) -> str:
        """Returns the last line that a worker which has ended wrote to its standard error."""
        status = self.process.wait()
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"ended with status {status}"

    def close(self) -> None:
        """Ends the process and its children; a second call does nothing."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        try:
            self.process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def started(contender: Contender, folder: Path) -> Iterator[Worker]:
    """Starts a worker, which ends with the block; a program that is not there is a WorkerFailed."""
    try:
        worker = Worker(contender, folder)
    except OSError as error:
        raise WorkerFailed(f"{contender.command[0]}: {error.strerror or error}") from None
    try:
        yield worker
    finally:
        worker.close()
