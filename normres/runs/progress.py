"""Progress of a run: one bar on a terminal, plain lines in a log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between lines in a log


class Reporter:
    """Shows the steps of one run; use it as a context manager."""

    def __init__(self, label: str, start: int, total: int, console: Console):
        self.label, self.start, self.total, self.console = label, start, total, console
        self._began = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, completed=start, note="compiling")

    def __enter__(self) -> Self:
        """Starts the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the bar and leaves it on the screen."""
        if self._bar:
            self._bar.stop()

    def update(self, step: int, note: str) -> None:
        """Shows that `step` steps are done; in a log, at most every LINE_SECONDS."""
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=step, note=note)
        elif now - self._last_line >= LINE_SECONDS and step < self.total:
            self._last_line = now
            rate = (now - self._began) / max(step - self.start, 1)
            self.say(f"step {step}/{self.total}  {note}  {rate:.2f} s/step  {(self.total - step) * rate:.0f} s left")

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        # No markup and no wrapping: a path in brackets stays as it is, and can be copied.
        self.console.print(f"{self.label}: {text}", markup=False, highlight=False, soft_wrap=True)
