"""The parent's side of the pipe: who runs in which process, under which environment."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import normres
from normres.errors import UserError
from normres.runs import machine

ENDING_SECONDS = 5  # to go after its input has ended
ABSENT = "absent"


class Contender(NamedTuple):
    """A contender's title, and the arguments and environment of its process."""

    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


def contenders(
    names: Sequence[str], torch: str | None = None, before: Path | None = None
) -> tuple[dict[str, Contender], str]:
    """Returns normres and those of the others that run here, by name, and the version of PyTorch or ABSENT.

    Args:
      names: of "flax"; "scanned", normres with one compiled block for each stage; "torch", and "torch-MODE" for the
        modes of torch.compile.
      torch: a Python that has PyTorch, see `pytorch`.
      before: a checkout of another commit of normres, which then takes part.
    """
    # The workers import this very code, wherever the command was started (-P: and not what lies there).
    path = os.pathsep.join(filter(None, (str(Path(normres.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    worker = (sys.executable, "-P", "-m", "normres.bench.step.jax_worker")
    ours, given = {**os.environ, "PYTHONPATH": path}, machine.environment_as_given() | {"PYTHONPATH": path}
    by_name = {"normres": Contender("normres", (*worker, "normres"), ours)}
    if "scanned" in names:
        by_name["scanned"] = Contender("normres, scanned", (*worker, "normres", "model.unroll=never"), ours)
    if before:
        older = ours | {"PYTHONPATH": str(before.resolve())}
        by_name["before"] = Contender("normres, before", (*worker, "normres"), older)
    if "flax" in names:
        by_name["flax"] = Contender("Flax", (*worker, "flax"), given)
    of_torch = [name for name in names if name.startswith("torch")]
    if not of_torch or (eager := pytorch(torch)) is None:
        return by_name, ABSENT
    for name in of_torch:
        _, _, mode = name.partition("-")
        compiled = eager._replace(title=f"PyTorch, {mode}", command=(*eager.command, mode))
        by_name[name] = compiled if mode else eager
    with tempfile.TemporaryDirectory() as folder, Worker(eager, Path(folder, "errors")) as running:
        return by_name, running.ask("version")["version"]


def pytorch(python: str | None) -> Contender | None:
    """Returns PyTorch in the Python that is named, or else in this one if it has it."""
    if python is None and not importlib.util.find_spec("torch"):
        return None
    device = "cuda" if jax.default_backend() in ("gpu", "cuda") else "cpu"
    # -P: the script's own folder has modules that would hide PyTorch's imports.
    command = (python or sys.executable, "-P", str(Path(__file__).with_name("torch_worker.py")), device)
    return Contender("PyTorch", command, machine.environment_as_given())


class Worker:
    """A process that answers requests, see serve.serve; it ends with the block: `with Worker(...) as worker`.

    The file `errors` gets what it says of errors.
    """

    def __init__(self, contender: Contender, errors: Path):
        self.title, self.errors = contender.title, errors
        # What a compiler keeps between processes would hide how long it takes.
        environment = {**contender.environment, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        pipe = subprocess.PIPE
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(
                contender.command, stdin=pipe, stdout=pipe, stderr=stderr, env=environment, text=True
            )

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and returns the answer; an error, or a worker that has ended, is a UserError."""
        assert self.process.stdout is not None
        try:
            print(json.dumps({"call": call, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
        else:
            status = self.process.wait()
            last_words = self.errors.read_text(errors="replace").strip().rpartition("\n")[2]
            answer = {"error": last_words or f"it ended with status {status}"}
        if "error" in answer:
            raise UserError(f"{self.title} does not work here: {answer['error']}")
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.process.communicate(timeout=ENDING_SECONDS)  # closes its input, at whose end it goes
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.communicate()
