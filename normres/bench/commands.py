"""The command line of the benchmarks.  jax is imported inside the commands, after machine.prepare has set its flags."""

import argparse
from collections.abc import Callable
from pathlib import Path

from normres.bench.options import chosen, has_folder, integers
from normres.bench.step import commands as of_step
from normres.errors import UserError, nearest
from normres.runs import machine

NUMERICS = """\
For each norm and dtype a table: a row per input (large means, constants, denormals, an infinity, ...), a column per
contender, once for the output and once for the gradient wrt the input; then where Flax or PyTorch is better.
A minute on two cores.  PyTorch is no dependency: --torch names a Python of its own that has it.

examples:
  normres bench numerics --norms=batch,layer --dtypes=float32
  normres bench numerics --torch=$HOME/torch/bin/python --json=numerics.json"""

NORMS = """\
Both libraries run in this process and in turns, under the same flags as a training run.  Before anything is timed
their outputs and gradients are compared; if they differ it stops.  Two minutes on two cores.

examples:
  normres bench norms
  normres bench norms --norms=batch --shapes=128x32x32x16,256x7x7x512 --dtype=float32 --repeats=31
  normres bench norms --equivalences"""

COMPILE = """\
For each order and shortcut a line per depth: seconds to trace and compile the training step, how many times those of
the first depth, and the memory of the step's activations; for depths up to 110 the unrolled network beside it.

examples:
  normres bench compile
  normres bench compile --depths=20,110 --orders=post,pre --shortcuts=A --step
  normres bench compile --depths=1202 --batch=128 --remat=block --step"""

SEEDS = """\
What train.seeds_per_program gives on this machine: milliseconds of a training step per run, for each number of runs in
one program, taken in turns; the ratio is to the first of --members.

examples:
  normres bench seeds
  normres bench seeds --depths=8 --widths=4 --members=1,8 --batch=32"""

DATA = """\
Reads and decodes batches from a prepared directory (without --path: of the embedded images, prepared for the occasion),
and times a training step with the data on the device, without augmentation, and streamed.  Two minutes on two cores.
Needs the extra `tfds`.

examples:
  normres bench data
  normres bench data --path=data --name=cifar10 --depth=56
  normres bench data --path=data --name=imagenette --image-size=128 --batch=64"""

MINIMUM_REPEATS = 7  # below, a median of a noisy machine says little

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds the sub-commands of `normres bench`; add(name, summary, epilog) makes a parser."""
    numerics = add("numerics", "Print each norm's error on hard inputs, beside Flax and PyTorch.", NUMERICS)
    numerics.add_argument("--norms", metavar="A,B", help="which norms (default: all that standardize)")
    numerics.add_argument("--dtypes", metavar="A,B", help="which of float32, bfloat16, float16 (default: all)")
    numerics.add_argument("--torch", metavar="PYTHON", help="a Python that imports torch (default: this, if it does)")
    numerics.set_defaults(bench=_numerics, options=("--norms", "--dtypes", "--torch", "--json", "--help"))

    norms = add("norms", "Time forward and backward of each norm, beside Flax.", NORMS)
    norms.add_argument("--norms", metavar="A,B", help="which norms (default: all that Flax has)")
    norms.add_argument("--shapes", metavar="NxHxWxC,...", help="default: 128x32x32x16,128x8x8x64")
    norms.add_argument("--dtype", default="bfloat16", help="of input and output (default bfloat16)")
    norms.add_argument("--repeats", type=int, default=15, metavar="N", help="samples of each (default 15)")
    norms.add_argument("--equivalences", action="store_true", help="time nothing; check each norm against another")
    norms.add_argument("--markdown", action="store_true", help="time nothing; print the tables of docs/norms.md")
    accepted = ("--norms", "--shapes", "--dtype", "--repeats", "--equivalences", "--markdown", "--json", "--help")
    norms.set_defaults(bench=_norms, options=accepted)

    compile_ = add("compile", "Measure compile time and memory of the training step against depth.", COMPILE)
    compile_.add_argument("--depths", default="20,110,1202", metavar="A,B", help="default: 20,110,1202")
    compile_.add_argument("--orders", default="post", metavar="A,B", help="rows of variants.py, or all (default post)")
    compile_.add_argument("--shortcuts", default="A", metavar="A,B", help="rows of variants.py, or all (default A)")
    compile_.add_argument("--width", type=int, default=16, help="of the first stage (default 16)")
    compile_.add_argument("--batch", type=int, default=128, help="examples (default 128)")
    compile_.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default auto)")
    compile_.add_argument(
        "--remat",
        default="auto",
        metavar="ROW",
        help="nothing, elementwise, block or auto (default); see configs/base.py",
    )
    compile_.add_argument("--step", action="store_true", help="also run and time the step")
    compile_.add_argument("--scanned-only", action="store_true", help="leave out the unrolled networks")
    listed = ("--depths", "--orders", "--shortcuts", "--width", "--batch", "--dtype", "--remat", "--step", "--json")
    compile_.set_defaults(bench=_compile, options=(*listed, "--scanned-only", "--help"))

    seeds = add("seeds", "Time several runs in one program against one run in a program.", SEEDS)
    seeds.add_argument("--depths", default="8,20", metavar="A,B", help="default: 8,20")
    seeds.add_argument("--widths", default="4,8", metavar="A,B", help="of the first stage (default 4,8)")
    seeds.add_argument("--members", default="1,2,4", metavar="A,B", help="runs in one program (default 1,2,4)")
    seeds.add_argument("--batch", type=int, default=128, help="examples (default 128)")
    seeds.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default auto)")
    seeds.add_argument("--repeats", type=int, default=10, metavar="N", help="samples of each (default 10)")
    sized = ("--depths", "--widths", "--members", "--batch", "--dtype", "--repeats", "--json", "--help")
    seeds.set_defaults(bench=_seeds, options=sized)

    data = add("data", "Time reading, augmentation and the step: what a batch's input costs.", DATA)
    data.add_argument("--path", default="", metavar="DIR", help="a prepared ArrayRecord directory, or its data_dir")
    data.add_argument("--name", default="cifar10", help="of the data set there (default cifar10)")
    data.add_argument("--image-size", type=int, default=32, metavar="PIXELS", help="default: 32")
    data.add_argument("--depth", type=int, default=20, help="of the network (default 20)")
    data.add_argument("--width", type=int, default=16, help="of its first stage (default 16)")
    data.add_argument("--batch", type=int, default=128, help="examples (default 128)")
    data.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default auto)")
    data.add_argument("--steps", type=int, default=10, metavar="N", help="in a row make a sample (default 10)")
    data.add_argument("--repeats", type=int, default=5, metavar="N", help="samples of each (default 5)")
    read = ("--path", "--name", "--image-size", "--depth", "--width", "--batch", "--dtype", "--steps", "--repeats")
    data.set_defaults(bench=_data, options=(*read, "--json", "--help"))
    for command in (numerics, norms, compile_, seeds, data):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
        command.set_defaults(prepares=True)
    of_step.add_command(add)


def run(options: argparse.Namespace, left: list[str]) -> int:
    """Runs a sub-command; `left` are arguments that none of its options took."""
    if left:
        raise UserError(f"{left[0]!r} is no argument here; {nearest(left[0].partition('=')[0], options.options)}")
    has_folder("--json", options.json)
    if options.prepares:
        machine.prepare()
    status: int = options.bench(options)
    return status


def _numerics(options: argparse.Namespace) -> int:
    from normres.bench import numerics

    names = chosen("--norms", options.norms, numerics.NORMS)
    numerics.run(names, chosen("--dtypes", options.dtypes, numerics.DTYPES), options.torch, options.json)
    return 0


def _norms(options: argparse.Namespace) -> int:
    from normres.bench import equivalences, norms, numerics, page

    if options.equivalences:
        return equivalences.main()
    if options.markdown:
        print(page.text())
        return 0

    if options.repeats < MINIMUM_REPEATS:
        raise UserError(f"--repeats={options.repeats}: a median takes {MINIMUM_REPEATS} and more")
    names = chosen("--norms", options.norms, norms.NORMS)
    (dtype,) = chosen("--dtype", options.dtype, numerics.DTYPES)
    shapes = _shapes(options.shapes) if options.shapes else norms.SHAPES
    norms.run(names, shapes, dtype, options.repeats, options.json)
    return 0


def _compile(options: argparse.Namespace) -> int:
    from normres.bench import compile as of_compile
    from normres.configs import base
    from normres.models import variants
    from normres.runs import config

    overrides = {
        "model.width": options.width,
        "model.remat": options.remat,
        "train.batch_size": options.batch,
        "train.eval_batch_size": options.batch,
        "train.dtype": options.dtype,
    }
    depths = integers("--depths", options.depths)
    rows = {}
    for name, table in (("orders", variants.ORDERS), ("shortcuts", variants.SHORTCUTS)):
        given = getattr(options, name)
        rows[name] = tuple(table) if given == "all" else chosen(f"--{name}", given, table)
    of_compile.run(
        config.apply(base.get_config(), overrides),
        depths,
        rows["orders"],
        rows["shortcuts"],
        machine.resolve_dtype(options.dtype),
        options.step,
        not options.scanned_only,
        options.json,
    )
    return 0


def _seeds(options: argparse.Namespace) -> int:
    from normres.bench import seeds
    from normres.configs import base
    from normres.runs import config

    if options.repeats < 1:
        raise UserError(f"--repeats={options.repeats} must be at least 1")
    depths, widths, members = (integers(f"--{n}", getattr(options, n)) for n in ("depths", "widths", "members"))
    if min(members) < 1:
        raise UserError(f"--members={options.members}: a program trains at least 1 run")
    sizes = {"train.batch_size": options.batch, "train.eval_batch_size": options.batch, "train.dtype": options.dtype}
    dtype = machine.resolve_dtype(options.dtype)
    seeds.run(config.apply(base.get_config(), sizes), depths, widths, members, dtype, options.repeats, options.json)
    return 0


def _data(options: argparse.Namespace) -> int:
    from normres.bench import data
    from normres.configs import base
    from normres.runs import config

    for option in ("steps", "repeats"):
        if getattr(options, option) < 1:
            raise UserError(f"--{option}={getattr(options, option)} must be at least 1")
    if options.name != "cifar10" and not options.path:
        raise UserError(f"--name={options.name}: give the --path of its prepared directory")
    overrides = {
        "model.depth": options.depth,
        "model.width": options.width,
        "train.batch_size": options.batch,
        "train.eval_batch_size": options.batch,
        "train.dtype": options.dtype,
        "data.source": "tfds",
        "data.name": options.name,
        "data.path": options.path or "embedded",
        "data.image_size": options.image_size,
    }
    chosen = config.apply(base.get_config(), overrides)
    dtype = machine.resolve_dtype(options.dtype)
    data.run(chosen, options.path, dtype, options.steps, options.repeats, options.json)
    return 0


def _shapes(given: str) -> tuple[tuple[int, ...], ...]:
    """Reads "128x32x32x16,128x8x8x64"."""
    try:
        shapes = tuple(tuple(int(size) for size in shape.split("x")) for shape in given.split(","))
    except ValueError:
        shapes = ()
    if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
        raise UserError(f"--shapes={given}: write NxHxWxC, such as 128x32x32x16, and commas between shapes")
    return shapes
