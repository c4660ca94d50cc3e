"""The command line of runs: train, sweep, status, evaluate, export.

jax is imported inside the commands, after machine.prepare has set its flags.
"""

import os
import shlex
import sys
from argparse import Namespace

from normres.errors import UserError, nearest
from normres.options import REQUIRED, Command, Options
from normres.runs import hosts, machine, slurm

MISTAKE = 2  # the exit status

CONFIG: Options = {"--config=NAME[:ARGUMENT]": (REQUIRED, "the config")}
CONFIGS = """\
A config is a name in configs/, such as degradation, or a file of yours, such as mine.py.  It may take an argument after
a colon: --config=base:short.  Any field of configs/base.py can be set with --config.FIELD=VALUE, for example
  --config.model.depth=56 --config.model.norm=group --config.optim.boundaries=1000,1500
--config.recipe=NAME replaces the recipe that the file names, and keeps the file's own lines.

"""
# What multiplies the arms of a sweep.
GRID: Options = {
    "--seeds=N": (1, "every arm with N seeds"),
    "--vary=FIELD=A,B": ([], "a grid: every combination of these values"),
}


def _train(options: Namespace, overrides: dict[str, str]) -> None:
    machine.prepare()
    from rich.console import Console

    from normres.runs import config, local

    loaded = config.load(options.config, overrides)
    hosts.join(options.coordinator, options.processes, options.process)
    if not hosts.is_writer():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    record = local.run(loaded, options.workdir, Console(), options.workdir.name)
    print(f"{record['status']} at step {record['step']}: {options.workdir / 'record.json'}")


def _sweep(options: Namespace, overrides: dict[str, str]) -> int:
    machine.prepare()
    from rich.console import Console

    from normres.runs import config, finished, queue, results, sinks, status, sweep
    from normres.runs.fields import digest

    if options.seeds == 1 and not options.vary and config.load_sweep(options.config) is None:
        hint = "add --seeds=N or --vary FIELD=A,B,... (normres train runs a single config)"
        raise UserError(f"{options.config}: defines no sweep(); {hint}")
    arms = sweep.expand(options.config, overrides, options.seeds, options.vary)
    for arm in arms:
        sinks.check(arm.config.train.sinks)
    if options.again:  # by name, as the digest changes with the source of the data; without the seed that ends it
        names = {tuple(run.path.name.rpartition("seed=")[:2]) for run in results.read_runs(options.again)}
        arms = [arm for arm in arms if tuple(arm.run_id.rpartition("seed=")[:2]) in names]
        if not arms:
            raise UserError(f"--again={options.again} holds no run of these arms")
    runs = results.read_runs(options.kept) if options.kept else []
    digests = {run.record["config_digest"] for run in runs if run.record["status"] in results.DONE}
    kept = [arm for arm in arms if digest(arm.config) in digests]
    is_worker = queue.SINCE in os.environ  # one of several; the process that started them speaks for all
    if not is_worker:
        for line in sweep.misleading(arms):
            print(f"warning: {line}", file=sys.stderr)
    if options.list:
        for arm in arms:
            print(f"{'kept' if arm in kept else results.status_of(options.workdir / arm.run_id):10} {arm.run_id}")
        return 0
    if kept and not is_worker:
        print(f"{len(kept)} of {len(arms)} arms are in {options.kept} and are not trained again")
    arms = [arm for arm in arms if arm not in kept]
    if options.launcher not in (launchers := ("local", "slurm")):
        raise UserError(f"--launcher={options.launcher} does not exist; {nearest(options.launcher, launchers)}")
    if options.retries < 0:
        raise UserError(f"--retries={options.retries} must be at least 0")
    if not 1 <= options.dead_after <= 86_400:
        raise UserError(f"--dead-after={options.dead_after:g} must be from 1 to 86,400 seconds")
    done = [arm for arm in arms if results.status_of(options.workdir / arm.run_id) in results.DONE]
    to_do = len(arms) - len(done)
    on_slurm = options.launcher == "slurm"
    number = 0 if on_slurm else min(queue.count_workers(options.workers, options.workers_per_device), to_do)
    if not is_worker:
        for line in {finished.other_data(options.workdir / arm.run_id, arm.config) for arm in done} - {""}:
            print(f"warning: {line}; another --workdir trains it anew", file=sys.stderr)
        of_slurm = [f"{slurm.OPTION}{name}={value}" for name, value in options.slurm.items()]
        status.note_sweep(options.workdir, shlex.join(["normres", *options.arguments, *of_slurm]), arms)
    if on_slurm and to_do:
        print(slurm.submit(options.arguments, to_do, options.workdir, options.slurm))
        return 0
    if number > 1:
        worst = queue.start_workers(number, options.arguments)
        if worst == MISTAKE:  # which a worker has said
            return worst
    elif not on_slurm:
        wait, dead_after = not options.no_wait, options.dead_after
        queue.Worker(arms, options.workdir, Console(), options.retries, wait, dead_after).work()
        if is_worker:
            return 0
    return queue.conclude(arms, options.workdir)


def _status(options: Namespace, _: dict[str, str]) -> None:
    from rich.console import Console

    from normres.runs import status

    width = None if sys.stdout.isatty() else 160  # of a pipe, rich takes 80
    status.show(options.workdir, Console(width=width), options.watch)


def _evaluate(options: Namespace, overrides: dict[str, str]) -> None:
    machine.prepare()
    from normres.runs import durable, finished

    result = finished.evaluate(options.run, overrides, options.which)
    print(finished.in_words(result))
    if options.json:
        durable.write_json(options.json, result)


def _export(options: Namespace, _: dict[str, str]) -> None:
    machine.prepare()
    from normres.runs import export

    export.export(options.run, options.output, options.format, options.which, options.fold, options.dtype)
    print(options.output)


FINISHED: Options = {
    "RUN": (REQUIRED, "the run's directory"),
    "--which=WEIGHTS": ("last", "weights: last, or best (lowest test error) if the run kept them"),
}
COMMANDS = {
    "train": Command(
        _train,
        "Train one network; the same command goes on where an interrupted run was.",
        f"{CONFIGS}example:\n  normres train --config=base:demo --config.model.depth=8 --workdir=runs/try",
        {
            **CONFIG,
            "--workdir=DIR": (REQUIRED, "the run's own directory"),
            "--coordinator=HOST:PORT": (None, "of a run of several processes: process 0's address, the same for all"),
            "--processes=N": (None, "how many processes the run has"),
            "--process=I": (None, "which of them this is, from 0 on"),
        },
    ),
    "sweep": Command(
        _sweep,
        "Train every arm of a config file's sweep() or of a grid, or seeds of one config; what is done is skipped.",
        f"{CONFIGS}Two sweeps over one --workdir share the work: an arm is trained by one process at a time.\n\n"
        "example:\n  normres sweep --config=degradation:demo --workdir=runs/demo\n"
        "  normres sweep --config=base:demo --vary model.norm=batch,group --vary model.depth=8,20 --workdir=runs/grid",
        {
            **CONFIG,
            **GRID,
            "--workdir=DIR": (REQUIRED, "holds one directory per arm"),
            "--workers=N|auto": ("auto", "processes; auto: one an accelerator, else one a core"),
            "--workers-per-device=N": (1, "with auto: so many share an accelerator"),
            "--retries=N": (2, "tries of an arm after its first failure"),
            "--no-wait": (False, "end although other workers still train some arms"),
            "--dead-after=SECONDS": (60.0, "take over the arm of a worker that gives no sign for so long"),
            "--launcher=NAME": (
                "local",
                "slurm: submit the workers as an array (extra slurm); --slurm.OPTION=VALUE is sbatch's --OPTION=VALUE, "
                "--slurm.workers=N their number",
            ),
            "--kept=DIR": (None, "skip arms whose runs were kept there (normres collect --to=DIR)"),
            "--again=DIR": (None, "train only the arms whose runs were kept there"),
            "--list": (False, "print the arms and their state, and train nothing"),
        },
    ),
    "status": Command(
        _status,
        "Show every arm of a sweep: who trains it, its step, error, speed and time left, what failed and why.",
        "example:\n  normres status runs/demo --watch",
        {
            "WORKDIR": (REQUIRED, "the sweep's directory, or a run's"),
            "--watch": (False, "show it anew until everything is done"),
        },
        takes_config=False,
    ),
    "evaluate": Command(
        _evaluate,
        "Measure a run's weights on its test images or on other data; trains nothing.",
        "Of the config, the fields of --config.data that do not belong to the training,\n"
        "--config.train.eval_batch_size and --config.train.ops may be set.\n\n"
        "examples:\n  normres evaluate runs/try\n"
        "  normres evaluate runs/try --config.data.source=folder --config.data.path=photos --json=photos.json\n"
        "  normres evaluate runs/try --config.data.corruptions=contrast,gaussian_noise",
        {**FINISHED, "--json=FILE": (None, "write the numbers to this file too")},
    ),
    "export": Command(
        _export,
        "Write a run's network to one file, for PyTorch or for serving; trains nothing.",
        "safetensors, torch  a state dict for PyTorch, by torchvision's names (docs/export.md has a module that takes "
        "it)\nstablehlo           uint8 images to logits for CPU, CUDA and TPU, which jax.export reads; needs no "
        "normres\ntorch needs PyTorch, the others need the extra `export`.\n\nexamples:\n"
        "  normres export runs/try --format=safetensors --output=net.safetensors\n"
        "  normres export runs/try --format=stablehlo --fold --output=net.stablehlo",
        {
            **FINISHED,
            "--format=FORMAT": ("safetensors", "of the file"),
            "--output=FILE": (REQUIRED, "where to write"),
            "--fold": (False, "fold batch norms into the convolutions before them"),
            "--dtype=DTYPE": ("", "of StableHLO's activations: float32 | bfloat16 (default: the run's)"),
        },
        takes_config=False,
    ),
}
