"""`normres plan`: whether a run fits a device that need not be there, what a step costs, and what would change it."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.bench import devices, output, program
from normres.bench.accelerators import hollow
from normres.data import Dataset
from normres.data.lazy import LazyImages, device_memory
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import machine
from normres.runs.sweep import Arm
from normres.show.commands import image_and_classes
from normres.training import limits
from normres.training.networks import count_parameters
from normres.training.programs import Programs
from normres.training.traced import shape_of

# Bytes of a chip's memory, of which a TPU's compiler keeps a part to itself.
MEMORY = {"tpu-v4": 32e9, "tpu-v5e": 16e9, "tpu-v5p": 95e9, "tpu-v6e": 32e9, "h100": 84_978_434_048}
IMAGENET_IMAGES = 1_281_167
TIMED = 5  # steps, of which the first is not counted

# What a user could change, as fields of the config.
CHANGES = ("", "model.remat=elementwise", "model.remat=block", "data.stream=always")
SIZES = ("argument_bytes", "temporary_bytes", "in_all")
HEADER = ("", "arguments (MB)", "temporary (MB)", "in all (MB)", "fits", "kernels", "MB moved", "estimate (ms)")


def dataset(config: ConfigDict, streamed: bool) -> Dataset:
    """Returns a data set of the size that a run with this config has, whose images are nowhere."""
    image, classes = image_and_classes(config)
    made = hollow(image, classes)
    if config.data.source == "photographs":
        return replace(made, styles=np.zeros((classes, *image), np.uint8))
    if not streamed:
        return made
    count = IMAGENET_IMAGES if config.model.layout == "imagenet" else len(made.train_labels)
    records = SimpleNamespace(__getitems__=list)
    lazy = LazyImages(records, np.arange(count), lambda record: np.zeros(image, np.uint8), image, "planned", Path())
    return Dataset(made.name, made.source, lazy, np.zeros(count, np.int32), lazy, made.test_labels, made.class_names)


def programs(config: ConfigDict, of: list[Any], change: str = "") -> Programs:
    """Returns the programs of a run on these devices, without the mean image, which takes little memory."""
    streamed = change == "data.stream=always" or config.data.stream == "always" or config.model.layout == "imagenet"
    field, _, value = change.partition("=")
    fields = {field: value} if field.startswith("model.") else {}
    fields |= {"data.preprocess": "none", "data.stream": "auto"}  # the source need not be one that can be streamed
    dtype = "bfloat16" if config.train.dtype == "auto" else config.train.dtype
    if of == jax.devices():
        dtype = machine.resolve_dtype(config.train.dtype)
    ops, _ = machine.operations(config.train.ops, of)
    built = Programs(configs.apply(config, fields), dataset(config, streamed), dtype, of, ops=ops)
    limits.refuse_large_batch(config, built.sizes["train"])
    return built


def measured(run: Programs, memory: float) -> dict[str, Any]:
    """Compiles the training step, and returns program.cost, bytes "in_all", and whether they "fit" the memory.

    Of a program that the compiler refuses, "refused" says why, and numbers are None.
    """
    try:
        compiled = run.lower("train").compile()
    except jax.errors.JaxRuntimeError as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        return dict.fromkeys((*SIZES, "kernels", "bytes", "estimate_ms")) | {"fit": "no", "refused": reason}
    sizes: Any = compiled.memory_analysis()
    in_all = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    in_all += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return program.cost(compiled) | {"in_all": in_all, "fit": "yes" if in_all < memory else "no"}


def seconds_of_a_step(run: Programs) -> float:
    """Returns the median of some training steps on the devices at hand; every image is black."""
    state, times = run.initial_state(), []
    for number in range(TIMED):
        began = time.perf_counter()
        state = jax.block_until_ready(run.train(state, number)[0])
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def find(device: str) -> tuple[list[Any], float, str]:
    """Returns the devices of that name, the bytes of memory that each has, and both in words."""
    of = devices.find(device)
    memory = device_memory() if device == devices.LOCAL else MEMORY.get(device.partition(":")[0])
    if memory is None:
        raise UserError(f"--device={device}: its memory is not known here; known: {', '.join(MEMORY)}")
    return of, memory, f"on {len(of)} x {device} of {memory / 1e9:.0f} GB\n"


def run_sweep(arms: Sequence[Arm], device: str) -> None:
    """Prints what each arm of a sweep costs on a device, and all together; arms of one shape are compiled once."""
    of, memory, where = find(device)
    shapes: dict[Any, list[Arm]] = {}
    for arm in arms:
        shapes.setdefault(shape_of(arm.config), []).append(arm)
    print(f"{len(arms)} arms of {len(shapes)} shapes, {where}")
    rows, totals, largest = [], list[float | None](), 0.0
    for first, *others in shapes.values():
        built = programs(first.config, of)
        cost = measured(built, memory)
        milliseconds = 1e3 * seconds_of_a_step(built) if device == devices.LOCAL else cost["estimate_ms"]
        total = milliseconds and milliseconds / 3.6e6 * first.config.train.steps * (1 + len(others))
        parameters = count_parameters(built.state_shapes().params)
        sizes = (f"{1 + len(others)}", f"{parameters:,}", output.text(cost["in_all"], unit=1e6), cost["fit"])
        rows.append((first.label, *sizes, output.text(milliseconds, ".1f"), output.text(total, ".2f")))
        totals.append(total)
        largest = max(largest, cost["in_all"] or math.inf)
    fit = "no" if any(row[4] == "no" for row in rows) else "yes"
    sizes = (f"{len(arms)}", "", output.text(largest, unit=1e6), fit)
    hours = None if None in totals else sum(filter(None, totals))
    together = ("together", *sizes, "", output.text(hours, ".2f"))
    print(output.table(("first arm", "arms", "parameters", "MB", "fits", "ms a step", "hours"), [*rows, together]))
    how = f"the median of {TIMED - 1} steps here" if device == devices.LOCAL else "the compiler's estimate"
    print(f"\nms a step: {how}; hours: of all these arms, one after the other, without compiling and evaluating")


def run(path: str, overrides: dict[str, Any], device: str) -> None:
    """Prints what a run with a config costs on a device, and with each of CHANGES that its network has."""
    config = configs.load(path, overrides)
    of, memory, where = find(device)
    built = programs(config, of)
    print(f"{type(built.network).__name__}, batch {config.train.batch_size}, {where}")
    state = built.state_shapes()
    trees = {"parameters": state.params, "running statistics": state.batch_stats, "optimizer": state.opt_state}
    trees |= {"data set": built.arrays("train")}
    parts = [(name, output.text(limits.size_of(tree), ",.1f", 1e6)) for name, tree in trees.items()]
    print(output.table(("on each device", "MB"), parts))
    rows, refusals = [], []
    for change in CHANGES:
        if "remat" in change and not hasattr(built.model, "remat"):
            continue
        if "stream" in change and (config.model.layout == "imagenet" or config.data.source == "photographs"):
            continue  # it is streamed anyway, or cannot be
        cost = measured(programs(config, of, change), memory)
        sizes = (output.text(cost[key], ",.1f", 1e6) for key in SIZES)
        moved = (output.text(cost["kernels"]), output.text(cost["bytes"], unit=1e6))
        texts = (*sizes, cost["fit"], *moved, output.text(cost["estimate_ms"], ".2f"))
        rows.append((change or "as configured", *texts))
        refusals += [f"{change}: {cost['refused']}"] if "refused" in cost else []
    print(f"\n{output.table(HEADER, rows)}")
    for refusal in refusals:
        print(refusal)
    if device == devices.LOCAL:
        print(f"\na step takes {1e3 * seconds_of_a_step(built):.1f} ms here, the median of {TIMED - 1}")
