"""`normres bench compile`: compile time and memory of a training step against depth, beside the unrolled network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from normres.bench import output
from normres.bench.step.cells import random_batch
from normres.bench.step.own import programs, seconds_of_steps
from normres.runs import config as configs
from normres.runs import machine

HEADER = ("order", "shortcut", "blocks", "depth", "compile (s)", "ratio", "memory (MB)", "step (s)")


def measure(config: ConfigDict, dtype: str, step: bool) -> dict[str, Any]:
    """Returns seconds of tracing and compiling, MB of activations, and, if `step`, seconds of a steady step."""
    run, operations = programs(config, *random_batch(config.train.batch_size), dtype)
    run.initial_state()  # the first compilation starts the compiler
    memory: Any = run.compile().memory_analysis()
    machine.return_freed_memory()
    return {
        **{field: config.model[field] for field in ("depth", "order", "shortcut")},
        "unrolled": run.model.unrolled,
        "remat": run.model.remat,
        "ops": operations,
        "compile_seconds": run.compile_seconds,
        "activation_megabytes": memory.temp_size_in_bytes / 2**20,
        "step_seconds": min(seconds_of_steps(run, 4)) if step else None,
    }


def run(config: ConfigDict, networks: Iterable[dict[str, Any]], dtype: str, step: bool, json: Path | None) -> None:
    """Measures the config with the fields of each network, and prints a table."""
    rows, lines = [], []
    first: dict[tuple[str, str], float] = {}  # seconds of the first depth
    for network in networks:
        row = measure(configs.apply(config, network), dtype, step)
        rows.append(row)
        seconds, names = row["compile_seconds"], (row["order"], row["shortcut"])
        blocks, depth = "unrolled" if row["unrolled"] else "scanned", str(row["depth"])
        print(f"ResNet-{depth}, {', '.join(names)}, {blocks}: {seconds:.2f} s to compile", flush=True)
        ratio, memory = seconds / first.setdefault(names, seconds), row["activation_megabytes"]
        steady = f"{row['step_seconds']:.3f}" if step else output.NOTHING
        lines.append((*names, blocks, depth, f"{seconds:.2f}", f"{ratio:.2f}", f"{memory:,.0f}", steady))
    sizes = f"batch {config.train.batch_size}, width {config.model.width}, {dtype}"
    print(f"\ntraining step, {sizes}; memory is the program's; ratio: to the compile time of the first depth")
    print(output.table(HEADER, lines, text_columns=3))
    output.write(json, {"networks": rows})
