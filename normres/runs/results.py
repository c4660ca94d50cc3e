"""The run directory: what was run, on what, and what came out.  One directory per run,

    config.json     the whole config
    record.json     status, seed, versions, commit, device, dtype, data and its splits and preprocessing, parameters,
                    seconds, how it was computed, final numbers, errors under corruptions
    metrics.jsonl   one line per logged interval ("split": "train") or evaluation ("split": "test", "corrupted")
    checkpoints/    see checkpoint.py; removed when the run ends
    lock            held by the process that is training here

Status is one of running, finished, diverged.  Errors are fractions (0.0875), losses are nats per example, and
seconds are wall-clock seconds spent in training, summed over restarts.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.runs.fields import NOT_ADDED_LATER, declared, identity

DONE = ("finished", "diverged")


class Busy(UserError):
    """Another process is training in the run directory."""


@dataclass(frozen=True)
class Run:
    """One run as read back: its directory, config, record and metric lines."""

    path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: list[dict[str, Any]]

    def field(self, name: str) -> Any:
        """Returns a config field by its dotted name, such as "model.depth"; a run may be older than the field."""
        value: Any = self.config
        for part in name.split("."):
            if part not in value and name in declared() and declared()[name].before != NOT_ADDED_LATER:
                return declared()[name].before
            value = value[part]
        return value

    def series(self, split: str, key: str) -> tuple[list[int], list[float]]:
        """Returns (steps, values) of one metric, for example series("train", "error")."""
        lines = [line for line in self.metrics if line["split"] == split]
        return [line["step"] for line in lines], [line[key] for line in lines]


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one and never a part."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Reads JSON; a damaged file is a UserError that names it."""
    try:
        return json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); move it away to start over") from None


def read_run(path: Path) -> Run | None:
    """Reads a run directory; None if it holds no run."""
    if not ((path / "config.json").is_file() and (path / "record.json").is_file()):
        return None
    return Run(path, read_json(path / "config.json"), read_json(path / "record.json"), read_metrics(path))


def read_runs(root: Path) -> list[Run]:
    """Reads every run under `root` (or `root` itself), ordered by path."""
    if not root.is_dir():
        raise UserError(f"{root}: no such directory")
    folders = [root, *sorted(p.parent for p in root.glob("**/record.json") if p.parent != root)]
    return [run for folder in folders if (run := read_run(folder)) is not None]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; a last line cut short by a kill is dropped."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON lines ({error})") from None


def keep_metrics_until(path: Path, step: int) -> None:
    """Drops the metric lines after `step`, which a restart from a checkpoint at `step` writes anew."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    temporary = path / "metrics.tmp"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.replace(path / "metrics.jsonl")


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Appends one line to metrics.jsonl.  Non-finite numbers become null: they are not JSON."""
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def find_run(path: Path, config: dict[str, Any]) -> Run | None:
    """Returns the run that the directory holds if it is of this config, or None if a new run may begin there.

    Raises:
      UserError: the directory holds a run of another config (the fields that differ are named), or other files.
    """
    held = path / "config.json"
    if held.is_file():
        other, own = identity(read_json(held)), identity(config)
        if other != own:
            raise UserError(f"{path} holds another run: {_difference(other, own)}; choose another --workdir")
        return read_run(path)
    strangers = [p.name for p in path.iterdir() if p.name not in ("lock", "config.tmp")]
    if strangers:
        raise UserError(f"{path} is not empty and holds no run (it has {strangers[0]!r}); choose another --workdir")
    return None


def _difference(old: dict[str, Any], new: dict[str, Any], limit: int = 3) -> str:
    """Names the first few fields in which the identities of two configs differ."""
    without = {name: field.before for name, field in declared().items()}
    old, new = (
        {name: values.get(name, without.get(name)) for name in old.keys() | new.keys()} for values in (old, new)
    )
    names = sorted(name for name in old if old[name] != new[name])
    parts = [f"config.{name} is {old[name]!r} there and {new[name]!r} here" for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(parts[:limit]) + more


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the directory's lock; the system frees it when the process dies, however it dies."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{path}: another process is training here") from None
        yield


def provenance() -> dict[str, Any]:
    """Returns versions, commit and host of this process, for the record."""
    packages = ("normres", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "HEAD")
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": commit,
        "uncommitted_changes": bool(_git(root, "status", "--porcelain")) if commit else None,
        "host": {"system": platform.platform(), "cpu": _cpu_name(), "cpu_count": os.cpu_count()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(root: Path, *arguments: str) -> str | None:
    """Runs git in `root`; None where there is no git or no repository of ours."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    """Returns the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
