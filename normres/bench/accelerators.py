"""`normres bench accelerators`: what the compilers of TPUs and GPUs say of a training step, beside stock Flax's.

No device is needed: the programs of `normres train`, data, augmentation and metrics included, are compiled and not run.
"""

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import normres
from normres.bench import devices, output, program
from normres.bench.step import flax_network
from normres.bench.step.cells import Cell
from normres.data import Dataset, augment
from normres.runs import machine
from normres.runs.provenance import provenance
from normres.training.programs import Programs

TRAINED, TESTED = 50_000, 10_000  # images, as CIFAR has

# What is compiled: its title, and a program of ours with these fields of the config; None: stock Flax's training step.
CONTENDERS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "normres": ("normres", "train", {}),
    "evaluation": ("normres, evaluation", "evaluate", {}),
    "flax": ("Flax", None, {}),
    "flax-data": ("Flax, same data", None, {}),
    "unrolled": ("normres, unrolled", "train", {"model.unroll": "always"}),
    "scanned": ("normres, scanned", "train", {"model.unroll": "never"}),
}
MODES = ("jit", "pmap")

COLUMNS = (
    *("network", "program", "kernels", "MB moved", "MB by compiler", "estimate (ms)", "temporary (MB)"),
    *("arguments (MB)", "collectives", "compile (s)"),
)
WRITTEN = ("accelerators", {"rows"})  # see output.read
HEADER = """\
The device's real compiler compiles the programs; they are not run.  Of one optimizer step (evaluation: of one batch),
on one device:
  kernels         instructions that start one
  MB moved        what they read and write, counted here: a loop as often as it turns, of a lookup the rows it reads
  MB by compiler  the compiler's own count, in which a loop turns once
  estimate        the compiler's own, of a TPU's time
  temporary       memory beside arguments and results"""

Row = dict[str, Any]


def hollow(image: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> Dataset:
    """Returns a data set of CIFAR's size whose images take no memory, for programs that are not run."""

    def images(count: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), np.uint8), (count, *image))

    labels = [np.zeros(count, np.int32) for count in (TRAINED, TESTED)]
    names = tuple(map(str, range(classes)))
    return Dataset("cifar10", "hollow", images(TRAINED), labels[0], images(TESTED), labels[1], names)


def lower_flax(cell: Cell, ours: Programs, with_data: bool) -> Any:
    """Lowers stock Flax's step: on a batch ready-made or, with data, with the lookup and augmentation of ours."""
    network, optimizer, step = flax_network.training(cell.spec())
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state = ours.everywhere((variables, jax.eval_shape(optimizer.init, variables["params"])))
    labels = jax.ShapeDtypeStruct((cell.batch,), np.int32, sharding=ours.sharded)
    if not with_data:
        images = jax.ShapeDtypeStruct((cell.batch, 32, 32, 3), np.float32, sharding=ours.sharded)
        return jax.jit(step, donate_argnums=(0, 1)).lower(*state, images, labels)

    def looking_up(variables: Any, momenta: Any, number: Any, data: Any, indices: Any) -> Any:
        images, targets = augment.training_batch(ours.config, number, data, indices)
        return step(variables, momenta, images, targets.labels)

    data = ours.everywhere((np.int32(0), ours.arrays("train")))
    return jax.jit(looking_up, donate_argnums=(0, 1)).lower(*state, *data, labels)


def measure(device: str, parallel: str, cell: Cell, contender: str) -> Row:
    """Compiles one program, and returns what it costs, see program.cost, and the seconds that compiling took."""
    of = devices.find(device)
    _, name, fields = CONTENDERS[contender]
    config = cell.config({"train.parallel": parallel} | fields)
    ours = Programs(config, hollow(), cell.dtype, of, ops=machine.operations(config.train.ops, of)[0])
    began = time.perf_counter()
    lowered = ours.lower(name) if name else lower_flax(cell, ours, with_data=contender == "flax-data")
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    return program.cost(compiled) | {"compile_seconds": seconds, "chips": len(of)}


def run(
    names: Sequence[str], cells: Sequence[Cell], contenders: Sequence[str], modes: Sequence[str], json: Path | None
) -> None:
    """Compiles what is not in the file yet for this code, and prints it.

    Rows of other devices stay in the file, as each kind of device has an environment of its own.
    """
    code = {"code": output.digest(Path(normres.__file__).parent), "jax": jax.__version__}
    rows: list[Row] = output.read(json, *WRITTEN)["rows"] if json and json.exists() else []
    print(HEADER, flush=True)
    chips = {name: len(devices.find(name)) for name in names}  # first of all, what cannot be compiled for
    for device, cell, contender in product(names, cells, contenders):
        for mode in modes if chips[device] > 1 else ("jit",):
            key = {"device": device, "parallel": mode, "contender": contender} | cell._asdict()
            if any((key | code).items() <= row.items() for row in rows):
                continue
            rows = [row for row in rows if not key.items() <= row.items()]
            row = key | measure(device, mode, cell, contender) | code | {"commit": provenance()["commit"]}
            rows.append(row)
            output.write(json, {"rows": rows})
            print(f"{name_of(row)}, {contender}: {row['compile_seconds']:.0f} s to compile", flush=True)
    print(f"\n{text({'rows': rows})}")


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows sorted by device, mode, norm, depth and contender."""
    first, contenders = ("device", "parallel", "norm", "depth"), list(CONTENDERS)
    return sorted(rows, key=lambda row: (*(row[key] for key in first), contenders.index(row["contender"])))


def name_of(row: Row) -> str:
    """Returns what was compiled for which device, in words."""
    where = f"{row['device']}{', ' + row['parallel'] if row['chips'] > 1 else ''}"
    usual = {"batch": 128, "width": 16, "dtype": "bfloat16"}
    others = "".join(f", {name} {row[name]}" for name, value in usual.items() if row.get(name, value) != value)
    return f"{where}: ResNet-{row['depth']}, {row['norm']} norm{others}"


def text(document: dict[str, Any], markdown: bool = False) -> str:
    """Returns the rows as a table."""
    texts = []
    for row in in_order(document["rows"]):
        collectives = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items()) or output.NOTHING
        moved = (output.text(row[key], unit=1e6) for key in ("bytes", "bytes_by_compiler"))
        memory = (output.text(row[key], unit=1e6) for key in ("temporary_bytes", "argument_bytes"))
        cost = (output.text(row["kernels"]), *moved, output.text(row["estimate_ms"], ".3f"), *memory, collectives)
        names = (name_of(row), CONTENDERS[row["contender"]][0])
        texts.append((*names, *cost, output.text(row["compile_seconds"])))
    return output.table(COLUMNS, texts, text_columns=2, markdown=markdown)
