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

DATA = """\
Reads and decodes batches from a prepared directory (without --path: of the embedded images), and times a training step
with the data on the device, without augmentation, and streamed.  Two minutes on two cores.  Needs the extra `tfds`.

examples:
  normres bench data --path=data --name=cifar10 --depth=56
  normres bench data --path=data --name=imagenette --image-size=128 --batch=64"""

CONTENDERS = ("normres", "flax", "torch")  # of `bench step`

# "--OPTION=METAVAR": (default, help).  The default's type is the option's; one of FOLDER and FILE is a path.
Options = dict[str, tuple[Any, str]]
COMMON: Options = {"--json=FILE": (None, "write the numbers to this file too")}
TORCH: Options = {"--torch=PYTHON": (None, "a Python that imports torch (default: this, if it does)")}
SIZES: Options = {"--width=N": (16, "of the first stage"), "--batch=N": (128, "examples")}
DTYPE: Options = {"--dtype=DTYPE": ("auto", "auto, float32 or bfloat16")}
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
        "--equivalences": (False, "time nothing; check each norm against another"),
        "--markdown": (False, "time nothing; print the tables of docs/norms.md"),
    },
    "step": {
        "--depths=A,B": ("20,56,110", "of the networks"),
        "--dtypes=A,B": (None, "default: float32,bfloat16"),
        "--norms=A,B": (None, "of batch, group, layer, instance at every depth, or all"),
        "--contenders=A,B": (None, f"of {', '.join(CONTENDERS)}; normres always takes part"),
        **SIZES,
        "--repeats=N": (5, "samples of each, 5 or more"),
        **TORCH,
        "--before=FOLDER": (None, "a checkout of another commit, to be timed beside"),
        "--chart=FILE.png": (None, "draw the numbers"),
        "--markdown=FILE.md": (None, "put the table between this page's markers"),
        "--from=FILE": (None, "measure nothing; show this --json file"),
    },
    "compile": {
        "--depths=A,B": ("20,110,1202", "of the networks"),
        "--orders=A,B": ("post", "rows of variants.py, or all"),
        "--shortcuts=A,B": ("A", "rows of variants.py, or all"),
        **SIZES,
        **DTYPE,
        "--remat=ROW": ("auto", "nothing, elementwise, block or auto; see configs/base.py"),
        "--step": (False, "also run and time the step"),
    },
    "data": {
        "--path=DIR": ("", "a prepared ArrayRecord directory, or its data_dir"),
        "--name=NAME": ("cifar10", "of the data set there"),
        "--image-size=N": (32, "pixels"),
        "--depth=N": (20, "of the network"),
        **SIZES,
        **DTYPE,
        "--steps=N": (10, "in a row make a sample"),
        "--repeats=N": (5, "samples of each"),
    },
}


def _numerics(options: Namespace) -> None:
    from normres.bench import numerics

    names = chosen("--norms", options.norms, numerics.NORMS)
    numerics.run(names, chosen("--dtypes", options.dtypes, numerics.DTYPES), options.torch, options.json)


def _norms(options: Namespace) -> int | None:
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


def _step(options: Namespace) -> None:
    source = getattr(options, "from")
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

    if source:
        document = measure.read(source)
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


def _compile(options: Namespace) -> None:
    from normres.bench import compile
    from normres.models import variants

    config, dtype = _config(options, {"model.remat": options.remat})
    orders = chosen("--orders", options.orders, variants.ORDERS)
    shortcuts = chosen("--shortcuts", options.shortcuts, variants.SHORTCUTS)
    networks = [
        {"model.order": order, "model.shortcut": shortcut, "model.depth": depth, "model.unroll": unroll}
        for order, shortcut, depth in product(orders, shortcuts, integers("--depths", options.depths))
        # A deeper unrolled network takes the compiler minutes.
        for unroll in (("never", "always") if depth <= 110 else ("never",))
    ]
    compile.run(config, networks, dtype, options.step, options.json)


def _data(options: Namespace) -> None:
    from normres.bench import data

    _at_least(1, options, "repeats", "steps")
    if options.name != "cifar10" and not options.path:
        raise UserError(f"--name={options.name}: give the --path of its prepared directory")
    fields = {
        "model.depth": options.depth,
        "data.source": "tfds",
        "data.name": options.name,
        "data.path": options.path or "embedded",
        "data.image_size": options.image_size,
    }
    config, dtype = _config(options, fields)
    data.run(config, options.path, dtype, options.steps, options.repeats, options.json)


def _config(options: Namespace, fields: dict[str, Any]) -> tuple[Any, str]:
    """Returns the base config with the options and `fields` applied, and the dtype that "auto" stands for."""
    from normres.configs import base
    from normres.runs import config as configs

    fields |= {"model.width": options.width, "train.dtype": options.dtype}
    fields |= dict.fromkeys(("train.batch_size", "train.eval_batch_size"), options.batch)
    return configs.apply(base.get_config(), fields), machine.resolve_dtype(options.dtype)


BENCHMARKS: dict[str, tuple[Callable[[Namespace], int | None], str, str]] = {
    "numerics": (_numerics, "Print each norm's error on hard inputs, beside Flax and PyTorch.", NUMERICS),
    "norms": (_norms, "Time forward and backward of each norm, beside Flax.", NORMS),
    "step": (_step, "Time a whole training step beside stock Flax and PyTorch.", STEP),
    "compile": (_compile, "Measure the training step's compile time and memory against depth.", COMPILE),
    "data": (_data, "Time reading, augmentation and the step: what a batch's input costs.", DATA),
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
    if left:
        known = [option.partition("=")[0] for option in (*OPTIONS[options.benchmark], *COMMON, "--help")]
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], known)}")
    _has_folder("--json", options.json)
    if options.benchmark != "step":  # whose parent process computes nothing, and whose Flax must not get our flags
        machine.prepare()
    return BENCHMARKS[options.benchmark][0](options) or 0


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


def _at_least(least: int, options: Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) < least:
            raise UserError(f"--{name}={getattr(options, name)} must be at least {least}")


def _has_folder(option: str, file: Path | None) -> None:
    if file and not file.parent.is_dir():
        raise UserError(f"{option}={file}: there is no directory {file.parent}")
