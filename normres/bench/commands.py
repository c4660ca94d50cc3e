"""The command line of the benchmarks.  jax is imported inside the commands, after machine.prepare has set its flags."""

import argparse
import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from normres.errors import UserError, nearest
from normres.runs import machine

# Of `bench step`.
CONTENDERS = ("normres", "scanned", "flax", "torch", "torch-default", "torch-reduce-overhead", "torch-max-autotune")
LEAST = {"norms": 7, "step": 5}  # samples of --repeats

# Each option's metavar, of which FILE and FOLDER are paths, and its help.
OPTIONS = {
    "norms": ("A,B", "which norms, or all"),
    "depths": ("A,B", "of the networks"),
    "orders": ("A,B", "rows of variants.py, or all"),
    "shortcuts": ("A,B", "rows of variants.py, or all"),
    "contenders": ("A,B", "who takes part, or all"),
    "parallel": ("A,B", "on several chips: jit, pmap (with sync_batch_norm) or all"),
    "dtypes": ("A,B", "of float32, bfloat16, float16 (only numerics), or all"),
    "dtype": ("DTYPE", "of the activations"),
    "shapes": ("NxHxWxC,...", "of the input"),
    "device": ("A,B", "tpu-GENERATION:TOPOLOGY, h100, or local"),
    "width": ("N", "of the first stage"),
    "batch": ("N", "examples"),
    "remat": ("ROW", "nothing, elementwise, loops, block or auto; see configs/base.py"),
    "repeats": ("N", "samples of each"),
    "minutes": ("N", "in all; what is left after the measurements is training"),
    "steps": ("N", "of each process, where several run at once"),
    "step": ("", "also run and time the step"),
    "path": ("PATH", "CIFAR-10's binary archive or folder; without it, the embedded images"),
    "torch": ("PYTHON", "a Python that imports torch; without it, this one if it does"),
    "before": ("FOLDER", "a checkout of another commit, to be timed beside"),
    "chart": ("FILE.png", "draw the numbers"),
    "markdown": ("FILE.md", "put the table between this page's markers"),
    "from": ("FILE", "measure nothing; show this --json file"),
    "json": ("FILE", "write the numbers to this file too"),
}
Defaults = dict[str, Any]  # of a benchmark's options; its type is the option's
SIZES: Defaults = {"width": 16, "batch": 128, "json": None}
SHOWN: Defaults = {"markdown": None, "from": None}
STEPS: Defaults = {"depths": "20,56,110", "repeats": 5, "torch": None, **SIZES, **SHOWN}


class Benchmark(NamedTuple):
    """A sub-command: what runs it, its summary, what `--help` says after the options, and its options' defaults."""

    run: Callable[[Namespace], None]
    summary: str
    details: str
    options: Defaults


def _numerics(options: Namespace) -> None:
    from normres.bench import numerics

    dtypes = chosen(options, "dtypes", numerics.DTYPES)
    numerics.run(chosen(options, "norms", numerics.NORMS), dtypes, options.torch, options.json)


def _norms(options: Namespace) -> None:
    from normres.bench import contenders, norms

    names = chosen(options, "norms", contenders.NORMS)
    if options.dtype not in norms.TOLERANCE:
        raise UserError(f"--dtype={options.dtype} does not exist; {nearest(options.dtype, norms.TOLERANCE)}")
    shapes = [integers("--shapes", shape, "x") for shape in options.shapes.split(",")]
    if any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
        raise UserError(f"--shapes={options.shapes}: write NxHxWxC, such as 128x32x32x16, and commas between shapes")
    norms.run(names, shapes, options.dtype, options.repeats, options.json)


def _step(options: Namespace) -> None:
    if options.before and not (options.before / "normres").is_dir():
        raise UserError(f"--before={options.before}: holds no folder normres")
    names = chosen(options, "contenders", CONTENDERS) if options.contenders else ("normres", "flax", "torch")
    from normres.bench.step import cells, measure, show, workers

    def measured() -> dict[str, Any]:
        depths, dtypes = integers("--depths", options.depths), chosen(options, "dtypes", cells.DTYPES)
        norms = chosen(options, "norms", cells.NORMS) if options.norms else None
        selected = cells.select(depths, dtypes, norms, options.batch, options.width)
        contenders, torch = workers.contenders(names, options.torch, options.before)
        if torch == workers.ABSENT and any(name.startswith("torch") for name in names):
            message = "no PyTorch here; --torch=PYTHON names a Python that has it"
            if options.contenders:
                raise UserError(f"--contenders={options.contenders}: {message}")
            print(f"{message}; its rows are left out", flush=True)
        conditions = measure.conditions(selected, contenders, torch, options.repeats, options.before)
        return measure.measure_all(selected, contenders, conditions, options.json)

    _show(options, show, measured)


def _accelerators(options: Namespace) -> None:
    from normres.bench import devices

    devices.prepare()
    from normres.bench import accelerators
    from normres.bench.step import cells

    def measured() -> dict[str, Any]:
        depths, norms = integers("--depths", options.depths), chosen(options, "norms", cells.NORMS)
        selected = cells.select(depths, [options.dtype], norms, options.batch, options.width)
        contenders = chosen(options, "contenders", accelerators.CONTENDERS)
        modes = chosen(options, "parallel", accelerators.MODES)
        return accelerators.run(options.device.split(","), selected, contenders, modes, options.json)

    _show(options, accelerators, measured)


def _device(options: Namespace) -> None:
    from normres.bench import on_device

    def measured() -> dict[str, Any]:
        if not options.json:
            raise UserError("--json=FILE is missing: where the measurements go")
        options.depths = integers("--depths", options.depths)
        return on_device.run(options)

    _show(options, on_device, measured)


def _show(options: Namespace, module: Any, measured: Callable[[], dict[str, Any]]) -> None:
    """Measures, or prints what --from says; draws it and puts it into a page, by the module's functions."""
    from normres.bench import output

    if source := getattr(options, "from"):
        document = output.read(source, *module.WRITTEN)
        print(module.text(document))
    else:
        document = measured()
    if getattr(options, "chart", None):
        module.draw(document, options.chart)
    if options.markdown:
        output.put_between_markers(options.markdown, options.benchmark, module.markdown(document))


def _compile(options: Namespace) -> None:
    from normres.bench import compile
    from normres.configs import base
    from normres.models import variants
    from normres.runs import config

    fields = {"model.remat": options.remat, "model.width": options.width, "train.dtype": options.dtype}
    fields |= dict.fromkeys(("train.batch_size", "train.eval_batch_size"), options.batch)
    orders, shortcuts = chosen(options, "orders", variants.ORDERS), chosen(options, "shortcuts", variants.SHORTCUTS)
    networks = [
        {"model.order": order, "model.shortcut": shortcut, "model.depth": depth, "model.unroll": unroll}
        for order, shortcut, depth in product(orders, shortcuts, integers("--depths", options.depths))
        # A deeper unrolled network takes the compiler minutes.
        for unroll in (("never", "always") if depth <= 110 else ("never",))
    ]
    applied, dtype = config.apply(base.get_config(), fields), machine.resolve_dtype(options.dtype)
    compile.run(applied, networks, dtype, options.step, options.json)


BENCHMARKS = {
    "numerics": Benchmark(
        _numerics,
        "Print each norm's error on hard inputs, beside Flax and PyTorch.",
        "Inputs are large means, constants, denormals, an infinity, ...  Takes a minute on two cores.\n\nexample:\n"
        "  normres bench numerics --norms=batch,layer --dtypes=float32 --torch=$HOME/torch/bin/python",
        {"norms": None, "dtypes": None, "torch": None, "json": None},
    ),
    "norms": Benchmark(
        _norms,
        "Time forward and backward of each norm, beside Flax.",
        "Outputs and gradients are compared, then both libraries are timed in turns.  Takes two minutes.\n\nexample:\n"
        "  normres bench norms --norms=batch --shapes=128x32x32x16,256x7x7x512 --dtype=float32 --repeats=31",
        {"norms": None, "shapes": "128x32x32x16,128x8x8x64", "dtype": "bfloat16", "repeats": 15, "json": None},
    ),
    "step": Benchmark(
        _step,
        "Time a whole training step beside stock Flax and PyTorch.",
        "Every contender has a process of its own, and nothing is timed if they compute different things.  With\n"
        "--json a killed command goes on.  By default normres, flax and torch are measured, with batch norm at\n"
        f"every depth and other norms at the first.  Contenders: {', '.join(CONTENDERS)}.\n\nexamples:\n"
        "  normres bench step --depths=20 --dtypes=bfloat16 --norms=batch\n"
        "  normres bench step --torch=$HOME/torch/bin/python --json=step.json --chart=step.png\n"
        "  normres bench step --from=docs/performance/step.json --markdown=docs/performance.md",
        {"dtypes": None, "norms": None, "contenders": None, "before": None, "chart": None} | STEPS,
    ),
    "accelerators": Benchmark(
        _accelerators,
        "Compile the training step for TPUs and GPUs that are not there, and count what it costs.",
        "Each kind of device has an environment of its own (make setup EXTRA=tpu, or EXTRA=cuda13).  With --json,\n"
        "other rows stay in the file, and what is there for this code is not compiled again.  Contenders are also\n"
        "unrolled and scanned.\n\nexamples:\n"
        "  normres bench accelerators --device=h100 --depths=20,56 --json=docs/accelerators/accelerators.json\n"
        "  normres bench accelerators --from=docs/accelerators/accelerators.json --markdown=docs/accelerators.md",
        {"device": "tpu-v5e:1x1", "depths": "20", "norms": "batch", "contenders": "normres,evaluation,flax,flax-data"}
        | {"parallel": "jit", "dtype": "bfloat16", "chart": None, **SIZES, **SHOWN},
    ),
    "device": Benchmark(
        _device,
        "Measure everything that only a real accelerator can say, in one file.",
        "Compares the device with the CPU, times the training step beside Flax and every mode of PyTorch, and several\n"
        "processes at once; then trains ResNet-20 by the whole recipe until the time is over.\n\nexamples:\n"
        "  normres bench device --path=cifar-10-binary.tar.gz --json=device.json\n"
        "  normres bench device --from=device.json --markdown=docs/accelerators.md",
        {"minutes": 9, "steps": 500, "path": ""} | STEPS,
    ),
    "compile": Benchmark(
        _compile,
        "Measure the training step's compile time and memory against depth.",
        "Up to depth 110 the unrolled network is measured, too.\n\nexample:\n"
        "  normres bench compile --depths=20,110 --orders=post,pre --shortcuts=A --step",
        {"depths": "20,110,1202", "orders": "post", "shortcuts": "A", "dtype": "auto", "remat": "auto", "step": False}
        | SIZES,
    ),
}


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Adds the sub-commands of `normres bench`; add(name, summary, epilog) makes a parser."""
    for name, benchmark in BENCHMARKS.items():
        parser = add(name, benchmark.summary, benchmark.details)
        for option, default in benchmark.options.items():
            metavar, text = OPTIONS[option]
            if default is False:
                parser.add_argument(f"--{option}", action="store_true", help=text)
                continue
            kind = Path if metavar.startswith(("FILE", "FOLDER")) else int if isinstance(default, int) else str
            text += f" (default {default})" if default else ""
            parser.add_argument(f"--{option}", type=kind, metavar=metavar, default=default, help=text)


def run(options: Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    benchmark = BENCHMARKS[options.benchmark]
    if left:
        known = [f"--{option}" for option in (*benchmark.options, "help")]
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], known)}")
    json, chart, page = (getattr(options, name, None) for name in ("json", "chart", "markdown"))
    for name, file in (("json", json), ("chart", chart)):
        if file and not file.parent.is_dir():
            raise UserError(f"--{name}={file}: there is no directory {file.parent}")
    if chart and chart.suffix != ".png":
        raise UserError(f"--chart={chart}: the name must end in .png")
    if page and not page.is_file():
        raise UserError(f"--markdown={page}: there is no such page")
    if options.benchmark in LEAST and options.repeats < LEAST[options.benchmark]:
        raise UserError(f"--repeats={options.repeats} must be at least {LEAST[options.benchmark]}")
    if options.benchmark in ("step", "device"):
        # A process that takes most of a GPU's memory at its start, as JAX's do, leaves none to the others.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.benchmark != "step":  # whose parent process computes nothing, and whose Flax must not get our flags
        machine.prepare()
    benchmark.run(options)
    return 0


def chosen(options: Namespace, option: str, choices: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in an option's list with commas; all choices for None or "all"."""
    argument, choices = getattr(options, option), tuple(choices)
    names = choices if argument in (None, "all") else tuple(argument.split(","))
    for name in names:
        if name not in choices:
            raise UserError(f"--{option}={argument}: {name!r} does not exist; {nearest(name, choices)}")
    return names


def integers(option: str, argument: str, separator: str = ",") -> tuple[int, ...]:
    """Returns the integers in a list with commas or another separator."""
    try:
        return tuple(int(number) for number in argument.split(separator))
    except ValueError:
        example = separator.join(("20", "110"))
        raise UserError(f"{option}={argument}: write integers and {separator!r} between them: {example}") from None
