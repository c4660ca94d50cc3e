"""How busy other programs keep the processors while something is timed, for those who read the times."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Reading(NamedTuple):
    """Clock ticks since the start: of all processors together, of them at work, of some processes at work."""

    total: int
    busy: int
    own: int


def read(processes: Iterable[int]) -> Reading:
    """Reads the system's counters (Linux; elsewhere zeros); `processes` are ids, of which some may have ended."""
    try:
        # user, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen by a virtual machine's host
        counts = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return Reading(0, 0, 0)
    own = 0
    for process in (*processes, os.getpid()):
        try:
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        own += int(words[11]) + int(words[12])  # in user and in system mode
    return Reading(sum(counts), sum(counts) - counts[3] - counts[4], own)


def share_of_others(before: Reading, after: Reading) -> float:
    """Returns the share of the processors' time between two readings that went to other processes."""
    total, busy, own = (late - early for early, late in zip(before, after, strict=True))
    return max(0.0, (busy - own) / total) if total else 0.0
