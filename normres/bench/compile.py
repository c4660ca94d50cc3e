"""`normres bench compile`: compile time and memory of a training step against depth, beside the unrolled network."""

import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench import output
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
    state = jax.block_until_ready(programs.initial_state())
    analysis: Any = programs.compile(state).memory_analysis()
    times = []
    for number in range(4 if step else 0):
        started = time.perf_counter()
        state, metrics = programs.train(state, number)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - started)
    return {
        "depth": config.model.depth,
        "order": config.model.order,
        "shortcut": config.model.shortcut,
        "unrolled": programs.model.unrolled,
        "remat": programs.model.remat,
        "ops": in_words,
        "compile_seconds": programs.compile_seconds,
        "activation_megabytes": analysis.temp_size_in_bytes / MEGABYTE,
        "step_seconds": min(times[1:]) if step else None,
    }


def run(
    config: ConfigDict,
    depths: Iterable[int],
    orders: Iterable[str],
    shortcuts: Iterable[str],
    dtype: str,
    *,
    step: bool,
    unrolled: bool,
    json: Path | None,
) -> list[dict[str, Any]]:
    """Measures every network, prints a table, and returns the measurements; `unrolled` adds unrolled networks."""
    measure(configs.apply(config, {"model.depth": 8}), dtype, step=False)  # the first compilation starts the compiler
    rows, lines = [], []
    for order, shortcut in product(orders, shortcuts):
        first = None
        for depth, unroll in product(depths, (False, True) if unrolled else (False,)):
            if unroll and depth > UNROLLED_DEPTH:
                continue
            fields = {"model.depth": depth, "model.order": order, "model.shortcut": shortcut}
            fields["model.unroll"] = "always" if unroll else "never"
            row = measure(configs.apply(config, fields), dtype, step)
            rows.append(row)
            seconds, memory = row["compile_seconds"], row["activation_megabytes"]
            first = first or seconds
            steady = f"{row['step_seconds']:.3f}" if step else output.NOTHING
            blocks = "unrolled" if unroll else "scanned"
            lines.append(
                (
                    order,
                    shortcut,
                    blocks,
                    str(depth),
                    f"{seconds:.2f}",
                    f"{seconds / first:.2f}",
                    f"{memory:,.0f}",
                    steady,
                )
            )
            print(f"ResNet-{depth}, {order}, {shortcut}, {blocks}: {seconds:.2f} s to compile", flush=True)
    sizes = f"batch {config.train.batch_size}, width {config.model.width}, {dtype}"
    print(f"\ntraining step, {sizes}; memory is the program's; ratio: to the compile time of the first depth")
    header = ("order", "shortcut", "blocks", "depth", "compile (s)", "ratio", "memory (MB)", "step (s)")
    print(output.table(header, lines, text_columns=3))
    output.write(json, {"rows": rows})
    return rows
