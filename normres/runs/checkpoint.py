"""Checkpoints that survive a kill: saved by Orbax, sealed by a manifest of sha256 sums, restored newest first.

Orbax alone loads a flipped bit silently and takes an empty directory for the newest step, so a checkpoint counts only
once its manifest is in place, which is written last, under a temporary name, and renamed.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

MANIFEST = "normres_manifest.json"
KEEP = 2


def save(directory: Path, step: int, state: Any) -> None:
    """Saves a tree of arrays as directory/step_..., then removes all but the newest KEEP checkpoints."""
    target = directory.resolve() / f"step_{step:09d}"
    if target.exists():
        shutil.rmtree(target)
    ocp.save(target, _plain(state))
    sums = {str(file.relative_to(target)): _sha256(file) for file in sorted(target.rglob("*")) if file.is_file()}
    temporary = target / (MANIFEST + ".tmp")
    temporary.write_text(json.dumps(sums, indent=1))
    temporary.replace(target / MANIFEST)
    for old in _steps(directory)[KEEP:]:
        shutil.rmtree(old)


def restore(directory: Path, like: Any) -> tuple[Any, list[str]]:
    """Returns the newest intact state, or None, and a line for each checkpoint that was passed over.

    Args:
      directory: where `save` wrote.
      like: a state of the same structure, shapes, dtypes and placement; its values are not read.
    """
    passed_over: list[str] = []
    for path in _steps(directory):
        fault = _fault(path)
        if fault is None:
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                _plain(like),
            )
            leaves = jax.tree.leaves(ocp.load(path, abstract))
            return jax.tree.unflatten(jax.tree.structure(like), leaves), passed_over
        passed_over.append(f"{path}: {fault}; passed over")
    return None, passed_over


def _plain(state: Any) -> dict[str, Any]:
    """The state's leaves under numbered names: Orbax need not know our classes, and order is kept."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}


def _steps(directory: Path) -> list[Path]:
    """The checkpoint directories, newest first."""
    return sorted(directory.resolve().glob("step_" + "[0-9]" * 9), reverse=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(path: Path) -> str | None:
    """Says what is wrong with a checkpoint, or None."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        return "incomplete"
    try:
        sums = json.loads(manifest.read_text())
    except ValueError:
        return "damaged manifest"
    for name, expected in sums.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} is damaged"
    return None


def remove(directory: Path) -> None:
    """Removes every checkpoint; for runs that are done."""
    if directory.exists():
        shutil.rmtree(directory)
