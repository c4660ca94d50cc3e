"""The command line of finished runs: evaluate, export."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.runs import machine

EVALUATE = """\
Of the config, --config.data.*, --config.train.eval_batch_size and --config.train.ops may be set.

examples:
  normres evaluate runs/try
  normres evaluate runs/try --config.data.source=folder --config.data.path=photos --json=photos.json
  normres evaluate runs/try --config.data.corruptions=contrast,gaussian_noise"""

EXPORT = """\
safetensors, torch  a state dict for PyTorch, by torchvision's names (docs/export.md has a module that takes it)
stablehlo           uint8 images to logits for CPU, CUDA and TPU, which jax.export reads; needs no normres
Formats need the extra `export`, but for torch, which needs PyTorch.

examples:
  normres export runs/try --format=safetensors --output=net.safetensors
  normres export runs/try --format=stablehlo --fold --output=net.stablehlo"""

WHICH = "weights: last, or best (lowest test error) if the run kept them (default last)"

Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """Adds both commands; add(name, summary, epilog) makes a parser."""
    measure = add("evaluate", "Measure a run's weights on its test images or on other data; trains nothing.", EVALUATE)
    write = add("export", "Write a run's network to one file, for PyTorch or for serving; trains nothing.", EXPORT)
    for parser in (measure, write):
        parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
        parser.add_argument("--which", default="last", metavar="WEIGHTS", help=WHICH)
    measure.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
    write.add_argument("--format", default="safetensors", metavar="FORMAT", help="default: safetensors")
    write.add_argument("--output", required=True, type=Path, metavar="FILE", help="where to write")
    write.add_argument("--fold", action="store_true", help="fold batch norms into the convolutions before them")
    write.add_argument(
        "--naming", default="torchvision", metavar="NAMES", help="of a ResNet's state dict: torchvision | pytorch_cifar"
    )
    write.add_argument(
        "--dtype",
        default="",
        metavar="DTYPE",
        help="of StableHLO's activations: float32 | bfloat16 (default: the run's)",
    )


def evaluate(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Runs `normres evaluate`."""
    machine.prepare()
    from normres.runs import durable, finished

    result = finished.evaluate(options.run, overrides, options.which)
    print(in_words(result))
    if options.json:
        durable.write_json(options.json, result)
    return 0


def in_words(result: dict[str, Any]) -> str:
    """Returns the table of what finished.evaluate returned."""
    data = result["data"]
    lines = [
        f"{result['run']}, {result['which']} weights (step {result['step']:,}), on {data['test_examples']:,} "
        f"{data['evaluated_on']} images of {data['name']} ({data['source']})"
    ]
    rows = dict(result["values"])
    for name, errors in (result["corrupted"] or {}).items():
        rows |= {f"error, {name} {severity}": error for severity, error in enumerate(errors, start=1)}
    width = max(map(len, rows))
    for name, value in rows.items():
        shown = "not finite" if value is None else f"{value:.2%}" if "error" in name else f"{value:.4f}"
        lines.append(f"  {name:{width}}  {shown}")
    return "\n".join(lines)


def export(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Runs `normres export`."""
    if overrides:
        raise UserError(f"--config.{next(iter(overrides))}: export writes what was trained and takes no config")
    machine.prepare()
    from normres.runs import export as files

    wanted = files.Options(options.format, options.which, options.fold, options.naming, options.dtype)
    files.export(options.run, options.output, wanted)
    print(options.output)
    return 0


COMMANDS: dict[str, Any] = {"evaluate": evaluate, "export": export}
