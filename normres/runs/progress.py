"""Progress of a run: one bar on a terminal, plain lines in a log."""

import os
import time
from collections import deque
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from normres import signals

LINE_SECONDS = 10.0  # between lines in a log, of all workers
WORKERS = "NORMRES_SWEEP_WORKERS"  # the environment of a worker says how many share the screen
RECENT = 20  # updates from which the rate is taken


def say(console: Console, label: str, text: str) -> None:
    """Prints a line of a run."""
    # No markup and no wrapping: a path in brackets stays as it is, and can be copied.
    console.print(f"{label}: {text}", markup=False, highlight=False, soft_wrap=True)


class Reporter:
    """Shows the steps of one run; use it as a context manager."""

    def __init__(self, label: str, start: int, total: int, console: Console):
        self.label, self.start, self.total, self.console = label, start, total, console
        self._last_line = time.monotonic()
        self._marks = deque([(self._last_line, start)], maxlen=RECENT)
        self._bar: Progress | None = None
        workers = int(os.environ.get(WORKERS, "1"))
        self._line_seconds = LINE_SECONDS * workers
        if console.is_terminal and workers == 1:
            done = TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn()
            times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
            self._bar = Progress(*done, TextColumn("{task.fields[note]}"), *times, console=console)
            self._task = self._bar.add_task(label, total=total, completed=start, note="compiling")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            signals.at_exit.append(self._bar.stop)  # which shows the cursor again
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            signals.at_exit.remove(self._bar.stop)
            self._bar.stop()

    def compiled(self, seconds: float) -> None:
        """Says how long compiling took, which is no part of the rate."""
        if seconds >= LINE_SECONDS and not self._bar:
            self.say(f"compiled in {seconds:.0f} s")
        self._marks = deque([(time.monotonic(), self.start)], maxlen=RECENT)
        if self._bar:
            self._bar.reset(self._task, completed=self.start, note="")

    @property
    def progress(self) -> dict[str, Any]:
        """How far the run is: step, steps, and seconds per step of late."""
        (then, first), (now, last) = self._marks[0], self._marks[-1]
        rate = (now - then) / (last - first) if last > first else None
        return {"step": last, "steps": self.total, "seconds_per_step": rate}

    def update(self, step: int, note: str) -> None:
        """Shows that `step` steps are done; in a log, a line at times."""
        now = time.monotonic()
        self._marks.append((now, step))
        if self._bar:
            self._bar.update(self._task, completed=step, note=note)
        elif now - self._last_line >= self._line_seconds and step < self.total:
            self._last_line = now
            rate = self.progress["seconds_per_step"]
            left = f"  {rate:.3g} s/step  {(self.total - step) * rate:.0f} s left" if rate else ""
            self.say(f"step {step}/{self.total}  {note}{left}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        say(self.console, self.label, text)
