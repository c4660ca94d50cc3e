"""The command `normres probe`: activations and gradients of networks layer by layer, before any training."""

import math
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from normres.errors import UserError
from normres.options import Command
from normres.runs import machine
from normres.runs.commands import CONFIG, CONFIGS, GRID

# jax is imported inside the command, after machine.prepare has set its flags.

TEXT = """\
Of one batch of training images it prints, of the first, the median and the last layer or block: the standard deviation
of the responses (after the norm, before the nonlinearity), the gradient norm of the kernels, mean and variance of the
residual stream, and the cosine similarity of different images.  --config.train.probe_every=N measures the same in
training.

examples:
  normres probe --config=base --config.model.depth=1202
  normres probe --config=base --config.model.depth=110 --vary model.norm=batch,layer --vary model.shortcut=none,A
  normres probe --config=signals:paper --json=signals.json --draw=figures"""

Values = Mapping[str, Sequence[float | None]]


def _probe(options: Namespace, overrides: dict[str, str]) -> None:
    machine.prepare()
    from normres.runs import durable, fields, local, sweep

    expanded = sweep.expand(options.config, overrides, options.seeds, options.vary)
    of_all = "".join(f"{name.rpartition('.')[2]}={value} " for name, value in overrides.items())
    arms = [(of_all + arm.label, arm.config) for arm in expanded]
    for line in sweep.misleading(expanded):
        print(f"warning: {line}", file=sys.stderr)
    measured, of = dict[str, Values](), ""
    for label, config in arms:
        if (wanted := repr(config.data)) != of:
            dataset, of = local.load_data(config), wanted
        measured[label] = initial(config, dataset)
        print(table(label, measured[label]), flush=True)
    if options.json:
        entries = [
            {"arm": label, "config": fields.flatten(config.to_dict()), "values": measured[label]}
            for label, config in arms
        ]
        durable.write_json(options.json, {"arms": entries})
        print(options.json)
    if options.draw:
        draw([(label, config.model.shortcut, measured[label]) for label, config in arms], options.draw)


def initial(config: Any, dataset: Any) -> Values:
    """Returns what Programs.probe measures of a config's network before the first step; None for what is not finite.

    Raises:
      UserError: the network is no ResNet.
    """
    import jax

    from normres.runs import finished
    from normres.training.programs import Programs

    if config.model.module or config.model.family != "resnet":
        field = "module" if config.model.module else "family"
        raise UserError(f"config.model.{field}={config.model[field]!r}: only ResNets can be probed")
    device = jax.devices()[:1]
    ops, _ = machine.operations(config.train.ops, device)
    programs = Programs(config, dataset, machine.resolve_dtype(config.train.dtype), device, ops)
    state = programs.initial_state()
    if config.init_from:
        state, _, lines = finished.init_from(state, config.init_from)
        print(*lines, sep="\n")
    values = programs.probe(state)
    return {name: [v if math.isfinite(v) else None for v in numbers] for name, numbers in values.items()}


def table(label: str, values: Values) -> str:
    """Returns a row per quantity: how many numbers, and the first, the median and the last of them."""
    from normres.report.tables import Table, written
    from normres.training.probe import QUANTITIES

    rows = []
    for name, numbers in values.items():
        words, of = QUANTITIES[name]
        known = [value for value in numbers if value is not None]
        shown = (numbers[0], median(known) if known else None, numbers[-1])
        cells = ["not finite" if value is None else f"{value:.3g}" for value in shown]
        rows.append([words, f"{len(numbers):,} {of}s", *cells])
    header = [label, "", "first", "median", "last"]
    return f"{written(Table(header, rows), 'simple', str)}\n"


def draw(measured: Sequence[tuple[str, str, Values]], folder: Path) -> None:
    """Writes a figure of each quantity to a folder, and prints the paths.

    `measured` has label, shortcut and values of each network: a panel for each shortcut, a line for each network.
    """
    from normres.report import paper, probes

    for name, figure in probes.FIGURES.items():
        panels: dict[str, dict[str, Any]] = {}
        for label, shortcut, values in measured:
            words = [word for word in label.split() if word != f"shortcut={shortcut}"]
            panels.setdefault(f"shortcut {shortcut}", {})[" ".join(words)] = figure.values(values)
        for path in paper.save(probes.of_values(name, figure, panels, ", before training."), folder):
            print(path)


COMMANDS = {
    "probe": Command(
        _probe,
        "Measure activations and gradients layer by layer before training, at any depth; trains nothing.",
        f"{CONFIGS}{TEXT}",
        {
            **CONFIG,
            **GRID,
            "--json=FILE": (None, "write all numbers to this file"),
            "--draw=DIR": (None, "draw a figure of each quantity there"),
        },
    )
}
