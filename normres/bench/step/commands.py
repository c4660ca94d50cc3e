"""The options of `normres bench step`.  jax is imported inside, after the environment is set."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from normres.bench.options import chosen, has_folder, integers
from normres.errors import UserError

EPILOG = """\
Every contender runs in a process of its own, as its users start it: normres with the flags of a training run, Flax with
those of your environment.  First the contenders' losses, gradients and updates of the timed step are compared, and
nothing is timed if they differ; then they are timed in turns.  What does not work here, such as torch.compile without a
C++ compiler, is left out and said.  The default cells are batch norm at every depth and the other norms at the first
one, beside normres with batch norm (normres-batch), in every dtype; torch.compile takes minutes and is by default only
in the cells of batch norm at the first depth.  With --json each cell is written when it is done, and the same command
goes on where it was killed if code, machine and options are the same.

examples:
  normres bench step --depths=20 --dtypes=bfloat16 --norms=batch
  normres bench step --torch=$HOME/torch/bin/python --json=step.json --chart=step.png
  normres bench step --from=docs/performance/step.json --chart=step.png --markdown=docs/performance.md"""

CONTENDERS = ("normres", "normres-batch", "flax", "torch", "torch-compile")
MINIMUM_REPEATS = 5  # below, quartiles say nothing


def add_command(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Adds `step`; add(name, summary, epilog) makes a parser."""
    step = add("step", "Time a whole training step beside stock Flax and PyTorch.", EPILOG)
    step.add_argument("--depths", default="20,56,110", metavar="A,B", help="default: 20,56,110")
    step.add_argument("--dtypes", metavar="A,B", help="default: float32,bfloat16")
    step.add_argument("--norms", metavar="A,B", help="of batch, group, layer, instance at every depth, or all")
    step.add_argument("--contenders", metavar="A,B", help=f"of {', '.join(CONTENDERS)}; normres always takes part")
    step.add_argument("--batch", type=int, default=128, metavar="N", help="examples (default 128)")
    step.add_argument("--width", type=int, default=16, metavar="N", help="of the first stage (default 16)")
    step.add_argument("--repeats", type=int, default=5, metavar="N", help="samples of each, 5 or more (default 5)")
    step.add_argument("--torch", metavar="PYTHON", help="a Python that imports torch (default: this, if it does)")
    step.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout of another commit, to be timed beside")
    step.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file, cell by cell")
    step.add_argument("--chart", type=Path, metavar="FILE.png", help="draw the numbers, and as FILE.pdf")
    step.add_argument("--markdown", type=Path, metavar="FILE.md", help="put the table between this page's markers")
    step.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing; show this --json file")
    names = "depths dtypes norms contenders batch width repeats torch before json chart markdown from help"
    # The parent's process computes nothing, and Flax's must not get our flags from it.
    step.set_defaults(bench=run, options=[f"--{name}" for name in names.split()], prepares=False)


def run(options: argparse.Namespace) -> int:
    """Checks the options, measures or reads, and shows."""
    has_folder("--chart", options.chart)
    if options.chart and options.chart.suffix != ".png":
        raise UserError(f"--chart={options.chart}: the name must end in .png")
    if options.markdown and not options.markdown.is_file():
        raise UserError(f"--markdown={options.markdown}: there is no such page")
    if options.source:
        from normres.bench.step import run as of_run

        of_run.show(of_run.read(options.source), options.chart, options.markdown)
        return 0
    if options.repeats < MINIMUM_REPEATS:
        raise UserError(f"--repeats={options.repeats}: quartiles take {MINIMUM_REPEATS} and more")
    named = chosen("--contenders", options.contenders, CONTENDERS)
    # A process that takes most of a GPU's memory at its start, as JAX's do, leaves none to the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from normres.bench.step import cells
    from normres.bench.step import run as of_run
    from normres.bench.step.measure import Sizes

    given = chosen("--norms", options.norms, cells.NORMS) if options.norms not in (None, "all") else None
    wanted = cells.chosen_cells(
        integers("--depths", options.depths),
        chosen("--dtypes", options.dtypes, cells.DTYPES),
        cells.NORMS if options.norms == "all" else given,
        options.batch,
        options.width,
    )
    needs_torch = options.contenders is not None and any(name.startswith("torch") for name in named)
    if options.before and not (options.before / "normres").is_dir():
        raise UserError(f"--before={options.before}: holds no folder normres")
    before = options.before and options.before.resolve()
    contenders, torch = of_run.contenders(named, options.torch, needs_torch, before)
    everywhere = options.contenders is not None
    document = of_run.measure_all(wanted, contenders, torch, Sizes(options.repeats), options.json, everywhere)
    of_run.show(document, options.chart, options.markdown, printed=True)
    return 0
