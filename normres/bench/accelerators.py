"""`normres bench accelerators`: what the compilers of TPUs and GPUs say of a training step, beside stock Flax's.

No device is needed: the programs of `normres train`, data, augmentation and metrics included, are compiled and not run.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from normres.bench import devices, output, program
from normres.bench.step import flax_network
from normres.bench.step.cells import Cell
from normres.data import Dataset, augment
from normres.errors import UserError
from normres.report.paper import PAGE_INCHES, STYLE, VARIANTS
from normres.runs import config as configs
from normres.runs import machine
from normres.runs.durable import read_json
from normres.runs.provenance import provenance
from normres.training.programs import Programs

TRAINED, TESTED = 50_000, 10_000  # images, as CIFAR has

# The recipe's own data in place of the cells' of `bench step`, whose batch is ready-made.
FIELDS = {
    "data.preprocess": "pixel_mean",
    "data.augmentation": "crop_flip",
    "optim.schedule": "step",
    "optim.hold_from_depth": 110,
    "train.sync_batch_norm": True,
}

Row = dict[str, Any]
COLUMNS = (
    *("network", "program", "kernels", "MB moved", "MB by compiler", "estimate (ms)", "temporary (MB)"),
    *("arguments (MB)", "collectives", "compile (s)"),
)
MODES = ("jit", "pmap")
REFERENCE = "flax-data"  # of the chart
HEADER = """\
The device's real compiler compiles the programs; they are not run.  Of one optimizer step (evaluation: of one batch),
on one device:
  kernels         instructions that start one
  MB moved        what they read and write, counted here: a loop as often as it turns, of a lookup the rows it reads
  MB by compiler  the compiler's own count, in which a loop turns once
  estimate        the compiler's own, of a TPU's time
  temporary       memory beside arguments and results"""


def hollow(image: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> Dataset:
    """Returns a data set of CIFAR's size whose images take no memory, for programs that are not run."""

    def images(count: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), np.uint8), (count, *image))

    labels = [np.zeros(count, np.int32) for count in (TRAINED, TESTED)]
    names = tuple(map(str, range(classes)))
    return Dataset("cifar10", "hollow", images(TRAINED), labels[0], images(TESTED), labels[1], names)


def programs(config: ConfigDict, of: Sequence[Any], dtype: str) -> Programs:
    """Returns the programs of a run with this config on these devices."""
    return Programs(config, hollow(), dtype, list(of), ops=machine.operations(config.train.ops, of)[0])


def _own(name: str, **fields: Any) -> Callable[[Cell, ConfigDict, Sequence[Any]], Any]:
    """Returns what lowers a program of ours, with these fields of the config."""
    return lambda cell, config, of: programs(configs.apply(config, fields), of, cell.dtype).lower(name)


def _flax(with_data: bool) -> Callable[[Cell, ConfigDict, Sequence[Any]], Any]:
    """Returns what lowers stock Flax's step: on a batch ready-made, or with our lookup and augmentation."""

    def lower(cell: Cell, config: ConfigDict, of: Sequence[Any]) -> Any:
        ours = programs(config, of, cell.dtype)
        network, optimizer, step = flax_network.training(cell.spec())
        variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        state = ours.everywhere((variables, jax.eval_shape(optimizer.init, variables["params"])))
        labels = jax.ShapeDtypeStruct((cell.batch,), np.int32, sharding=ours.sharded)

        def looking_up(variables: Any, momenta: Any, number: Any, data: Any, indices: Any) -> Any:
            images, targets = augment.training_batch(config, number, data, indices)
            return step(variables, momenta, images, targets.labels)

        if not with_data:
            images = jax.ShapeDtypeStruct((cell.batch, 32, 32, 3), np.float32, sharding=ours.sharded)
            return jax.jit(step, donate_argnums=(0, 1)).lower(*state, images, labels)
        data = ours.everywhere((np.int32(0), ours.arrays("train")))
        return jax.jit(looking_up, donate_argnums=(0, 1)).lower(*state, *data, labels)

    return lower


# What is compiled: its title, and f(cell, config, devices) -> the lowered program.
CONTENDERS: dict[str, tuple[str, Callable[[Cell, ConfigDict, Sequence[Any]], Any]]] = {
    "normres": ("normres", _own("train")),
    "evaluation": ("normres, evaluation", _own("evaluate")),
    "flax": ("Flax", _flax(with_data=False)),
    "flax-data": ("Flax, same data", _flax(with_data=True)),
    "unrolled": ("normres, unrolled", _own("train", **{"model.unroll": "always"})),
    "scanned": ("normres, scanned", _own("train", **{"model.unroll": "never"})),
}


def measure(device: str, parallel: str, cell: Cell, contender: str) -> Row:
    """Compiles one program, and returns what it costs, see program.cost, and the seconds that compiling took."""
    of = devices.find(device)
    config = configs.apply(cell.config(), FIELDS | {"train.parallel": parallel})
    began = time.perf_counter()
    compiled = CONTENDERS[contender][1](cell, config, of).compile()
    seconds = time.perf_counter() - began
    return program.cost(compiled) | {"compile_seconds": seconds, "chips": len(of)}


def keys(row: Row) -> tuple[Any, ...]:
    """Returns what tells rows apart."""
    return tuple(row[name] for name in ("device", "parallel", "depth", "norm", "dtype", "batch", "width", "contender"))


def run(
    names: Sequence[str], cells: Sequence[Cell], contenders: Sequence[str], modes: Sequence[str], json: Path | None
) -> dict[str, Any]:
    """Compiles what is not in the file yet for this code, prints it, and returns the document.

    Rows of other devices stay in the file, as each kind of device has an environment of its own.
    """
    code = digest_of_subject()
    rows = {keys(row): row for row in read(json)["rows"]} if json and json.exists() else {}
    print(HEADER, flush=True)
    every = {name: len(devices.find(name)) for name in names}  # first of all, what cannot be compiled for
    for device, cell, contender in product(names, cells, contenders):
        for mode in modes if every[device] > 1 else ("jit",):
            row: Row = {"device": device, "parallel": mode, "contender": contender} | asdict(cell)
            if rows.get(keys(row), {}).get("code") != code:
                row |= measure(device, mode, cell, contender)
                row |= {"code": code, "jax": jax.__version__, "commit": provenance()["commit"]}
                rows[keys(row)] = row
                output.write(json, {"rows": list(rows.values())})
                print(f"{name_of(row)}, {contender}: {row['compile_seconds']:.0f} s to compile", flush=True)
    print(f"\n{table(list(rows.values()))}")
    return {"rows": list(rows.values()), "provenance": provenance()}


def digest_of_subject() -> str:
    """Returns a digest of the code that a training step consists of, and of what counts its costs."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for part in ("norms", "layers", "models", "data", "training"):
        for file in sorted((root / part).glob("*.py")):
            digest.update(file.read_bytes())
    digest.update(Path(program.__file__).read_bytes())
    return digest.hexdigest()[:16]


def read(file: Path) -> dict[str, Any]:
    """Reads what run wrote; anything else is a UserError."""
    document = read_json(file)
    if not (isinstance(document, dict) and document.get("rows") and "kernels" in document["rows"][0]):
        raise UserError(f"{file}: no measurements of `normres bench accelerators`")
    return document


def name_of(row: Row) -> str:
    """Returns what was compiled for which device, in words."""
    where = f"{row['device']}{', ' + row['parallel'] if row['chips'] > 1 else ''}"
    return f"{where}: ResNet-{row['depth']}, {row['norm']} norm"


def cells_of(row: Row) -> tuple[str, ...]:
    """Returns a row's texts, see COLUMNS."""
    collectives = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items())
    estimate = row["estimate_ms"]
    return (
        name_of(row),
        CONTENDERS[row["contender"]][0],
        f"{row['kernels']:,}",
        f"{row['bytes'] / 1e6:,.0f}",
        f"{row['bytes_by_compiler'] / 1e6:,.0f}" if row["bytes_by_compiler"] else output.NOTHING,
        f"{estimate:.3f}" if estimate else output.NOTHING,
        f"{row['temporary_bytes'] / 1e6:,.0f}",
        f"{row['argument_bytes'] / 1e6:,.0f}",
        collectives or output.NOTHING,
        f"{row['compile_seconds']:.0f}",
    )


def table(rows: Sequence[Row], markdown: bool = False) -> str:
    """Returns the rows as a table, sorted by device, norm and depth."""
    ordered = sorted(rows, key=lambda row: (row["device"], row["parallel"], row["norm"], row["depth"]))
    return output.table(COLUMNS, [cells_of(row) for row in ordered], text_columns=2, markdown=markdown)


def markdown(document: dict[str, Any]) -> str:
    """Returns the table for a page, with what it was measured with above it."""
    rows = document["rows"]
    commits = sorted({(row["commit"] or "unknown")[:12] for row in rows})
    sizes = sorted({f"batch {row['batch']}, width {row['width']}, {row['dtype']}" for row in rows})
    versions = ", ".join(sorted({row["jax"] for row in rows}))
    return f"{'; '.join(sizes)}; jax {versions}; commit {', '.join(commits)}.\n\n{table(rows, markdown=True)}\n"


def draw(document: dict[str, Any], file: Path) -> None:
    """Writes a PNG: bytes and kernels of each network's step, relative to stock Flax's with the same data."""
    by_network: dict[str, dict[str, Row]] = {}
    for row in document["rows"]:
        by_network.setdefault(name_of(row), {})[row["contender"]] = row
    networks = {name: rows for name, rows in by_network.items() if {"normres", REFERENCE} <= set(rows)}
    if not networks:
        raise UserError(f"--chart={file}: no network has both normres and {REFERENCE}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_INCHES, 0.8 + 0.22 * len(networks)), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, measured, title in zip(panels, ("bytes", "kernels"), ("bytes moved", "kernels"), strict=True):
            for number, contender in enumerate(("normres", "flax")):
                colour, marker, _ = VARIANTS[number]
                values = [
                    rows[contender][measured] / rows[REFERENCE][measured] if contender in rows else math.nan
                    for rows in networks.values()
                ]
                axes.plot(
                    values, range(len(networks)), marker, color=colour, label=CONTENDERS[contender][0], linestyle="none"
                )
            axes.axvline(1, color="0.7", linewidth=0.6, zorder=0)
            axes.set_xlabel(f"{title} ({CONTENDERS[REFERENCE][0]} = 1)")
        panels[0].set_xlim(left=0)
        panels[0].set_yticks(range(len(networks)), networks)
        panels[0].invert_yaxis()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        figure.savefig(file, dpi=200, metadata={"Software": None})
