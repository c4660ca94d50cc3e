"""A run's files as it goes on: opened with whatever is left of them, and written by the holder of its claim alone.

Of a run of several processes, process 0 reads and writes; it sends the others what it reads, and they write nothing but
their shards of checkpoints.
"""

import errno
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError
from normres.runs import checkpoint, claims, durable, hosts, note, results
from normres.runs.config import to_dict
from normres.runs.fields import digest, flatten, identity
from normres.runs.provenance import differences, now
from normres.training.optim import ends_alike

SHARED_SECONDS = 60.0  # after which a shared disk shows on one host what another has written


class Journal:
    """The files of a run.

    Attributes:
      claim: the right to write; None for who only reads.
      done: whether the run is done and whole.
      record: what record.json says or will say; of a run that begins {}.
      metrics: the lines of metrics.jsonl.
      saved: the checkpoint from which the run goes on, or None.
      lines: what is to be said: what was damaged or lost, and what happens.
    """

    def __init__(self, path: Path, config: ConfigDict, claim: claims.Claim | None = None):
        """Reads what the directory holds, or takes what process 0 tells.

        Raises:
          UserError: it holds the run of another config, or other files.
        """
        self.path, self.claim, self.lines, self.done = path, claim, list[str](), False
        self.config = to_dict(config)
        self.record: dict[str, Any] = {}
        self.metrics: list[dict[str, Any]] = []
        self.saved: checkpoint.Saved | None = None
        self.preprocess: dict[str, Any] = {}
        self._kept, self._every = config.train.keep, config.train.keep_every
        self._newest = 0  # the step of the checkpoint that was read or saved last
        if hosts.is_writer():
            self._read(config)
        else:
            self._follow()

    def _read(self, config: ConfigDict) -> None:
        record, held, lines = self._json("record.json"), self._json("config.json"), list[dict[str, Any]]()
        if held and record and self._is_done(record, held):
            self.done, self.record = True, record
            return
        with suppress(UserError):
            lines = results.read_metrics(self.path)
        self._find_saved(lines, record)
        document = self.saved.document if self.saved else {}
        # The one that knows more attempts.
        self.record = max(record, document.get("record") or {}, key=lambda one: len(one.get("attempts", ())))
        known = document.get("config")
        if not known and self.record.get("config_digest") == digest(config):
            known = self.config
        any_steps = {"train.steps": 0}  # the last step may be raised
        if known and (not held or identity(held) | any_steps != identity(known) | any_steps):
            self.lines.append(f"{self.path / 'config.json'} was lost or damaged; it is written anew")
            held = known
        if held:
            self._check(held, config)
        else:
            self._check_strangers()
        if document and lines[: len(self.metrics)] != self.metrics:
            self.lines.append(f"{self.path / 'metrics.jsonl'} was lost or damaged; the checkpoint has its lines")
        elif self.saved and not document:  # of an older version
            step = self.saved.step
            self.metrics = [line for line in lines if line["step"] < step + (line["split"] == "train")]
        elif not self.saved and (self.record.get("step") or lines):
            self.lines.append(f"{self.path}: no intact checkpoint; the run starts anew")

    def _check_strangers(self) -> None:
        """Raises UserError if a directory in which nothing says which run it is holds something."""
        ours = set(results.OURS)
        notes = self.path / "README.md"
        if notes.is_file() and not notes.read_text(errors="replace").startswith(note.TITLES):
            ours.remove(notes.name)
        for path in sorted(self.path.iterdir()):
            if path.name not in ours and not path.name.startswith(claims.NAME) and not path.name.endswith(".tmp"):
                strangers = f"is not empty and holds no run (it has {path.name!r})"
                raise UserError(f"{self.path} {strangers}; choose another --workdir")
        if (self.path / "config.json").exists():
            raise UserError(f"{self.path / 'config.json'}: not readable, and nothing else says which run this is")

    def tell(self) -> None:
        """Tells the other processes of the run, as process 0, what this one has read."""
        step = self.saved.step if self.saved else None
        hosts.from_writer([self.done, self.record, [] if self.done else self.metrics, step])

    def _follow(self) -> None:
        """Takes what process 0 tells; this host may still see the directory as it was before."""
        self.done, self.record, self.metrics, step = hosts.from_writer(None)
        until = time.monotonic() + SHARED_SECONDS
        while step is not None and not self.saved:
            self.saved = checkpoint.read(self._path(step))
            if not self.saved and time.monotonic() > until:
                raise UserError(f"{self.path}: process 0 goes on from step {step}, not seen here; is --workdir shared?")
            time.sleep(0 if self.saved else 1)

    def _writes(self) -> bool:
        """Returns whether this process writes the run's files; raises LostClaim if another one has the run by now."""
        if self.claim:
            self.claim.check()
        return self.claim is not None

    def _json(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of the run; {} if it is not there or damaged."""
        is_record = name == "record.json"
        try:
            return results.read_record(self.path) if is_record else dict(durable.read_json(self.path / name))
        except (FileNotFoundError, UserError, TypeError, ValueError) as error:
            if is_record and not isinstance(error, FileNotFoundError):
                self.lines.append(f"{self.path / name} is damaged; it is written anew")
            return {}

    def _is_done(self, record: dict[str, Any], held: dict[str, Any]) -> bool:
        if record["status"] not in results.DONE or identity(held) != identity(self.config):
            return False
        for name in ("config.json", "metrics.jsonl"):
            if fault := results.file_fault(self.path, record, name):
                self.lines.append(f"{fault}; the run goes back to its last checkpoint")
                return False
        self.metrics = results.read_metrics(self.path)
        return not self._lost([step for step in record.get("kept", ()) if self._keeps(step) or "last" in self._kept])

    def _find_saved(self, lines: list[dict[str, Any]], record: dict[str, Any]) -> None:
        """Finds the newest intact checkpoint before which no weights are lost that the run is to keep, or has kept."""
        before = None
        while True:
            self.saved, passed_over = checkpoint.newest(self.path / "checkpoints", before)
            self.lines += passed_over
            self.metrics = self.saved.document.get("metrics", []) if self.saved else []
            # What was best before this checkpoint may have been removed for what was better after it.
            known = lines if lines[: len(self.metrics)] == self.metrics else self.metrics
            if record.get("steps", math.inf) < self.config["train"]["steps"]:
                known = self._regular(known)
            best = results.best_of(known)["best_test_step"] if "best" in self._kept else None
            wanted = {step for step in record.get("kept", ()) if self._keeps(step)}
            wanted |= {best} if best is not None else set()
            if not self.saved or not (lost := self._lost([step for step in wanted if step < self.saved.step])):
                return
            own = self.saved.document.get("config", self.config)["train"]["keep"]
            if best in lost and "best" not in own:
                best_weights = f"the best weights (step {best}) were not kept; go on with the run's own keep"
                raise UserError(f"config.train.keep={','.join(self._kept)}: {best_weights}={','.join(own)}")
            before = min(lost)

    def _lost(self, steps: list[int]) -> list[int]:
        """Returns those of the steps whose weights are lost or damaged, and notes a line for each."""
        lost = [step for step in steps if not checkpoint.read(self._path(step))]
        for path in map(self._path, lost):
            self.lines.append(f"{path} is lost or damaged; the run goes back (not so with config.train.keep=none)")
        return lost

    def _check(self, held: dict[str, Any], config: ConfigDict) -> None:
        """Raises UserError if the directory holds another run, but for one that may go on to a later last step."""
        steps, further = flatten(held).get("train.steps", config.train.steps), config.train.steps
        fading = config.model.auxiliary and config.optim.auxiliary_decay == "linear"
        if further > steps and not fading and ends_alike(config, steps):  # no step depends on the last
            held = {**held, "train": {**held["train"], "steps": further}}
            if identity(held) == identity(self.config):
                if self.record.get("status") == "finished" and (not self.saved or self.saved.step != steps):
                    raise UserError(f"{self.path}: the run of {steps} steps left no checkpoint to go on from")
                self.lines.append(f"the run of {steps} steps goes on to step {further}")
        results.check_identity(self.path, held, self.config)

    def begin(self, record: dict[str, Any], attempt: dict[str, Any]) -> None:
        """Writes the files of a run that begins or goes on, with a new attempt."""
        before = self.record.get("attempts", [])
        if before and (other := differences(before[-1], attempt)):
            self.lines.append(f"the run goes on with other code: {other}")
        step = self._newest = self.saved.step if self.saved else 0
        attempt = {"ended": None, "end": None, "from_step": step, "step": step, "seconds": 0.0, **attempt}
        self.record = {**record, "step": step, "seconds": 0.0, "attempts": [*before, attempt]}
        self._began = time.perf_counter()
        if not self._writes():
            return
        for leftover in self.path.glob("*.*.tmp"):
            if not leftover.name.startswith(claims.NAME):
                leftover.unlink()
        durable.write_json(self.path / "config.json", self.config)
        command = note.repeat_command(self.config, self.path)
        durable.write(self.path / "README.md", note.note(command, [self.config], attempt))
        self._write_metrics()
        self.write()

    def started(self, compile_seconds: float) -> None:
        """Notes that training begins now."""
        self._began = time.perf_counter()
        self.record["attempts"][-1]["compile_seconds"] = compile_seconds

    def advance(self, step: int) -> None:
        """Notes that `step` steps are done, and the seconds."""
        attempts = self.record["attempts"]
        attempts[-1] |= {"step": step, "seconds": time.perf_counter() - self._began}
        self.record |= {"step": step, "seconds": sum(attempt.get("seconds") or 0.0 for attempt in attempts)}

    def line(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        line = {"step": step, "split": split, **values}
        if self._writes():
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.metrics.append(line)

    def is_best(self, error: float | None) -> bool:
        """Returns whether a test error is lower than all before, and its state is to be kept."""
        best = results.best_of(self.metrics)["best_test_error"]
        return "best" in self._kept and error is not None and (best is None or error < best)

    def save(self, step: int, state: Any, measured: dict[str, list[float]]) -> None:
        """Saves a checkpoint and the record."""
        self._writes()
        self.record |= results.best_of(self.metrics)
        document = {"config": self.config, "record": self.record, "metrics": self.metrics, "measured": measured}
        document["preprocess"] = self.preprocess
        checkpoint.save(self.path / "checkpoints", step, state, document, self._keeps, self._writes)
        self._newest = max(step, self._newest)
        self.write()

    def write(self) -> None:
        """Writes record.json."""
        if self._writes():
            results.write_record(self.path, self.record)

    def pictures(self, png: bytes) -> None:
        """Writes what a network that makes images has made."""
        if self._writes():
            durable.write(self.path / results.PICTURES, png)

    def end(self, how: str) -> None:
        """Writes how this attempt ended; of a run that is done, everything, and removes what nobody needs."""
        self.record["attempts"][-1] |= {"ended": now(), "end": how}
        self.record |= {"status": how, **results.best_of(self.metrics)}
        if how in results.DONE and self._writes():
            self._write_metrics()
            self.record["files"] = {name: durable.sha256(self.path / name) for name in ("config.json", "metrics.jsonl")}
            until = self._newest or math.inf  # later ones are of an attempt that went on from elsewhere
            chosen = checkpoint.choose(self.path / "checkpoints", self._keeps, int("last" in self._kept), until)
            self.record["kept"] = [int(path.name.removeprefix("step_")) for path in chosen if checkpoint.read(path)]
            for which, wanted in (("last", self._newest), ("best", self.record["best_test_step"])):
                if which in self._kept and wanted and wanted not in self.record["kept"]:
                    # Not done: the next attempt goes back behind it.
                    lost = f"the {which} weights were lost while the run went on"
                    raise OSError(errno.ENOENT, lost, str(self._path(wanted)))
        self.write()
        if how in results.DONE:
            self.tidy()

    def tidy(self) -> None:
        """Removes what a run that is done has not kept, whatever the config of this visit says."""
        if not self._writes():
            return
        if "kept" in self.record:
            checkpoint.keep_only(self.path / "checkpoints", [self._path(step) for step in self.record["kept"]])
        (self.path / "error.txt").unlink(missing_ok=True)

    @property
    def is_tidy(self) -> bool:
        """Whether there is nothing to remove."""
        kept = {self._path(step).name for step in self.record.get("kept", ())}
        others = {path.name for path in self.path.glob("checkpoints/*")} - kept
        return not (self.path / "error.txt").exists() and not ("kept" in self.record and others)

    def _path(self, step: int) -> Path:
        return checkpoint.path_of(self.path / "checkpoints", step)

    def _keeps(self, step: int) -> bool:
        # A run that goes on to more steps does not measure where this one ended: it needs the best of the others.
        best = (results.best_of(lines)["best_test_step"] for lines in (self.metrics, self._regular(self.metrics)))
        return ("best" in self._kept and step in best) or bool(self._every and step % self._every == 0)

    def _regular(self, metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns the lines of the steps at which every run of this config evaluates, however many steps it has."""
        return [line for line in metrics if line["step"] % self.config["train"]["eval_every"] == 0]

    def _write_metrics(self) -> None:
        durable.write(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.metrics))
