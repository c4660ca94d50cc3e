"""Claims: which process trains a run.  A file in the run's directory, made by one process alone, with a heartbeat.

It needs no lock of the file system, which some network disks do not have: only that a file is made or renamed once.
A holder that has died is known at once on its own machine.  Anywhere else, it is dead if its claim has not changed for
DEAD_SECONDS; the clocks of the machines need not agree.  A holder that was only stopped notices, when it goes on, that
the claim is another's, and writes nothing any more.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normres import signals
from normres.errors import InterruptedRun, UserError
from normres.runs import durable

NAME = "claim.json"
DEAD_SECONDS = 60.0
BEATS = 6  # in DEAD_SECONDS
NOTE_SECONDS = 1.0
TRIES, TRY_SECONDS = 4, 0.1  # to read a claim that is not there for a moment
SIZE = 512  # bytes of the file, so that a heartbeat is one write in place, also on a full disk

# When this process first saw a claim as it is now: the claim's file, its content and the time.
_seen: dict[Path, tuple[str, float]] = {}


class Busy(UserError):
    """Another process trains the run; `holder` says which."""

    def __init__(self, path: Path, holder: dict[str, Any]):
        super().__init__(f"{path}: {in_words(holder)} is training here")
        self.holder = holder


class LostClaim(InterruptedRun):
    """This process was taken for dead, and another one goes on with the run."""


class Claim:
    """The right to write in a run's directory; see `hold`."""

    def __init__(self, path: Path, descriptor: int, dead_seconds: float):
        self.path, self._descriptor, self._beat_seconds = path, descriptor, dead_seconds / BEATS
        own = {"token": secrets.token_hex(8), "dead_seconds": dead_seconds, "beat": 0, "step": None}
        self._content: dict[str, Any] = {**own, **_this_process()}
        self._released = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def note(self, **progress: Any) -> None:
        """Tells how far the run is, at most every NOTE_SECONDS."""
        self._content |= progress
        if time.monotonic() - self._last >= NOTE_SECONDS:
            with suppress(OSError):
                self._beat()

    def check(self) -> None:
        """Raises LostClaim if another process has the run; call before each write."""
        for _ in range(TRIES):
            if holder := read(self.path):
                break
            time.sleep(TRY_SECONDS)  # somebody looks at it, see _remove, or the disk is slow
        if not holder or holder.get("token") != self._content["token"]:
            other = f"{in_words(holder)} has taken it over" if holder else "its claim was removed"
            raise LostClaim(f"{self.path}: {other} while this process stood still")

    def release(self) -> None:
        """Ends the claim."""
        self._released.set()
        self._thread.join()
        with suppress(LostClaim, OSError):
            self.check()
            (self.path / NAME).unlink()
        os.close(self._descriptor)

    def _beat(self) -> None:
        # Into this process's own file: if another one has taken its place, that is not touched.
        self._content["beat"] += 1
        self._last = time.monotonic()
        os.pwrite(self._descriptor, json.dumps(self._content).ljust(SIZE - 1).encode() + b"\n", 0)

    def _keep_beating(self) -> None:
        while not self._released.wait(self._beat_seconds):
            with suppress(OSError):
                self._beat()


@contextmanager
def hold(path: Path, dead_seconds: float = DEAD_SECONDS, say: Callable[[str], None] | None = None) -> Iterator[Claim]:
    """Claims the run's directory, which is made if need be, as long as the context lasts.

    With `say`, it waits until it is known whether a holder on another machine is dead, and says so.

    Raises:
      Busy: another process has it, or nobody knows yet that it is dead.
      InterruptedRun: told to stop while it waited.
    """
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        durable.sync(path.parent)
    first: dict[str, Any] | None = None
    while True:
        try:
            descriptor = os.open(path / NAME, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            break
        except FileExistsError:
            holder = read(path)
            if holder is None:
                continue
            if is_dead(path, holder, dead_seconds):
                _remove(path, holder)
                continue
            # Without /proc, a process of that number may be another one: it gives no sign.
            here = _is_here(holder) and holder["started"] != "running"
            if say is None or here or holder != (first or holder):
                raise Busy(path, holder) from None
            if first is None:
                first = holder
                say(f"{in_words(holder)} has claimed this run; waiting {dead_seconds:g} s for a sign of it")
            with signals.polled() as stop:
                if stop.wait(1):
                    raise InterruptedRun("stopped before training") from None
    try:
        claim = Claim(path, descriptor, dead_seconds)
    except OSError:  # the disk is full
        os.close(descriptor)
        (path / NAME).unlink()
        raise
    signals.at_exit.append(claim.release)
    try:
        yield claim
    finally:
        signals.at_exit.remove(claim.release)
        claim.release()


def read(path: Path, name: str = NAME) -> dict[str, Any] | None:
    """Returns who claims the run in `path`: None for nobody, {} for somebody who has not written yet."""
    try:
        content = json.loads((path / name).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_dead(path: Path, holder: dict[str, Any], dead_seconds: float = DEAD_SECONDS) -> bool:
    """Returns whether the holder is known to be dead; for one on another machine, ask again later."""
    if _is_here(holder) and _started(holder["pid"]) not in (holder["started"], "running"):
        return True
    now, content = time.monotonic(), json.dumps(holder)
    if _seen.get(path, ("",))[0] != content:
        _seen[path] = (content, now)
    return now - _seen[path][1] >= max(dead_seconds, holder.get("dead_seconds", 0))


def in_words(holder: dict[str, Any]) -> str:
    """Returns who a holder is: its host and process."""
    return f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"


def _remove(path: Path, holder: dict[str, Any]) -> None:
    """Removes the claim of that holder, and no other's, which may have been quicker."""
    aside = path / f"{NAME}.{secrets.token_hex(4)}.tmp"
    try:
        (path / NAME).rename(aside)
    except FileNotFoundError:
        return
    if (read(path, aside.name) or {}).get("token") != holder.get("token"):
        with suppress(OSError):  # where nothing can be linked, that holder stops and another one starts
            os.link(aside, path / NAME)
    aside.unlink()


def _is_here(holder: dict[str, Any]) -> bool:
    """Returns whether a holder's process can be seen from this one."""
    here = _this_process()
    return all(holder.get(name) == here[name] for name in ("host", "boot", "pid_space"))


def _this_process() -> dict[str, Any]:
    pid, boot, space = os.getpid(), "", Path("/proc/self/ns/pid")
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _started(pid),
        "boot": boot,
        "pid_space": str(space.readlink()) if space.is_symlink() else "",
    }


def _started(pid: int) -> str | None:
    """Returns when a process of this machine was started, in the kernel's ticks; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return "running"
    return None if fields[0] in "ZX" else fields[19]
