"""The command line, `normres train`, `sweep`, `report` and so on.  A mistake is one line and status 2."""

import argparse
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from normres import files, signals
from normres.bench import commands as benchmarks
from normres.data import commands as of_data
from normres.errors import FaultInFile, InterruptedRun, UserError, nearest
from normres.report import commands as report_commands
from normres.runs import commands as run_commands
from normres.runs import finished_commands, hosts, machine, slurm
from normres.show import probe_commands

# jax is imported inside the commands, after machine.prepare has set its flags.

DESCRIPTION = "Train residual and plain networks with any normalization, sweep over them, and draw what came out."

DEVICES = """\
Devices: local (where some steps are timed too), h100 (needs the extra cuda13), or a TPU such as tpu-v5e:1x1,
tpu-v5e:2x2 or tpu-v6e:1x1 (needs the extra tpu)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="normres", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"normres {importlib.metadata.version('normres')}")
    add = _adder(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    run_commands.add_commands(add)
    report_commands.add_commands(add)
    probe_commands.add_commands(add)
    show = add(
        "show",
        "Print what a network consists of and what it costs, and draw it; trains nothing.",
        "Per stage: blocks, shape, parameters, multiply-adds, activations, the norm's axes; then the order of norm\n"
        "and ReLU.  Networks of the imagenet layout are shown for 224x224x3 images and 1000 classes.\n\n"
        f"{run_commands.OVERRIDES}\n\nexample:\n  normres show --config=base --config.model.order=pre --svg=pre.svg",
    )
    show.add_argument("--config", required=True, metavar="NAME[:ARGUMENT]", help="the config")
    show.add_argument("--image", metavar="HxWxC", help="size of an image (default: the data's, 32x32x3)")
    show.add_argument("--fields", action="store_true", help="print the config's fields and what they mean instead")
    show.add_argument("--svg", type=Path, metavar="FILE.svg", help="draw the network to this file")
    plan = add(
        "plan",
        "Say whether a run, or a sweep, fits a device that need not be there, and what it costs; trains nothing.",
        f"The device's real compiler compiles the training step.  {DEVICES}\n\n{run_commands.OVERRIDES}\n\nexample:\n"
        "  normres plan --config=base --config.model.depth=1202 --device=h100\n"
        "  normres plan --config=degradation:short --sweep --seeds=3",
    )
    plan.add_argument("--config", required=True, metavar="NAME[:ARGUMENT]", help="the config")
    plan.add_argument("--device", default="local", metavar="NAME", help="the device (default: local, the one at hand)")
    plan.add_argument("--sweep", action="store_true", help="every arm of the config's sweep(), or of a grid")
    run_commands.add_grid(plan)
    finished_commands.add_commands(add)
    data = add(
        "data",
        "Prepare, verify and show data; trains nothing.",
        "Each command explains itself:\n  normres data prepare --help\n  normres data verify --help\n"
        "  normres data show --help",
    )
    of_data.add_commands(_adder(data.add_subparsers(dest="data_command", metavar="COMMAND", required=True)))
    bench = add(
        "bench",
        "Measure accuracy and speed beside Flax and PyTorch; trains nothing.",
        "Each benchmark explains itself:\n  normres bench numerics --help\n  normres bench norms --help\n"
        "  normres bench step --help\n  normres bench compile --help",
    )
    benchmarks.add_commands(_adder(bench.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)))
    return parser


def _adder(commands: Any) -> Callable[[str, str, str], argparse.ArgumentParser]:
    """Returns add(name, summary, epilog), which makes a parser among `commands`."""

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return made

    return add


def parse_overrides(arguments: list[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Turns `--config.FIELD=VALUE` (or `--config.FIELD VALUE`) into {FIELD: VALUE}; `known` are the command's options.

    Raises:
      UserError: anything else, which would otherwise be ignored.
    """
    overrides = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if not name.startswith("--config."):
            if name.startswith("config."):
                raise UserError(f"{argument!r}: did you mean --{argument}?")
            raise UserError(f"{argument!r} is no argument here; {nearest(name, known)}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{argument!r} lacks its value; write {argument}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return overrides


def _show(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    machine.prepare()
    from normres.show import commands

    if options.fields:
        commands.print_fields(options.config, overrides)
    else:
        commands.run(options.config, overrides, options.image, options.svg)
    return 0


def _plan(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from normres.bench import devices

    if options.device != devices.LOCAL:
        devices.prepare()
    machine.prepare()
    from normres.bench import plan

    if options.sweep:
        from normres.runs import sweep

        plan.run_sweep(sweep.expand(options.config, overrides, options.seeds, options.vary), options.device)
    else:
        plan.run(options.config, overrides, options.device)
    return 0


COMMANDS: dict[str, Any] = {
    **run_commands.COMMANDS,
    "show": _show,
    "plan": _plan,
    **finished_commands.COMMANDS,
    **report_commands.COMMANDS,
    **probe_commands.COMMANDS,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    try:
        slurm_options, arguments = slurm.split(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"normres: {error}", file=sys.stderr)
        return 2
    options, rest = _parser().parse_known_args(arguments)
    known = [f"--{name.replace('_', '-')}" for name in vars(options) if name != "command"] + ["--help"]
    options.arguments, options.slurm = arguments, slurm_options
    try:
        if options.command == "bench":
            return benchmarks.run(options, rest)
        if options.command == "data":
            return of_data.run(options, rest)
        return COMMANDS[options.command](options, parse_overrides(rest, known))
    except UserError as error:
        if isinstance(error, FaultInFile):
            print(error.trace, end="", file=sys.stderr)
        print(f"normres: {error}", file=sys.stderr)
        return run_commands.MISTAKE
    except BrokenPipeError:
        # Who read the output has what was wanted; Python would say so again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"normres: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        return 2
    except InterruptedRun as error:
        print(f"normres: {error}; the same command goes on from there", file=sys.stderr)
        return signals.status()
    except KeyboardInterrupt:
        print("normres: interrupted", file=sys.stderr)
        return signals.INTERRUPTED
    except Exception as error:
        if theirs := files.fault_of_user(error):
            print(f"{theirs.trace}normres: {theirs}", file=sys.stderr)
            return 1
        # A fault of ours and not the user's.  One line is enough for them; who reports it can ask for the rest.
        if os.environ.get("NORMRES_TRACEBACK"):
            traceback.print_exc()
        print(
            f"normres: internal error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} "
            "(NORMRES_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )
        return 1


def run_command() -> int:
    """Runs the command line as a process of its own, with the settings that only a new process takes."""
    signals.block()
    machine.restart_with_huge_pages()
    signals.catch()
    return hosts.leave(main())
