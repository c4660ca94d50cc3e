"""Files that are whole after a kill or a power failure: written under a temporary name, synced, renamed."""

import hashlib
import json
import os
import secrets
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


def write(path: Path, content: str | bytes) -> Path:
    """Writes a file (text as UTF-8), and its folder if needed, and returns its path.

    A reader sees the old file or the new one and never a part, also after a power failure.
    """
    data = content.encode() if isinstance(content, str) else content
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():  # such as /dev/stdout
        target.write_bytes(data)
        return path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Process numbers repeat in containers.
    temporary = target.with_name(f"{target.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as `write` does."""
    write(path, json.dumps(value, indent=1) + "\n")


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
