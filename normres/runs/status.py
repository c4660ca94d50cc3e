"""`normres status`: every arm of a sweep, or every run below a directory, as it stands at this moment."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from normres import signals
from normres.errors import UserError
from normres.runs import claims, durable, note, results
from normres.runs.provenance import provenance
from normres.runs.sweep import Arm

SWEEP = "sweep.json"  # in a sweep's directory: its command and its arms
WATCH_SECONDS = 2.0
COLUMNS = ("run", "status", "step", "test error", "s/step", "left", "who, or why")


def note_sweep(workdir: Path, command: str, arms: Sequence[Arm]) -> None:
    """Writes down which arms a sweep has, beside other sweeps in the same directory, and a note for readers."""
    known, run_ids = _noted(workdir), [arm.run_id for arm in arms]
    if known.get(command) != run_ids:
        if not (workdir / "README.md").exists():  # as the commit of the first is what made the runs
            text = note.note(command, [arm.config for arm in arms], provenance())
            durable.write(workdir / "README.md", text)
        durable.write_json(workdir / SWEEP, {**known, command: run_ids})


def show(workdir: Path, console: Console, watch: bool) -> None:
    """Prints the table; with `watch`, until everything is done."""
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such directory")
    if not watch:
        console.print(*_view(workdir)[:2])
        return
    with signals.polled() as stop, Live(console=console, auto_refresh=False) as live:
        while True:
            table, last, ended = _view(workdir)
            table.caption = last
            live.update(table, refresh=True)
            if ended or stop.wait(WATCH_SECONDS):
                return


def _view(workdir: Path) -> tuple[Table, str, bool]:
    """Returns the table, a line that sums it up, and whether nothing is left to do."""
    below = [path.parent for name in ("record.json", claims.NAME, "error.txt") for path in workdir.glob(f"**/{name}")]
    arms = [workdir / run_id for run_ids in _noted(workdir).values() for run_id in run_ids]
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    counts = Counter[str]()
    for path in sorted({*below, *arms}):
        row = _row(path)
        counts[row[0]] += 1
        table.add_row(*map(Text, (str(path.relative_to(workdir)) if path != workdir else path.name, *row)))
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    kept = sum(1 for _ in workdir.glob(f"**/*{results.KEPT}"))
    nothing = f"{kept} kept runs; `normres report {workdir}` shows them" if kept else "no runs here"
    return table, words or nothing, set(counts) <= {*results.DONE, "failed"}


def _row(path: Path) -> tuple[str, ...]:
    """Returns the columns but the first: status, step, test error, seconds a step, time left, who or why."""
    status, failed = results.status_of(path), ""
    with suppress(OSError):
        lines = (path / "error.txt").read_text(errors="replace").splitlines()
        failed = next((line.partition("): ")[2] for line in lines[::-1] if line.startswith(results.FAILURE)), "")
    record: dict[str, Any] = {}
    metrics: list[dict[str, Any]] = []
    with suppress(OSError, UserError):
        record = results.read_record(path)
        metrics = results.read_metrics(path)
    holder = (claims.read(path) or {}) if status == "running" else {}
    step, steps = holder.get("step") or record.get("step"), holder.get("steps") or record.get("steps")
    errors = [line["error"] for line in metrics if line["split"] == "test" and line.get("error") is not None]
    rate = holder.get("seconds_per_step")
    who_or_why = claims.in_words(holder) if holder else ""
    if status not in (*results.DONE, "running") and failed:
        status, who_or_why = "failed", failed
    return (
        status,
        f"{step}/{steps}" if steps else "",
        f"{errors[-1]:.1%}" if errors else "",
        f"{rate:.3g}" if rate else "",
        str(timedelta(seconds=int((steps - step) * rate))) if rate and steps and step else "",
        who_or_why,
    )


def _noted(workdir: Path) -> dict[str, list[str]]:
    try:
        noted = json.loads((workdir / SWEEP).read_text())
        return {command: list(map(str, run_ids)) for command, run_ids in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
