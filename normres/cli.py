"""The command line, `normres train`, `sweep`, `report` and so on.  A mistake is one line and status 2."""

import argparse
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import NoReturn

import normres
from normres import files, signals
from normres.bench import commands as benchmarks
from normres.data import commands as of_data
from normres.errors import FaultInFile, InterruptedRun, UserError, nearest
from normres.options import Command, add_options, split
from normres.report import commands as report_commands
from normres.runs import commands, machine, slurm
from normres.runs.commands import CONFIG, CONFIGS, GRID, MISTAKE
from normres.show import probe_commands

# jax is imported inside the commands, after machine.prepare has set its flags.

DESCRIPTION = "Train residual and plain networks with any normalization, sweep over them, and draw what came out."

# Commands of several commands: these, and what they do.
GROUPS: dict[str, tuple[dict[str, Command], str]] = {
    "data": (of_data.COMMANDS, "Prepare and verify data; trains nothing."),
    "bench": (benchmarks.COMMANDS, "Measure speed beside Flax and PyTorch."),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="normres", description=DESCRIPTION, allow_abbrev=False)
    version = f"normres {normres.__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and end")
    add = _add_commands(parser, "command", COMMANDS)
    for name, (rows, summary) in GROUPS.items():
        group = add(name, summary, f"Each command explains itself: normres {name} COMMAND --help")
        _add_commands(group, "below", rows)
    return parser


def _add_commands(
    parser: argparse.ArgumentParser, chosen: str, rows: Mapping[str, Command]
) -> Callable[[str, str, str], argparse.ArgumentParser]:
    """Adds commands to a parser; returns add(name, summary, epilog), which makes the parser of one more."""
    below = parser.add_subparsers(dest=chosen, metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        raw = argparse.RawDescriptionHelpFormatter
        return below.add_parser(
            name, help=summary, description=summary, epilog=epilog, allow_abbrev=False, formatter_class=raw
        )

    for name, command in rows.items():
        add_options(add(name, command.summary, command.epilog), command.options)
    return add


def _show(options: Namespace, overrides: dict[str, str]) -> None:
    machine.prepare()
    from normres.show import commands

    if options.fields:
        commands.print_fields(options.config, overrides)
    else:
        commands.run(options.config, overrides, options.svg)


def _plan(options: Namespace, overrides: dict[str, str]) -> None:
    from normres.bench import devices

    devices.prepare(options.device)
    from normres.bench import plan

    if options.sweep or options.vary or options.seeds != 1:
        from normres.runs import sweep

        plan.run_sweep(sweep.expand(options.config, overrides, options.seeds, options.vary), options.device)
    else:
        plan.run(options.config, overrides, options.device)


COMMANDS = {
    **commands.COMMANDS,
    "show": Command(
        _show,
        "Print what a network consists of and what it costs, and draw it; trains nothing.",
        "Per stage: blocks, shape, parameters, multiply-adds, the norm's axes; then the order of norm\n"
        "and ReLU.  Networks of the imagenet layout are shown for 224x224x3 images and 1000 classes.\n\n"
        f"{CONFIGS}example:\n  normres show --config=base --config.model.order=pre --svg=pre.svg",
        {
            **CONFIG,
            "--fields": (False, "print the config's fields and what they mean instead"),
            "--svg=FILE.svg": (None, "draw the network to this file"),
        },
    ),
    "plan": Command(
        _plan,
        "Say whether a run, or a sweep, fits a device that need not be there, and what it costs; trains nothing.",
        "The device's real compiler compiles the training step.  Devices: local (where some steps are timed too),\n"
        "h100 (needs the extra cuda13), or a TPU (needs the extra tpu) such as tpu-v5e:1x1 or tpu-v6e:1x1.\n\n"
        f"{CONFIGS}example:\n  normres plan --config=base --config.model.depth=1202 --device=h100\n"
        "  normres plan --config=degradation:short --sweep --seeds=3",
        {
            **CONFIG,
            "--device=NAME": ("local", "the device; local is the one at hand"),
            "--sweep": (False, "every arm of the config's sweep() or of a grid, or its seeds"),
            **GRID,
        },
    ),
    **report_commands.COMMANDS,
    **probe_commands.COMMANDS,
}


def _run(arguments: list[str]) -> int:
    """Runs a command; returns its exit status."""
    of_slurm, arguments = split(arguments, slurm.OPTION)
    # Before argparse, which takes what follows an option that it does not know for an argument of its own.
    overrides, plain = split(arguments, "--config.")
    if plain and not plain[0].startswith("-") and plain[0] not in (names := [*COMMANDS, *GROUPS]):
        raise UserError(f"{plain[0]!r} is no command; {nearest(plain[0], names)}")
    options, unknown = _parser().parse_known_args(plain)
    if of_slurm and getattr(options, "launcher", "") != "slurm":
        raise UserError(f"{slurm.OPTION}{next(iter(of_slurm))} needs `normres sweep --launcher=slurm`")
    command = COMMANDS.get(options.command) or GROUPS[options.command][0][options.below]
    options.arguments, options.slurm = arguments, of_slurm
    if unknown:
        if unknown[0].startswith("config."):
            raise UserError(f"{unknown[0]!r}: did you mean --{unknown[0]}?")
        known = [option.partition("=")[0] for option in command.options if option.startswith("--")]
        raise UserError(
            f"{unknown[0]!r} is no argument here; {nearest(unknown[0].partition('=')[0], [*known, '--help'])}"
        )
    if overrides and not command.takes_config:
        raise UserError(f"--config.{next(iter(overrides))}: {options.command} takes no config")
    if (file := getattr(options, "json", None)) and not file.absolute().parent.is_dir():
        raise UserError(f"--json={file}: there is no directory {file.parent}")
    return command.run(options, overrides) or 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        if isinstance(error, FaultInFile):
            print(error.trace, end="", file=sys.stderr)
        print(f"normres: {error}", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:
        # Who read the output has what was wanted; Python would say so again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"normres: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        return MISTAKE
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
