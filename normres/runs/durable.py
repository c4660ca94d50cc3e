"""Files that are whole after a kill or a power failure: written under a temporary name, synced, renamed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from normres.errors import UserError


def sync(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text as write_bytes does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one and never a part, also after a power failure."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # of two processes, each has its own
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as write_text does."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON; a damaged file is a UserError that names it."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: not readable as JSON") from None


def sha256(path: Path) -> str:
    """Returns the checksum of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
