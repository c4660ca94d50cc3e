"""The run directory: what was run, on what, and what came out.  One directory per run::

    config.json     the whole config
    record.json     status, seed, dtype, data and its splits and preprocessing, parameters, how it was computed, final
                    numbers, errors under corruptions, and the attempts that made them: one per process that trained
                    here, with its commit, versions, host, device, steps and seconds
    metrics.jsonl   one line per logged interval ("split": "train") or evaluation ("split": "test", "corrupted"), and
                    what was measured layer by layer ("split": "probe"; lists in the order of depth)
    checkpoints/    the states that the config keeps, see checkpoint.py; the other files follow from the newest
    claim.json      who is training here, see claims.py
    pictures.png    of a network that makes images: what it makes of some test images (Programs.pictures)
    error.txt       why the last attempts failed; removed when the run succeeds
    README.md       the command that repeats the run, and what to cite

Status is one of running, interrupted, finished, diverged.  Errors are fractions (0.0875), losses are nats per example,
and seconds are wall-clock seconds spent in training, summed over attempts.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normres.errors import UserError
from normres.runs import claims
from normres.runs.durable import read_json, sha256, write, write_json
from normres.runs.fields import before, digest, identity

DONE = ("finished", "diverged")
FAILURE = "failure at "  # so begins each entry of error.txt
PICTURES = "pictures.png"
MARKED = ("init_from", "model.module")  # the fields that name a run or a file, which may change
KEPT = ".run.json"  # how the name of a kept run's file ends
KEPT_LINES = 100  # of training, evenly spread
OURS: tuple[str, ...] = ("config.json", "record.json", "metrics.jsonl", "checkpoints", PICTURES, "error.txt")
OURS += ("README.md", "lock", "tensorboard", "wandb")


@dataclass(frozen=True)
class Run:
    """One run as read back: its directory (or its kept file), config, record and metric lines."""

    path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def record_file(self) -> Path:
        """The file with the record."""
        return self.path if self.path.name.endswith(KEPT) else self.path / "record.json"

    @property
    def pictures_file(self) -> Path:
        """The file with what its network makes of images; there is one if it makes any."""
        if self.path.name.endswith(KEPT):
            return self.path.with_name(self.path.name.removesuffix(KEPT) + ".png")
        return self.path / PICTURES

    @property
    def attempt(self) -> dict[str, Any]:
        """Returns the last attempt: commit, versions, host, device; {} of a run that has none."""
        return dict((self.record.get("attempts") or [{}])[-1])

    @property
    def status(self) -> str:
        """Returns the status, which of a run that nobody trains is not "running"."""
        return _status(self.path, self.record)

    @property
    def marks(self) -> dict[str, str]:
        """Of fields that name a file or a run: the first characters of the digest of what was there."""
        digests = ((self.record.get("init_from") or {}).get("sha256"), self.attempt.get("module"))
        return {name: f"-{sha[:8]}" for name, sha in zip(MARKED, digests, strict=True) if sha}

    def field(self, name: str) -> Any:
        """Returns a config field by its dotted name, such as "model.depth"; a run may be older than the field.

        Of a file or a run with a mark it is the name and the mark: two versions of one file are two.
        """
        value: Any = self.config
        for part in name.split("."):
            if part not in value and name in before():
                return before()[name]
            value = value[part]
        mark = self.marks.get(name, "")
        return Path(value).name.removesuffix(mark) + mark if mark and value else value

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the run the run that it is, see fields.identity, with marks."""
        return identity(self.config) | {name: self.field(name) for name in self.marks}

    def series(self, split: str, key: str) -> tuple[list[int], list[float]]:
        """Returns (steps, values) of one metric, for example series("train", "error")."""
        lines = [line for line in self.metrics if line["split"] == split]
        return [line["step"] for line in lines], [line[key] for line in lines]


def read_run(path: Path) -> Run | None:
    """Reads a run directory; None if it holds no run.

    Raises:
      UserError: a file is damaged, the record is of another config, or metrics.jsonl is not what a run that is done
        has left.
    """
    if not ((path / "config.json").is_file() and (path / "record.json").is_file()):
        return None
    record = read_record(path)
    if record["status"] in DONE and (fault := file_fault(path, record, "metrics.jsonl")):
        raise UserError(f"{fault}; the command that made the run mends it")
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.json'} is damaged; the command that made the run mends it")
    run = Run(path, config, record, read_metrics(path))
    _check_digest(run, path / "config.json")
    return run


def read_runs(root: Path) -> list[Run]:
    """Reads every run under `root` (or `root` itself), ordered by path; damaged ones are named and left out."""
    if not root.is_dir():
        raise UserError(f"{root}: no such directory")
    runs = []
    folders = sorted({root, *(file.parent for file in root.glob("**/record.json"))})
    for path in [*folders, *sorted(root.glob(f"**/*{KEPT}"))]:
        try:
            run = read_kept(path) if path.is_file() else read_run(path)
        except UserError as error:
            print(f"normres: {error}; left out", file=sys.stderr)
            continue
        runs += [run] if run else []
    return runs


def keep(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes runs that are done as one small file each, with their pictures beside it; returns the files.

    A file has the record without the host's name, the config without paths, and the curve with fewer lines of training.
    Of a path stays the last part and, if the record has the digest of what was there, its first characters.

    Raises:
      UserError: two of the runs have one name.
    """
    names = [str(run.record.get("run_id") or run.path.name) for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{folder}: two of the runs are called {twice}; keep each folder of runs on its own")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for run, name in zip(runs, names, strict=True):
        training = [line for line in run.metrics if line["split"] == "train"]
        kept = training[:: -max(1, -(-len(training) // KEPT_LINES))]
        lines = [_rounded(line) for line in run.metrics if line["split"] != "train" or line in kept]
        document = {
            "config": _without_paths(run.config, run.marks),
            "record": _without_paths(run.record),
            "metrics": lines,
        }
        write(folder / f"{name}{KEPT}", json.dumps(document | {"seal": seal_of(document)}) + "\n")
        files.append(folder / f"{name}{KEPT}")
        if run.pictures_file.is_file():
            write(Run(files[-1], {}, {}, []).pictures_file, run.pictures_file.read_bytes())
    return files


def _without_paths(document: dict[str, Any], marks: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Returns a config or a record without what names a machine: its name, and paths, of which the last part stays.

    `marks` are added to it, so that two files of one name stay two.
    """
    copy: dict[str, Any] = json.loads(json.dumps({name: one for name, one in document.items() if name != "seal"}))
    for attempt in copy.get("attempts", ()):
        (attempt.get("host") or {}).pop("name", None)
    for section, name in (("data", "path"), ("model", "module"), ("init_from", "path")):
        if isinstance(copy.get(section), dict) and copy[section].get(name):
            mark = marks.get(f"{section}.{name}", "")
            copy[section][name] = "" if section == "data" else Path(copy[section][name]).name.removesuffix(mark) + mark
    if "warnings" in copy:
        copy["warnings"] = [re.sub(r"'[^']*/([^'/]*)'", r"'\1'", line) for line in copy["warnings"]]
    if isinstance(copy.get("init_from"), str):  # the config's
        mark = marks.get("init_from", "")
        copy["init_from"] = copy["init_from"] and Path(copy["init_from"]).name.removesuffix(mark) + mark
    return copy


def _rounded(value: Any) -> Any:
    """Returns numbers with six digits, as a figure needs them."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_kept(file: Path) -> Run:
    """Reads what `keep` has written; a damaged file is a UserError that names it."""
    document = read_json(file)
    if not isinstance(document, dict) or document.pop("seal", "") != seal_of(document):
        raise UserError(f"{file} is damaged")
    run = Run(file, document["config"], document["record"], document["metrics"])
    if not (run.config.get("init_from") or run.config["model"].get("module")):  # which name other files here
        _check_digest(run, file)
    return run


def _check_digest(run: Run, file: Path) -> None:
    """Raises UserError if a run's config is not the one that its record is of."""
    if run.record.get("config_digest", digest(run.config)) != digest(run.config):
        raise UserError(f"{file}: the config is not the one that the record names, {run.record['config_digest']}")


def status_of(path: Path) -> str:
    """Returns the status of the run in a directory; "to do" if none has begun, "damaged" if its record is."""
    try:
        return _status(path, read_record(path))
    except FileNotFoundError:
        return "running" if _is_claimed(path) else "to do"
    except (OSError, UserError):
        return "damaged"


def _status(path: Path, record: dict[str, Any]) -> str:
    status = str(record["status"])
    return "interrupted" if status == "running" and not _is_claimed(path) else status


def _is_claimed(path: Path) -> bool:
    return (holder := claims.read(path)) is not None and not claims.is_dead(path, holder)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a run's record.json, with a seal by which a reader knows that it is whole."""
    write_json(path / "record.json", record | {"seal": seal_of(record)})


def read_record(path: Path) -> dict[str, Any]:
    """Reads a run's record.json; one of an older version is returned in today's form, with attempts.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is damaged.
    """
    record = read_json(path / "record.json")
    whole = isinstance(record, dict) and "status" in record
    # A record with attempts has a seal, an older one has neither.
    if not whole or (("seal" in record or "attempts" in record) and record.get("seal") != seal_of(record)):
        raise UserError(f"{path / 'record.json'} is damaged; the command that made the run mends it")
    record.pop("seal", None)
    if "attempts" in record:
        return record
    attempt = {name: record.pop(name, None) for name in ("commit", "versions", "host", "device", "started")}
    attempt["diff"] = "unknown" if record.pop("uncommitted_changes", None) else None
    record.pop("restarts", None)
    attempt |= {"step": record.get("step"), "seconds": record.get("seconds"), "end": record["status"]}
    return {**record, "attempts": [attempt]}


def seal_of(record: dict[str, Any]) -> str:
    """Returns the checksum of a record, in any order of its entries."""
    text = json.dumps({name: value for name, value in record.items() if name != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_fault(path: Path, record: dict[str, Any], name: str) -> str:
    """Returns what is wrong with a file of a run that is done; "" if nothing, or if its record is older."""
    expected, file = record.get("files", {}).get(name), path / name
    if not file.is_file():
        return f"{file} is missing"
    return f"{file} is damaged" if expected and sha256(file) != expected else ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; a last line cut short by a kill is dropped."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return []
    try:
        lines = file.read_text().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        metrics = [json.loads(line) for line in lines]
        if strange := [line for line in metrics if not {"step", "split"} <= {*line}]:
            raise ValueError(f"no step or split in {strange[0]}")
        return metrics
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON lines ({error})") from None


def best_of(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the lowest test error of the metric lines, and the first step that has it."""
    tests = [line for line in metrics if line["split"] == "test" and line.get("error") is not None]
    best = min(tests, key=lambda line: (line["error"], line["step"]), default={"error": None, "step": None})
    return {"best_test_error": best["error"], "best_test_step": best["step"]}


def check_identity(path: Path, held: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises UserError, naming the first fields that differ, if a directory holds a run of another config."""
    there, here, then = identity(held), identity(config), before()
    parts = []
    for name in sorted(there.keys() | here.keys()):
        theirs, ours = (config.get(name, then.get(name)) for config in (there, here))
        if theirs != ours:
            parts.append(f"config.{name} is {theirs!r} there and {ours!r} here")
    if parts:
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        raise UserError(f"{path} holds another run: {', '.join(parts[:3])}{more}; choose another --workdir")
