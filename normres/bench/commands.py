"""The command line of the benchmarks.  jax is imported inside the commands, after machine.prepare has set its flags."""

import argparse
import os
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

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
timed in turns.  The default cells are batch norm at every depth and the other norms at the first one, beside normres
with batch norm (normres-batch), in both dtypes.  With --json each cell is written when it is done, and the same command
goes on where it was killed if code, machine and options are the same.

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

DATA = """\
Reads and decodes batches from a prepared directory (without --path: of the embedded images), and times a training step
with the data on the device, without augmentation, and streamed.  Two minutes on two cores.  Needs the extra `tfds`.

examples:
  normres bench data --path=data --name=cifar10 --depth=56
  normres bench data --path=data --name=imagenette --image-size=128 --batch=64"""

CONTENDERS = ("normres", "normres-batch", "flax", "torch")  # of `bench step`


def _text(metavar: str, help: str, default: str | None = None) -> dict[str, Any]:
    return {"metavar": metavar, "help": help, "default": default}


def _integer(help: str, default: int) -> dict[str, Any]:
    return {"type": int, "metavar": "N", "help": f"{help} (default {default})", "default": default}


def _path(metavar: str, help: str, **more: Any) -> dict[str, Any]:
    return {"type": Path, "metavar": metavar, "help": help, **more}


def _flag(help: str) -> dict[str, Any]:
    return {"action": "store_true", "help": help}


JSON = {"--json": _path("FILE", "write the numbers to this file too")}
TORCH = {"--torch": _text("PYTHON", "a Python that imports torch (default: this, if it does)")}
SIZES = {"--width": _integer("of the first stage", 16), "--batch": _integer("examples", 128)}
DTYPE = {"--dtype": _text("DTYPE", "auto, float32 or bfloat16 (default auto)", "auto")}
ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "numerics": {
        "--norms": _text("A,B", "which norms (default: all that standardize)"),
        "--dtypes": _text("A,B", "which of float32, bfloat16, float16 (default: all)"),
        **TORCH,
    },
    "norms": {
        "--norms": _text("A,B", "which norms (default: all that Flax has)"),
        "--shapes": _text("NxHxWxC,...", "default: 128x32x32x16,128x8x8x64", "128x32x32x16,128x8x8x64"),
        "--dtype": _text("DTYPE", "of input and output (default bfloat16)", "bfloat16"),
        "--repeats": _integer("samples of each, 7 or more", 15),
        "--equivalences": _flag("time nothing; check each norm against another"),
        "--markdown": _flag("time nothing; print the tables of docs/norms.md"),
    },
    "step": {
        "--depths": _text("A,B", "default: 20,56,110", "20,56,110"),
        "--dtypes": _text("A,B", "default: float32,bfloat16"),
        "--norms": _text("A,B", "of batch, group, layer, instance at every depth, or all"),
        "--contenders": _text("A,B", f"of {', '.join(CONTENDERS)}; normres always takes part"),
        **SIZES,
        "--repeats": _integer("samples of each, 5 or more", 5),
        **TORCH,
        "--before": _path("FOLDER", "a checkout of another commit, to be timed beside"),
        "--chart": _path("FILE.png", "draw the numbers"),
        "--markdown": _path("FILE.md", "put the table between this page's markers"),
        "--from": _path("FILE", "measure nothing; show this --json file", dest="source"),
    },
    "compile": {
        "--depths": _text("A,B", "default: 20,110,1202", "20,110,1202"),
        "--orders": _text("A,B", "rows of variants.py, or all (default post)", "post"),
        "--shortcuts": _text("A,B", "rows of variants.py, or all (default A)", "A"),
        **SIZES,
        **DTYPE,
        "--remat": _text("ROW", "nothing, elementwise, block or auto (default); see configs/base.py", "auto"),
        "--step": _flag("also run and time the step"),
        "--scanned-only": _flag("leave out the unrolled networks"),
    },
    "data": {
        "--path": _text("DIR", "a prepared ArrayRecord directory, or its data_dir", ""),
        "--name": _text("NAME", "of the data set there (default cifar10)", "cifar10"),
        "--image-size": _integer("pixels", 32),
        "--depth": _integer("of the network", 20),
        **SIZES,
        **DTYPE,
        "--steps": _integer("in a row make a sample", 10),
        "--repeats": _integer("samples of each", 5),
    },
}


def _numerics(options: argparse.Namespace) -> None:
    from normres.bench import numerics

    names = chosen("--norms", options.norms, numerics.NORMS)
    numerics.run(names, chosen("--dtypes", options.dtypes, numerics.DTYPES), options.torch, options.json)


def _norms(options: argparse.Namespace) -> int | None:
    from normres.bench import equivalences, norms, page

    if options.equivalences:
        return equivalences.main()
    if options.markdown:
        print(page.text())
        return None
    _at_least(7, options, "repeats")
    names = chosen("--norms", options.norms, norms.NORMS)
    if options.dtype not in norms.TOLERANCE:
        raise UserError(f"--dtype={options.dtype} does not exist; {nearest(options.dtype, norms.TOLERANCE)}")
    shapes = [integers("--shapes", shape, "x") for shape in options.shapes.split(",")]
    if any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
        raise UserError(f"--shapes={options.shapes}: write NxHxWxC, such as 128x32x32x16, and commas between shapes")
    norms.run(names, shapes, options.dtype, options.repeats, options.json)
    return None


def _step(options: argparse.Namespace) -> None:
    _has_folder("--chart", options.chart)
    if options.chart and options.chart.suffix != ".png":
        raise UserError(f"--chart={options.chart}: the name must end in .png")
    if options.markdown and not options.markdown.is_file():
        raise UserError(f"--markdown={options.markdown}: there is no such page")
    if options.before and not (options.before / "normres").is_dir():
        raise UserError(f"--before={options.before}: holds no folder normres")
    _at_least(5, options, "repeats")
    names = chosen("--contenders", options.contenders, CONTENDERS)
    # A process that takes most of a GPU's memory at its start, as JAX's do, leaves none to the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from normres.bench.step import cells, measure, show, workers

    if options.source:
        document = measure.read(options.source)
        print("\n\n".join(show.text(cell) for cell in document["cells"]))
    else:
        depths, dtypes = integers("--depths", options.depths), chosen("--dtypes", options.dtypes, cells.DTYPES)
        norms = chosen("--norms", options.norms, cells.NORMS) if options.norms else None
        selected = cells.select(depths, dtypes, norms, options.batch, options.width)
        # PyTorch must be there if it was asked for by name.
        needed = options.contenders is not None and "torch" in names
        contenders, torch = workers.contenders(names, options.torch, needed, options.before)
        document = measure.measure_all(selected, contenders, torch, options.repeats, options.json, options.before)
    if options.chart:
        show.draw(document, options.chart)
    if options.markdown:
        page = show.put_between_markers(options.markdown.read_text(), document, str(options.markdown))
        options.markdown.write_text(page)


def _compile(options: argparse.Namespace) -> None:
    from normres.bench import compile
    from normres.models import variants

    config, dtype = _config(options, {"model.width": options.width, "model.remat": options.remat})
    orders = chosen("--orders", options.orders, variants.ORDERS)
    shortcuts = chosen("--shortcuts", options.shortcuts, variants.SHORTCUTS)
    unroll = ("never",) if options.scanned_only else ("never", "always")
    fields = ("model.order", "model.shortcut", "model.depth", "model.unroll")
    networks = [
        dict(zip(fields, values, strict=True))
        for values in product(orders, shortcuts, integers("--depths", options.depths), unroll)
        # A deeper unrolled network takes the compiler minutes.
        if values[2] <= 110 or values[3] == "never"
    ]
    compile.run(config, networks, dtype, options.step, options.json)


def _data(options: argparse.Namespace) -> None:
    from normres.bench import data

    _at_least(1, options, "repeats", "steps")
    if options.name != "cifar10" and not options.path:
        raise UserError(f"--name={options.name}: give the --path of its prepared directory")
    fields = {
        "model.depth": options.depth,
        "model.width": options.width,
        "data.source": "tfds",
        "data.name": options.name,
        "data.path": options.path or "embedded",
        "data.image_size": options.image_size,
    }
    config, dtype = _config(options, fields)
    data.run(config, options.path, dtype, options.steps, options.repeats, options.json)


def _config(options: argparse.Namespace, fields: dict[str, Any]) -> tuple[Any, str]:
    """Returns the base config with the options and `fields` applied, and the dtype that "auto" stands for."""
    from normres.configs import base
    from normres.runs import config as configs

    sizes = {"train.batch_size": options.batch, "train.eval_batch_size": options.batch, "train.dtype": options.dtype}
    return configs.apply(base.get_config(), sizes | fields), machine.resolve_dtype(options.dtype)


class Benchmark(NamedTuple):
    """A sub-command of `normres bench`; `run` returns an exit status, None for 0."""

    run: Callable[[argparse.Namespace], int | None]
    summary: str
    epilog: str


BENCHMARKS = {
    "numerics": Benchmark(_numerics, "Print each norm's error on hard inputs, beside Flax and PyTorch.", NUMERICS),
    "norms": Benchmark(_norms, "Time forward and backward of each norm, beside Flax.", NORMS),
    "step": Benchmark(_step, "Time a whole training step beside stock Flax and PyTorch.", STEP),
    "compile": Benchmark(_compile, "Measure the training step's compile time and memory against depth.", COMPILE),
    "data": Benchmark(_data, "Time reading, augmentation and the step: what a batch's input costs.", DATA),
}


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Adds the sub-commands of `normres bench`; add(name, summary, epilog) makes a parser."""
    for name, (_, summary, epilog) in BENCHMARKS.items():
        parser = add(name, summary, epilog)
        for option, settings in (ARGUMENTS[name] | JSON).items():
            parser.add_argument(option, **settings)


def run(options: argparse.Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    if left:
        known = [*ARGUMENTS[options.benchmark], *JSON, "--help"]
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], known)}")
    _has_folder("--json", options.json)
    if options.benchmark != "step":  # whose parent process computes nothing, and whose Flax must not get our flags
        machine.prepare()
    return BENCHMARKS[options.benchmark].run(options) or 0


def chosen(option: str, argument: str | None, choices: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in a list with commas; all choices for None or "all"."""
    choices = tuple(choices)
    names = choices if argument is None or argument == "all" else tuple(argument.split(","))
    for name in names:
        if name not in choices:
            raise UserError(f"{option}={argument}: {name!r} does not exist; {nearest(name, choices)}")
    return names


def integers(option: str, argument: str, separator: str = ",") -> tuple[int, ...]:
    """Returns the integers in a list with commas or another separator."""
    try:
        return tuple(int(number) for number in argument.split(separator))
    except ValueError:
        example = separator.join(("20", "110"))
        raise UserError(f"{option}={argument}: write integers and {separator!r} between them: {example}") from None


def _at_least(least: int, options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) < least:
            raise UserError(f"--{name}={getattr(options, name)} must be at least {least}")


def _has_folder(option: str, file: Path | None) -> None:
    if file and not file.parent.is_dir():
        raise UserError(f"{option}={file}: there is no directory {file.parent}")
