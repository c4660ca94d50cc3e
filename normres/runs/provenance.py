"""What produced numbers: versions, commit, uncommitted changes and host of this process."""

import hashlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from normres.runs import durable

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("normres", "jax", "jaxlib", "flax", "optax", "numpy")


def now() -> str:
    """Returns the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Returns the time, and commit, hash of the uncommitted changes, versions and host of this process."""
    return {"started": now(), **_of_this_process()}


@cache
def _of_this_process() -> dict[str, Any]:
    commit = _git("rev-parse", "HEAD")
    diff = (_git("status", "--porcelain") or "") + (_git("diff", "HEAD") or "") if commit else ""
    for name in (_git("ls-files", "--others", "--exclude-standard", "-z", "--", "normres") or "").split("\0"):
        with suppress(OSError):  # of new files, git says no more than the name
            diff += durable.sha256(ROOT / name) if name else ""
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # normres runs from a checkout, too
            versions[name] = importlib.metadata.version(name)
    host = {"name": socket.gethostname(), "system": platform.platform(), "cpu": _cpu(), "cpu_count": os.cpu_count()}
    return {
        "commit": commit,
        "diff": hashlib.sha256(diff.encode(errors="surrogateescape")).hexdigest()[:16] if diff else None,
        "versions": {"python": platform.python_version(), **versions},
        "host": host,
    }


def _git(*arguments: str) -> str | None:
    """Runs git in the folder of this code; None where there is no git or no repository of ours."""
    if not (ROOT / ".git").exists():
        return None
    try:
        decoding: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # a diff may be of any bytes
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, **decoding)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """Returns the processor's model name."""
    with suppress(OSError):
        if name := re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return name[1]
    return platform.processor() or platform.machine()


def differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Names what the code of two attempts differs in; "" for nothing."""
    names = [name for name in ("commit", "diff", "module") if name != "module" or name in before]  # not in older ones
    both = {name: (str(before.get(name))[:12], str(after.get(name))[:12]) for name in names}
    old, new = before.get("versions") or {}, after["versions"]
    both |= {name: (old[name], new[name]) for name in new if name in old}
    return ", ".join(f"{name} {now} after {then}" for name, (then, now) in both.items() if now != then)
