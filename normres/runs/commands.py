"""The command line of runs: train, sweep, status."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.runs import hosts, machine, slurm

# jax is imported inside the commands, after machine.prepare has set its flags.

MISTAKE = 2  # the exit status

OVERRIDES = """\
A config is a name in configs/, such as degradation, or a file of yours, such as mine.py.  It may take an argument after
a colon: --config=base:short.  Any field of configs/base.py can be set with --config.FIELD=VALUE, for example
  --config.model.depth=56 --config.model.norm=group --config.optim.boundaries=1000,1500
--config.recipe=NAME replaces the recipe that the file names, and keeps the file's own lines."""

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds the commands; add(name, summary, epilog) makes a parser."""
    _add_train(add)
    _add_sweep(add)
    status = add(
        "status",
        "Show every arm of a sweep: who trains it, its step, error, speed and time left, what failed and why.",
        "example:\n  normres status runs/demo --watch",
    )
    status.add_argument("workdir", type=Path, metavar="WORKDIR", help="the sweep's directory, or a run's")
    status.add_argument("--watch", action="store_true", help="show it anew until everything is done")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Adds the options that multiply the arms of a sweep."""
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="every arm with N seeds (default 1)")
    parser.add_argument(
        "--vary", action="append", default=[], metavar="FIELD=A,B", help="a grid: every combination of these values"
    )


def _add_train(add: Add) -> None:
    train = add(
        "train",
        "Train one network; the same command goes on where an interrupted run was.",
        f"{OVERRIDES}\n\nexample:\n  normres train --config=base:demo --config.model.depth=8 --workdir=runs/try",
    )
    train.add_argument("--config", required=True, metavar="NAME[:ARGUMENT]", help="the config")
    train.add_argument("--workdir", required=True, type=Path, help="the run's own directory")
    train.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of a run of several processes: process 0's address, the same for all",
    )
    train.add_argument("--processes", type=int, metavar="N", help="how many processes the run has")
    train.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0 on")


def _add_sweep(add: Add) -> None:
    sweep = add(
        "sweep",
        "Train every arm of a config file's sweep(), or of a grid; arms that are done are skipped, others go on.",
        f"{OVERRIDES}\n\nTwo sweeps over one --workdir share the work: an arm is trained by one process at a time.\n"
        "\nexample:\n  normres sweep --config=degradation:demo --workdir=runs/demo\n"
        "  normres sweep --config=base:demo --vary model.norm=batch,group --vary model.depth=8,20 --workdir=runs/grid",
    )
    sweep.add_argument("--config", required=True, metavar="NAME[:ARGUMENT]", help="the config")
    add_grid(sweep)
    sweep.add_argument("--workdir", required=True, type=Path, help="holds one directory per arm")
    sweep.add_argument(
        "--workers", default="auto", metavar="N", help="processes; auto: one an accelerator, one on a CPU"
    )
    sweep.add_argument(
        "--workers-per-device", type=int, default=1, metavar="N", help="with auto: so many share an accelerator"
    )
    sweep.add_argument(
        "--retries", type=int, default=2, metavar="N", help="tries of an arm after its first failure (default 2)"
    )
    sweep.add_argument("--no-wait", action="store_true", help="end although other workers still train some arms")
    sweep.add_argument(
        "--dead-after",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="take over the arm of a worker that gives no sign for so long (default 60)",
    )
    sweep.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="slurm: submit the workers as an array (extra slurm); --slurm.OPTION=VALUE is sbatch's --OPTION=VALUE, "
        "--slurm.workers=N their number",
    )
    sweep.add_argument("--list", action="store_true", help="print the arms and their state, and train nothing")


def _train(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    machine.prepare()
    from rich.console import Console

    from normres.runs import config, local

    loaded = config.load(options.config, overrides)
    with hosts.joined(options.coordinator, options.processes, options.process):
        if not hosts.is_writer():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        record = local.run(loaded, options.workdir, Console(), options.workdir.name)
        print(f"{record['status']} at step {record['step']}: {options.workdir / 'record.json'}")
    return 0


def _sweep(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    machine.prepare()
    from rich.console import Console

    from normres.runs import queue, results, status, sweep, workers

    arms = sweep.expand(options.config, overrides, options.seeds, options.vary)
    if options.list:
        for arm in arms:
            print(f"{results.status_of(options.workdir / arm.run_id):10} {arm.run_id}")
        return 0
    if queue.SINCE not in os.environ:
        status.note_sweep(options.workdir, shlex.join(["normres", *options.arguments]), arms)
    if options.launcher == "slurm":
        print(slurm.submit(options.arguments, len(arms), options.workdir, options.slurm))
        return 0
    if options.retries < 0:
        raise UserError(f"--retries={options.retries} must be at least 0")
    if not 1 <= options.dead_after <= 86_400:
        raise UserError(f"--dead-after={options.dead_after:g} must be from 1 to 86,400 seconds")
    number = workers.count(options.workers, options.workers_per_device)
    if number > 1:
        worst = workers.start(min(number, len(arms)), options.arguments)
        if worst == MISTAKE:  # which a worker has said
            return worst
    else:
        how = queue.Options(options.retries, not options.no_wait, options.dead_after)
        queue.Worker(arms, options.workdir, Console(), how).work()
        if queue.SINCE in os.environ:  # one of several, of which the one that started them says the end
            return 0
    return queue.conclude(arms, options.workdir)


def _status(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    if overrides:
        raise UserError(f"--config.{next(iter(overrides))}: status shows what is there and takes no config")
    from rich.console import Console

    from normres.runs import status

    width = None if sys.stdout.isatty() else 160  # of a pipe, rich takes 80
    status.show(options.workdir, Console(width=width), options.watch)
    return 0


COMMANDS: dict[str, Any] = {"train": _train, "sweep": _sweep, "status": _status}
