"""Compile time and memory of a training step against depth, beside the unrolled network."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.data import Dataset
from normres.runs import config as configs
from normres.runs import machine
from normres.training.programs import Programs

UNROLLED_DEPTH = 110  # a deeper one takes the compiler minutes
MEGABYTE = 2**20


def random_data(batch_size: int) -> Dataset:
    """Returns random images, enough for a batch: what is measured here does not depend on them."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, 32, 32, 3)).astype(np.uint8)
    labels = random.integers(0, 10, batch_size).astype(np.int32)
    return Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))


def measure(config: ConfigDict, dtype: str, step: bool = True) -> dict[str, Any]:
    """Returns seconds of tracing and compiling, MB of activations, and, if `step`, seconds of a steady step."""
    devices = jax.devices()[:1]
    ops, in_words = machine.operations(config.train.ops, devices)
    programs = Programs(config, random_data(config.train.batch_size), dtype, devices, ops=ops)
    state = programs.initial_state()
    jax.block_until_ready(state)
    analysis: Any = programs.compile(state).memory_analysis()
    found = {
        "depth": config.model.depth,
        "order": config.model.order,
        "shortcut": config.model.shortcut,
        "unrolled": programs.model.unrolled,
        "remat": programs.model.remat,
        "ops": in_words,
        "compile_seconds": programs.compile_seconds,
        "activation_megabytes": analysis.temp_size_in_bytes / MEGABYTE,
        "step_seconds": None,
    }
    if step:
        times = []
        for number in range(4):
            started = time.perf_counter()
            state, metrics = programs.train(state, number)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - started)
        found["step_seconds"] = min(times[1:])
    return found


def run(
    config: ConfigDict,
    depths: Iterable[int],
    orders: Iterable[str],
    shortcuts: Iterable[str],
    dtype: str,
    step: bool,
    unrolled: bool,
    json_file: Path | None,
) -> list[dict[str, Any]]:
    """Prints a line per network, with its compile time over that of the first depth, and returns them."""
    print(
        f"training step, batch {config.train.batch_size}, width {config.model.width}, {dtype}; memory is the program's"
    )
    print(f"{'order':<22}{'shortcut':<16}{'depth':>6} {'':<10}{'compile':>10}{'ratio':>7}{'memory':>11}{'step':>10}")
    measure(configs.apply(config, {"model.depth": 8}), dtype, step=False)  # the first compilation starts the compiler
    rows: list[dict[str, Any]] = []
    for order in orders:
        for shortcut in shortcuts:
            first = None
            for depth in depths:
                for unroll in (False, True) if unrolled and depth <= UNROLLED_DEPTH else (False,):
                    fields = {"model.depth": depth, "model.order": order, "model.shortcut": shortcut}
                    fields["model.unroll"] = "always" if unroll else "never"
                    row = measure(configs.apply(config, fields), dtype, step)
                    rows.append(row)
                    first = first or row["compile_seconds"]
                    steady = f"{row['step_seconds']:.3f} s" if step else "–"
                    print(
                        f"{order:<22}{shortcut:<16}{depth:>6} {'unrolled' if unroll else 'scanned':<10}"
                        f"{row['compile_seconds']:>8.2f} s{row['compile_seconds'] / first:>7.2f}"
                        f"{row['activation_megabytes']:>8,.0f} MB{steady:>10}",
                        flush=True,
                    )
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1))
    return rows
