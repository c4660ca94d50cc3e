"""Signals that end a process: caught from its first moment on, and obeyed without losing anything.

Slurm sends SIGTERM, and before a time limit what it was told to, by custom SIGUSR1; a terminal that is closed SIGHUP.
Training polls a flag, saves and leaves.  Anywhere else the signal ends the process at once, as nothing is lost.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
AGAIN = 75  # the exit status of who was told to stop: the same command goes on (sysexits.h: EX_TEMPFAIL)
INTERRUPTED = 130  # and of who was interrupted by Ctrl-C, as shells have it

_flag: threading.Event | None = None  # that is polled at this moment
_received: list[int] = []
at_exit: list[Callable[[], None]] = []  # what a process does that is ended by a signal where no run is to be saved


def received() -> bool:
    """Returns whether a signal has come."""
    return bool(_received)


def name() -> str:
    """Returns the name of the signal that came first, such as "SIGTERM"."""
    return signal.Signals(_received[0]).name if _received else "another process"


def status() -> int:
    """Returns the exit status of a process that was stopped."""
    return INTERRUPTED if _received[:1] == [signal.SIGINT] else AGAIN


def _on_signal(number: int, _frame: Any) -> None:
    again = number == signal.SIGINT and number in _received
    _received.append(number)
    if again:
        raise KeyboardInterrupt
    if _flag is None:
        _leave()
    else:
        _flag.set()


def _leave() -> None:
    """Ends the process at once: an exception would abort it in the middle of an import of C++ code, or be lost."""
    os.write(2, f"normres: stopped by {name()}; the same command starts again\n".encode())
    for act in at_exit:
        act()
    os._exit(status())


def catch() -> None:
    """Catches the signals in this process, also those that `block` has held back; SIGHUP not under nohup."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def block() -> None:
    """Holds the signals back until the program that takes the place of this one catches them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


@contextmanager
def polled() -> Iterator[threading.Event]:
    """While the context lasts, a signal sets a flag; a second Ctrl-C ends the process all the same."""
    global _flag
    _flag = threading.Event()
    if _received:  # when the last run had just been saved
        _flag.set()
    try:
        yield _flag
    finally:
        _flag = None
