"""Runs as a table for other tools: a row per run, or per metric line, as Parquet or CSV.  Needs the extra `collect`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from normres.errors import UserError, library, nearest
from normres.report.arms import run_id
from normres.runs import durable
from normres.runs.fields import before, declared, flatten
from normres.runs.results import Run

Row = dict[str, Any]

# The columns of a run that come first, and their types, which do not depend on the values.
RECORD: dict[str, type] = {"status": str, "step": int, "steps": int, "diverged_at_step": int, "dtype": str}
RECORD |= {"parameters": int, "seconds": float, "warnings": list, "attempts": int, "best_test_step": int}
# Those that may be missing are pandas' own; a missing float is NaN.
DTYPES = {bool: "boolean", int: "Int64", float: "float64", list: "object"}
OF_LAST_ATTEMPT = ("commit", "diff", "device", "host", "versions")


def collect(runs: Sequence[Run], target: Path, workdir: Path, curves: bool = False) -> Path:
    """Writes the runs below `workdir` to `target`, a .parquet or .csv file, and returns it.

    A row is a run: id, path in `workdir`, record, attempts, `config.*`, `final.*`, `best_*` and `corrupted.*`.  With
    `curves` it is a line of metrics.jsonl, beside the fields in which the configs differ.  What a run lacks is empty.
    Lists are lists in Parquet and JSON texts in CSV.

    Raises:
      UserError: another ending, no metric lines yet, or the extra is not installed.
    """
    ending = target.suffix.lower()
    if ending not in WRITERS:
        raise UserError(f"{target}: the ending {ending!r} is not written; {nearest(ending, WRITERS)}")
    configs = _configs(runs)
    differ = [name for name in configs[0] if len({str(config[name]) for config in configs}) > 1]
    rows: list[Row] = []
    for run, config in zip(runs, configs, strict=True):
        which = {"run_id": run_id(run), "path": str(run.path.relative_to(workdir))}
        if curves:
            rows += [which | {name: config[name] for name in differ} | line for line in run.metrics]
        else:
            rows.append(which | _record(run) | config | _numbers(run))
    if not rows:
        raise UserError(f"{workdir}: the runs here have no metric lines yet")
    pandas = library("pandas", "collect")
    columns = dict.fromkeys(name for row in rows for name in row)
    frame = pandas.DataFrame({name: _column(pandas, name, [row.get(name) for row in rows]) for name in columns})
    return durable.write(target, WRITERS[ending](frame))


def _parquet(frame: Any) -> bytes:
    library("pyarrow", "collect")
    content: bytes = frame.to_parquet(index=False, engine="pyarrow")
    return content


def _csv(frame: Any) -> str:
    lists = frame.select_dtypes("object").map(lambda value: json.dumps(value) if isinstance(value, list) else value)
    content: str = frame.assign(**lists).to_csv(index=False, lineterminator="\n")
    return content


WRITERS: dict[str, Callable[[Any], str | bytes]] = {".parquet": _parquet, ".csv": _csv}


def _record(run: Run) -> Row:
    """Returns what the record says of the run and its attempts."""
    attempts = run.record.get("attempts") or []
    return (
        {name: run.record.get(name) for name in RECORD}
        | {"status": run.status, "attempts": len(attempts), "started": attempts[0].get("started") if attempts else None}
        | flatten({name: run.attempt.get(name) for name in OF_LAST_ATTEMPT})
    )


def _numbers(run: Run) -> Row:
    """Returns final numbers, best ones and errors under corruptions."""
    best = {name: value for name, value in run.record.items() if name.startswith("best_")}
    final, corrupted = ({name: run.record.get(name) or {}} for name in ("final", "corrupted"))
    return flatten(final) | flatten(best) | flatten(corrupted)


def _configs(runs: Sequence[Run]) -> list[Row]:
    """Returns the runs' fields as columns; a run that is older than a field has the value from before it."""
    flat = [flatten(run.config) for run in runs]
    names = sorted({name for config in flat for name in config})
    then = before()
    return [{f"config.{name}": config.get(name, then.get(name)) for name in names} for config in flat]


def _declared_type(column: str) -> type | None:
    """Returns the type that a column has in every table; None if its values decide."""
    section, _, name = column.partition(".")
    if section == "config":
        kind = type(declared()[name].value) if name in declared() else None
        return list if kind is tuple else kind
    if column in RECORD:
        return RECORD[column]
    return float if section == "final" or section.startswith("best_") else None


def _column(pandas: Any, name: str, values: Sequence[Any]) -> Any:
    """Returns a column of one type, in which what is missing is null; values of several types become texts."""
    values = [list(value) if isinstance(value, tuple) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kind := _declared_type(name):
        kinds.add(kind)
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) == 1 and (dtype := DTYPES.get(*kinds)):
        return pandas.Series(values, dtype=dtype)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pandas.Series(texts, dtype="string")
