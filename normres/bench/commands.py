"""The command line of the benchmarks.  jax is imported inside the commands, after machine.prepare has set its flags."""

import argparse
import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

from normres.errors import UserError, nearest
from normres.runs import machine

NUMERICS = """\
Prints a table for each norm and dtype: a row per input (large means, constants, denormals, an infinity, ...), a column
per contender; then where Flax or PyTorch is better.  A minute on two cores.

example:
  normres bench numerics --norms=batch,layer --dtypes=float32 --torch=$HOME/torch/bin/python --json=numerics.json"""

NORMS = """\
Outputs and gradients are compared, then both libraries are timed in turns under the flags of a training run.  Two
minutes on two cores.

example:
  normres bench norms --norms=batch --shapes=128x32x32x16,256x7x7x512 --dtype=float32 --repeats=31"""

STEP = """\
Every contender runs in a process of its own, as its users start it: normres with the flags of a training run, Flax with
those of your environment.  Losses, gradients and updates are compared; nothing is timed if they differ.  Then all are
timed in turns.  The default cells are batch norm at every depth and the other norms at the first one, in both dtypes.
With --json each cell is written when it is done, and the same command goes on where it was killed if code, machine and
options are the same.

examples:
  normres bench step --depths=20 --dtypes=bfloat16 --norms=batch
  normres bench step --torch=$HOME/torch/bin/python --json=step.json --chart=step.png
  normres bench step --from=docs/performance/step.json --chart=step.png --markdown=docs/performance.md"""

COMPILE = """\
Prints a line for each order, shortcut and depth: seconds to trace and compile the training step, how many times those
of the first depth, and the memory of the step's activations; up to depth 110 the unrolled network beside it.

examples:
  normres bench compile --depths=20,110 --orders=post,pre --shortcuts=A --step
  normres bench compile --depths=1202 --batch=128 --remat=block --step"""

ACCELERATORS = """\
Compiles the training and the evaluation step of `normres train`, and stock Flax's, for devices that need not be there.
Each kind of device has an environment of its own (make setup EXTRA=tpu, or EXTRA=cuda13); with --json, rows of other
devices stay in the file, and those that are there for this code are not compiled again.  A TPU's compiler takes one to
five minutes a program.

examples:
  normres bench accelerators --device=h100 --depths=20,56 --json=docs/accelerators/accelerators.json
  normres bench accelerators --from=docs/accelerators/accelerators.json --markdown=docs/accelerators.md"""

DEVICE = """\
Compares the accelerator at hand with the CPU, times the training step beside Flax and every mode of PyTorch, unrolled
and scanned, and several processes at once; then trains ResNet-20 by the whole recipe until the time is over.
`make accelerator` runs it.

examples:
  normres bench device --path=cifar-10-binary.tar.gz --json=device.json
  normres bench device --from=device.json --markdown=docs/accelerators.md"""

# Of `bench step`.
CONTENDERS = ("normres", "scanned", "flax", "torch", "torch-default", "torch-reduce-overhead", "torch-max-autotune")
LEAST = {"norms": 7, "step": 5}  # samples of --repeats

# "--OPTION=METAVAR": (default, help).  The default's type is the option's; one of FOLDER and FILE is a path.
Options = dict[str, tuple[Any, str]]
COMMON: Options = {"--json=FILE": (None, "write the numbers to this file too")}
TORCH: Options = {"--torch=PYTHON": (None, "a Python that imports torch (default: this, if it does)")}
SIZES: Options = {"--width=N": (16, "of the first stage"), "--batch=N": (128, "examples")}
SHOWN: Options = {
    "--chart=FILE.png": (None, "draw the numbers"),
    "--markdown=FILE.md": (None, "put the table between this page's markers"),
    "--from=FILE": (None, "measure nothing; show this --json file"),
}
OPTIONS: dict[str, Options] = {
    "numerics": {
        "--norms=A,B": (None, "which norms (default: all that standardize)"),
        "--dtypes=A,B": (None, "which of float32, bfloat16, float16 (default: all)"),
        **TORCH,
    },
    "norms": {
        "--norms=A,B": (None, "which norms (default: all that Flax has)"),
        "--shapes=NxHxWxC,...": ("128x32x32x16,128x8x8x64", "of the input"),
        "--dtype=DTYPE": ("bfloat16", "of input and output"),
        "--repeats=N": (15, "samples of each, 7 or more"),
    },
    "step": {
        "--depths=A,B": ("20,56,110", "of the networks"),
        "--dtypes=A,B": (None, "default: float32,bfloat16"),
        "--norms=A,B": (None, "of batch, group, layer, instance at every depth, or all"),
        "--contenders=A,B": (None, f"of {', '.join(CONTENDERS)}; default: normres,flax,torch"),
        **SIZES,
        "--repeats=N": (5, "samples of each, 5 or more"),
        **TORCH,
        "--before=FOLDER": (None, "a checkout of another commit, to be timed beside"),
        **SHOWN,
    },
    "accelerators": {
        "--device=A,B": ("tpu-v5e:1x1", "tpu-GENERATION:TOPOLOGY, h100, or local"),
        "--depths=A,B": ("20", "of the networks"),
        "--norms=A,B": ("batch", "of batch, group, layer, instance, or all"),
        "--contenders=A,B": ("normres,evaluation,flax,flax-data", "of these, unrolled and scanned"),
        "--parallel=A,B": ("jit", "on several chips: jit, pmap (with sync_batch_norm) or all"),
        **SIZES,
        "--dtype=DTYPE": ("bfloat16", "of the activations"),
        **SHOWN,
    },
    "device": {
        "--minutes=N": (9, "in all; what is left after the measurements is training"),
        "--depths=A,B": ("20,56,110", "of the networks"),
        **SIZES,
        "--repeats=N": (5, "samples of each"),
        "--steps=N": (500, "of each process, where several run at once"),
        "--path=PATH": ("", "CIFAR-10's binary archive or folder (default: train on the embedded images)"),
        **TORCH,
        **{key: value for key, value in SHOWN.items() if "chart" not in key},
    },
    "compile": {
        "--depths=A,B": ("20,110,1202", "of the networks"),
        "--orders=A,B": ("post", "rows of variants.py, or all"),
        "--shortcuts=A,B": ("A", "rows of variants.py, or all"),
        **SIZES,
        "--dtype=DTYPE": ("auto", "auto, float32 or bfloat16"),
        "--remat=ROW": ("auto", "nothing, elementwise, loops, block or auto; see configs/base.py"),
        "--step": (False, "also run and time the step"),
    },
}


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
    source, before, page = getattr(options, "from"), options.before, options.markdown
    if before and not (before / "normres").is_dir():
        raise UserError(f"--before={before}: holds no folder normres")
    names = chosen(options, "contenders", CONTENDERS) if options.contenders else ("normres", "flax", "torch")
    # A process that takes most of a GPU's memory at its start, as JAX's do, leaves none to the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from normres.bench import output
    from normres.bench.step import cells, measure, show, workers

    if source:
        document = measure.read(source)
        print("\n\n".join(show.text(cell) for cell in document["cells"]))
    else:
        depths, dtypes = integers("--depths", options.depths), chosen(options, "dtypes", cells.DTYPES)
        norms = chosen(options, "norms", cells.NORMS) if options.norms else None
        selected = cells.select(depths, dtypes, norms, options.batch, options.width)
        contenders, version = workers.contenders(names, before), "absent"
        of_torch = [name for name in names if name.startswith("torch")]
        if of_torch and (found := workers.find_torch(options.torch, of_torch)):
            contenders, version = contenders | found[0], found[1]
        elif of_torch:
            message = "no PyTorch here; --torch=PYTHON names a Python that has it"
            if options.contenders:
                raise UserError(f"--contenders={options.contenders}: {message}")
            print(f"{message}; its rows are left out", flush=True)
        conditions = measure.conditions(selected, contenders, version, options.repeats, before)
        document = measure.measure_all(selected, contenders, conditions, options.json)
    if options.chart:
        show.draw(document, options.chart)
    if page:
        output.put_between_markers(page, "step", show.markdown(document))


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


def _accelerators(options: Namespace) -> None:
    from normres.bench import devices

    devices.prepare()
    from normres.bench import accelerators, output
    from normres.bench.step import cells

    if source := getattr(options, "from"):
        document = accelerators.read(source)
        print(accelerators.table(document["rows"]))
    else:
        depths, norms = integers("--depths", options.depths), chosen(options, "norms", cells.NORMS)
        selected = cells.select(depths, [options.dtype], norms, options.batch, options.width)
        contenders = chosen(options, "contenders", accelerators.CONTENDERS)
        modes = chosen(options, "parallel", accelerators.MODES)
        document = accelerators.run(options.device.split(","), selected, contenders, modes, options.json)
    if options.chart:
        accelerators.draw(document, options.chart)
    if options.markdown:
        output.put_between_markers(options.markdown, "accelerators", accelerators.markdown(document))


def _device(options: Namespace) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from normres.bench import on_device, output

    if source := getattr(options, "from"):
        text = on_device.markdown(on_device.read(source))
        print(text)
        if options.markdown:
            output.put_between_markers(options.markdown, "device", text)
        return
    if not options.json:
        raise UserError("--json=FILE is missing: where the measurements go")
    options.depths = integers("--depths", options.depths)
    on_device.run(options)


BENCHMARKS: dict[str, tuple[Callable[[Namespace], None], str, str]] = {
    "numerics": (_numerics, "Print each norm's error on hard inputs, beside Flax and PyTorch.", NUMERICS),
    "norms": (_norms, "Time forward and backward of each norm, beside Flax.", NORMS),
    "step": (_step, "Time a whole training step beside stock Flax and PyTorch.", STEP),
    "accelerators": (
        _accelerators,
        "Compile the training step for TPUs and GPUs that are not there, and count what it costs.",
        ACCELERATORS,
    ),
    "device": (_device, "Measure everything that only a real accelerator can say, in one file.", DEVICE),
    "compile": (_compile, "Measure the training step's compile time and memory against depth.", COMPILE),
}


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Adds the sub-commands of `normres bench`; add(name, summary, epilog) makes a parser."""
    for benchmark, (_, summary, epilog) in BENCHMARKS.items():
        parser = add(benchmark, summary, epilog)
        for option, (default, text) in (OPTIONS[benchmark] | COMMON).items():
            name, _, metavar = option.partition("=")
            if default is False:
                parser.add_argument(name, action="store_true", help=text)
                continue
            kind = Path if metavar.startswith(("FILE", "FOLDER")) else int if isinstance(default, int) else str
            text += f" (default {default})" if default else ""
            parser.add_argument(name, type=kind, metavar=metavar, default=default, help=text)


def run(options: Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    benchmark = options.benchmark
    if left:
        known = [option.partition("=")[0] for option in (*OPTIONS[benchmark], *COMMON, "--help")]
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], known)}")
    for name in ("json", "chart"):
        if (file := getattr(options, name, None)) and not file.parent.is_dir():
            raise UserError(f"--{name}={file}: there is no directory {file.parent}")
    chart, page = (getattr(options, name, None) for name in ("chart", "markdown"))
    if chart and chart.suffix != ".png":
        raise UserError(f"--chart={chart}: the name must end in .png")
    if page and not page.is_file():
        raise UserError(f"--markdown={page}: there is no such page")
    if benchmark in LEAST and options.repeats < LEAST[benchmark]:
        raise UserError(f"--repeats={options.repeats} must be at least {LEAST[benchmark]}")
    if benchmark != "step":  # whose parent process computes nothing, and whose Flax must not get our flags
        machine.prepare()
    BENCHMARKS[benchmark][0](options)
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
