"""The command line of the benchmarks.  jax is imported inside the commands, after machine.prepare has set its flags."""

import os
import shutil
from argparse import Namespace
from collections.abc import Iterable
from itertools import product
from typing import Any

from normres.errors import UserError, nearest
from normres.options import Command, Options
from normres.runs import machine

# Of `bench step`.
CONTENDERS = ("normres", "scanned", "flax", "torch", "torch-default", "torch-reduce-overhead", "torch-max-autotune")

JSON: Options = {"--json=FILE": (None, "write the numbers to this file too")}
SHOWN: Options = {
    "--width=N": (16, "of the first stage"),
    "--batch=N": (128, "examples"),
    "--from=FILE": (None, "measure nothing; show this --json file"),
    **JSON,
}
STEPS: Options = {
    "--depths=A,B": ("20,56,110", "of the networks"),
    "--repeats=N": (5, "samples of each"),
    "--torch=PYTHON": (None, "a Python that imports torch; without it, this one if it does"),
    **SHOWN,
}


def _step(options: Namespace, _: dict[str, str]) -> None:
    # No machine.prepare: this process computes nothing, and Flax must not get our flags.
    _prepare(options)
    from normres.bench.step import cells, measure

    if options.before and not (options.before / "normres").is_dir():
        raise UserError(f"--before={options.before}: holds no folder normres")
    if _shown(options, measure):
        return
    selected = _cells(options, chosen(options, "dtypes", cells.DTYPES))
    names = chosen(options, "contenders", CONTENDERS)
    measure.measure_all(selected, names, options.repeats, options.torch, options.before, options.json)


def _accelerators(options: Namespace, _: dict[str, str]) -> None:
    _prepare(options)
    from normres.bench import devices

    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # which would hide how long a compiler takes
    devices.prepare(options.device)
    from normres.bench import accelerators
    from normres.bench.step import cells

    if _shown(options, accelerators):
        return
    contenders = chosen(options, "contenders", accelerators.CONTENDERS)
    modes, dtypes = chosen(options, "parallel", accelerators.MODES), chosen(options, "dtype", cells.DTYPES)
    accelerators.run(options.device.split(","), _cells(options, dtypes), contenders, modes, options.json)


def _device(options: Namespace, _: dict[str, str]) -> int:
    _prepare(options)
    machine.prepare()
    from normres.bench import on_device
    from normres.data import load

    if _shown(options, on_device):
        return 0
    # Mistakes are said now, and not after minutes.
    options.norms = "batch"
    selected = _cells(options, ["bfloat16"])
    if options.torch and not shutil.which(options.torch):
        raise UserError(f"--torch={options.torch}: there is no such Python")
    if options.path:
        load("cifar10", "binary", options.path)
    return on_device.run(options, selected)


def _prepare(options: Namespace) -> None:
    """Checks and sets what all benchmarks have; call before jax is imported."""
    if (repeats := getattr(options, "repeats", 1)) < 1:
        raise UserError(f"--repeats={repeats} must be at least 1")
    # A process that takes most of a GPU's memory at its start, as JAX's do, leaves none to the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _cells(options: Namespace, dtypes: Iterable[str]) -> list[Any]:
    """Returns the cells of the options' depths and norms; a network that there is not is a UserError."""
    from normres.bench.step import cells

    norms = chosen(options, "norms", cells.NORMS)
    try:
        depths = [int(depth) for depth in options.depths.split(",")]
    except ValueError:
        raise UserError(f"--depths={options.depths}: write integers and ',' between them: 20,110") from None
    selected = [cells.Cell(*each, options.batch, options.width) for each in product(depths, dtypes, norms)]
    for cell in selected:
        cell.model()
    return selected


def _shown(options: Namespace, module: Any) -> bool:
    """Prints what the file of --from says, and returns whether there is one."""
    from normres.bench import output

    if source := getattr(options, "from"):
        print(module.text(output.read(source, *module.WRITTEN)))
    return bool(source)


BENCHMARKS = {
    "step": Command(
        _step,
        "Time a whole training step beside stock Flax and PyTorch.",
        "Every contender has a process of its own, and nothing is timed if they compute different things.  With\n"
        f"--json a killed command goes on, and other cells can be added.\nContenders: {', '.join(CONTENDERS)}.\n\n"
        "examples:\n"
        "  normres bench step --depths=20 --dtypes=bfloat16 --norms=batch\n"
        "  normres bench step --torch=$HOME/torch/bin/python --json=step.json",
        {
            "--dtypes=A,B": ("all", "float32, bfloat16"),
            "--norms=A,B": ("batch", "which norms, or all"),
            "--contenders=A,B": ("normres,flax,torch", "who takes part"),
            "--before=DIR": (None, "a checkout of another commit, to be timed beside"),
            **STEPS,
        },
    ),
    "accelerators": Command(
        _accelerators,
        "Compile the training step for TPUs and GPUs that are not there, and count what it costs.",
        "Each kind of device has an environment of its own (make setup EXTRA=tpu, or EXTRA=cuda13).  With --json,\n"
        "other rows stay in the file, and what is there for this code is not compiled again.  Contenders are also\n"
        "unrolled and scanned.\n\nexample:\n"
        "  normres bench accelerators --device=h100 --depths=20,56 --json=accelerators.json",
        {
            "--device=A,B": ("tpu-v5e:1x1", "tpu-GENERATION:TOPOLOGY, h100, or local"),
            "--depths=A,B": ("20", "of the networks"),
            "--norms=A,B": ("batch", "which norms, or all"),
            "--contenders=A,B": ("normres,evaluation,flax,flax-data", "what is compiled, or all"),
            "--parallel=A,B": ("jit", "on several chips: jit, pmap (with sync_batch_norm) or all"),
            "--dtype=DTYPE": ("bfloat16", "of the activations"),
            **SHOWN,
        },
    ),
    "device": Command(
        _device,
        "Measure everything that only a real accelerator can say, in one file.",
        "Compares the device with the CPU, times the training step beside Flax and every mode of PyTorch, and several\n"
        "processes at once; then trains ResNet-20 by the whole recipe until the time is over.\n\nexamples:\n"
        "  normres bench device --path=cifar-10-binary.tar.gz --json=device.json\n"
        "  normres bench device --from=device.json",
        {
            "--minutes=N": (9, "in all; what is left after the measurements is training"),
            "--steps=N": (500, "of each process, where several run at once"),
            "--path=PATH": ("", "CIFAR-10's binary archive or folder; without it, the embedded images"),
            **STEPS,
            "--json=FILE": ("device.json", "where the numbers go"),
        },
    ),
}
COMMANDS = {name: row._replace(takes_config=False) for name, row in BENCHMARKS.items()}


def chosen(options: Namespace, option: str, choices: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in an option's list with commas, or all choices."""
    argument, choices = getattr(options, option), tuple(choices)
    names = choices if argument == "all" else tuple(argument.split(","))
    for name in names:
        if name not in choices:
            raise UserError(f"--{option}={argument}: {name!r} does not exist; {nearest(name, choices)}")
    return names
