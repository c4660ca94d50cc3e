"""Writing report files so that a reader sees the old file or the new one and never a part."""

import os
from pathlib import Path


def write_file(path: Path, content: str | bytes) -> Path:
    """Writes `content` (text as UTF-8) to `path` atomically, makes its folder if needed, returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two reports that are written at once from sharing a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
