"""Checkpoints that survive a kill: saved by Orbax, sealed by a manifest of sha256 sums, restored newest first.

A checkpoint holds the state and a document, and the run follows from these alone: its other files are copies for
readers, which are written anew when a run goes on.  Orbax alone loads a flipped bit silently and takes an empty
directory for the newest step, so a checkpoint counts only if it has a manifest and every file is as the manifest says.
The manifest is written last, and all is on the disk before the save returns.

    step_000000400/   state/ and Orbax's own files, DOCUMENT, MANIFEST
"""

import errno
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from normres.errors import UserError
from normres.runs import durable, hosts

MANIFEST = "normres_manifest.json"
DOCUMENT = "run.json"
NOT_READABLE = "not readable"  # at this moment; perhaps later
PATTERN = "[*?"  # signs that make a pattern of a path
KEEP = 2  # intact ones, in case that the newest is damaged later


@dataclass(frozen=True)
class Saved:
    """An intact checkpoint.

    Attributes:
      path: its directory.
      document: {"config", "record", "metrics", "measured"} as of then, see local.py; of older versions {}.
    """

    path: Path
    document: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return _step(self.path)

    def arrays(self, prefix: str | tuple[str, ...] = "") -> dict[str, np.ndarray]:
        """Returns the arrays whose names, such as "params.stem_conv.kernel", begin with a prefix; reads no others."""
        metadata = _metadata(self.path)
        like = {name: np.empty(array.shape, array.dtype) for name, array in metadata.items() if name.startswith(prefix)}
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context, _without_warnings():
            loaded: dict[str, np.ndarray] = ocp.load(self.path, like)
        return loaded

    def state(self, like: Any) -> Any:
        """Returns the state, with the structure, shapes, dtypes and placement of `like`.

        Raises:
          UserError: the arrays have other names or shapes.
        """
        named = by_name(like)
        if not self.document:  # older versions saved by position
            named = dict(zip((f"{number:05d}" for number in range(len(named))), named.values(), strict=True))
        metadata = _metadata(self.path)
        there, here = ({name: tuple(leaf.shape) for name, leaf in arrays.items()} for arrays in (metadata, named))
        if here != there:
            name = sorted(here.items() ^ there.items())[0][0]
            raise UserError(f"{self.path}: {name} is {there.get(name)} there and {here.get(name)} here")
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in named.items()
        }
        with _without_warnings():
            loaded = ocp.load(self.path, abstract)
        return jax.tree.unflatten(jax.tree.structure(like), [loaded[name] for name in named])


def save(
    directory: Path,
    step: int,
    state: Any,
    document: dict[str, Any],
    kept: Callable[[int], bool],
    check: Callable[[], object] = lambda: None,
) -> None:
    """Saves a tree of arrays and a document as directory/step_..., unless an intact one of that step is there.

    Then it removes the other checkpoints but the newest KEEP intact ones and those whose step is `kept`.

    `check` raises if this process may not write any more; it is asked after each part that may take long.

    Raises:
      OSError: the disk is full or gone; what was saved before is untouched.
    """
    target, writer = path_of(directory, step), hosts.is_writer()
    if wanted := hosts.from_writer(writer and _fault(target) is not None):
        arrays = by_name(state)
        if writer:
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(exist_ok=True)
            if shutil.disk_usage(target.parent).free < sum(leaf.nbytes for leaf in arrays.values()) + 2**20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.parent))
        hosts.barrier()
        context = ocp.Context()
        # Orbax looks for the parts of the other format by a pattern that begins with the path.
        context.array.saving.use_ocdbt = not any(sign in str(target) for sign in PATTERN)
        with context, _one_line_errors(target):
            ocp.save(target, arrays)
    if writer and wanted:
        check()
        durable.write_json(target / DOCUMENT, document)
        for file in [*target.rglob("*"), target]:
            durable.sync(file)
        sums = {
            str(file.relative_to(target)): durable.sha256(file) for file in sorted(target.rglob("*")) if file.is_file()
        }
        check()
        durable.write_json(target / MANIFEST, sums)
        durable.sync(directory)
    if writer and (chosen := choose(directory, kept, until=step)):
        check()
        keep_only(directory, chosen, until=step)
    hosts.barrier()  # The others do not go on, and end perhaps, before all is on the disk.


def choose(directory: Path, kept: Callable[[int], bool], newest: int = KEEP, until: float = float("inf")) -> list[Path]:
    """Returns, of the checkpoints `until` a step, the `newest` intact ones and those whose step is `kept`, in order."""
    chosen, intact = list[Path](), 0
    for path in _steps(directory):
        if _step(path) > until:
            continue  # of an earlier attempt, which has gone back
        sound = intact < newest and _fault(path) is None
        intact += sound
        if sound or (kept(_step(path)) and (path / MANIFEST).is_file()):
            chosen.append(path)
    return chosen[::-1]


def keep_only(directory: Path, chosen: list[Path], until: float = float("inf")) -> None:
    """Removes all checkpoints but these, and what is left of saves that were interrupted.

    Those stay that cannot be read at this moment, and intact ones of steps beyond `until`.
    """
    for path in [*_steps(directory), *directory.resolve().glob("step_*.orbax-checkpoint-tmp*")]:
        unfinished = "." in path.name
        if path in chosen or (not unfinished and _step(path) > until and _fault(path) is None):
            continue
        if unfinished or not (_fault(path) or "").startswith(NOT_READABLE):
            shutil.rmtree(path)


def newest(directory: Path, before: int | None = None) -> tuple[Saved | None, list[str]]:
    """Returns the newest intact checkpoint (of a step below `before`), and a line for each that was passed over."""
    passed_over: list[str] = []
    for path in _steps(directory):
        if before is not None and _step(path) >= before:
            continue
        if saved := read(path):
            return saved, passed_over
        passed_over.append(f"{path}: {_fault(path)}; passed over")
    return None, passed_over


def path_of(directory: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is."""
    return directory.resolve() / f"step_{step:09d}"


def read(path: Path) -> Saved | None:
    """Returns the checkpoint in `path` if it is intact."""
    if _fault(path) is not None:
        return None
    document = path / DOCUMENT
    return Saved(path, json.loads(document.read_text()) if document.exists() else {})


def by_name(state: Any) -> dict[str, Any]:
    """Returns the state's leaves by their names in the tree, such as "opt_state.0.trace.stem_conv.kernel"."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def check_path(path: Path) -> None:
    """Raises UserError if no checkpoint can be saved in a directory because of its name."""
    if "\\" in str(path.resolve()):
        raise UserError(f"{path}: the library that saves weights takes a backslash for a slash; rename the directory")


def _metadata(path: Path) -> Any:
    """Returns the shapes and dtypes of a checkpoint's arrays by name."""
    with _without_warnings():
        metadata = ocp.metadata(path).metadata
    if metadata is None:
        raise UserError(f"{path}: an older version saved this in a path with one of {PATTERN}; it cannot be read")
    return metadata


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _steps(directory: Path) -> list[Path]:
    """The checkpoint directories, newest first."""
    return sorted(directory.resolve().glob("step_" + "[0-9]" * 9), reverse=True)


def _fault(path: Path) -> str | None:
    """Says what is wrong with a checkpoint, or None."""
    name = MANIFEST
    try:
        sums = json.loads((path / MANIFEST).read_text())
        for name, expected in sums.items():
            if durable.sha256(path / name) != expected:
                return f"{name} is damaged"
    except FileNotFoundError:
        return "incomplete" if name == MANIFEST else f"{name} is missing"
    except (ValueError, AttributeError):
        return "damaged manifest"
    except OSError as error:
        return f"{NOT_READABLE}: {error.strerror}"
    return None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences Orbax, which takes a checkpoint for malformed where each array has a folder of its own, see save."""
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Makes an OSError of what Orbax raises on a full disk, and keeps its threads from printing their tracebacks."""
    hooks, logger = (threading.excepthook, sys.unraisablehook), logging.getLogger("absl")
    disabled = logger.disabled
    threading.excepthook, sys.unraisablehook, logger.disabled = lambda _: None, lambda _: None, True

    def late(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hooks[1](unraisable)

    after = hooks
    try:
        yield
    except (OSError, ValueError) as error:
        after, disabled = (hooks[0], late), True  # for threads that are still at it
        if "os_error_code" not in str(error):
            raise
        number = int(str(error).partition("os_error_code='")[2].partition("'")[0])
        raise OSError(number, os.strerror(number), str(path)) from None
    finally:
        (threading.excepthook, sys.unraisablehook), logger.disabled = after, disabled
