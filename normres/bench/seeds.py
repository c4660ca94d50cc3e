"""Time of a training step per run, with several runs in one program and one after the other."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
from ml_collections import ConfigDict

from normres.bench.compile import random_data
from normres.runs import config as configs
from normres.runs import machine
from normres.show.text import table
from normres.training.group import Group
from normres.training.programs import Programs


def measure(config: ConfigDict, dtype: str, members: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Returns, for each number of members, compile seconds and the milliseconds of a step per run, sample by sample.

    The samples are taken in turns, so that a slow minute of the machine hits all.
    """
    dataset, devices = random_data(config.train.batch_size), jax.devices()[:1]
    ops, _ = machine.operations(config.train.ops, devices)
    built: list[Programs] = []
    for seed in range(max(members)):
        like = built[0] if built else None
        built.append(Programs(configs.apply(config, {"seed": seed}), dataset, dtype, devices, like, ops))
    rows: list[dict[str, Any]] = []
    steps: list[Callable[[], Any]] = []
    for count in members:
        # A group of one is its own program all the same, so that only the number of members differs.
        group = Group(built[:count], [each.initial_state() for each in built[:count]])
        fields = {"depth": config.model.depth, "width": config.model.width, "dtype": dtype, "members": count}
        rows.append(fields | {"compile_seconds": group.compile(), "step_milliseconds": []})
        steps.append(group.advance)
    for number in range(repeats + 2):
        for row, step in zip(rows, steps, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(step())
            if number >= 2:  # the first ones warm up
                row["step_milliseconds"].append((time.perf_counter() - started) * 1e3 / row["members"])
    return rows


def run(
    config: ConfigDict,
    depths: Sequence[int],
    widths: Sequence[int],
    members: Sequence[int],
    dtype: str,
    repeats: int,
    json_file: Path | None,
) -> list[dict[str, Any]]:
    """Prints a table with a line per network and number of runs in one program, and returns the measurements."""
    found: list[dict[str, Any]] = []
    for depth in depths:
        for width in widths:
            sized = configs.apply(config, {"model.depth": depth, "model.width": width})
            found += measure(sized, dtype, members, repeats)
    lines, alone = [], 0.0
    for row in found:
        middle = median(row["step_milliseconds"])
        alone = middle if row["members"] == min(members) else alone
        network = (str(row["depth"]), str(row["width"]), str(row["members"]))
        lines.append((*network, f"{middle:.1f}", f"{middle / alone:.2f}", f"{row['compile_seconds']:.1f}"))
    print(f"training step, batch {config.train.batch_size}, {dtype}; milliseconds per run, median of {repeats}")
    print(table(("depth", "width", "runs in one program", "ms", "ratio", "compile (s)"), lines, text_columns=0))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))
    return found
