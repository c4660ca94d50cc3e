"""`normres bench device`: everything that only a real accelerator can say, in a few minutes and one JSON file.

It imports no more than jax, flax, optax, orbax, rich, matplotlib, pillow and ml_collections, which a GPU's image has.
"""

import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from normres import norms
from normres.bench import commands, output
from normres.bench.step import measure, workers
from normres.bench.step.cells import Cell
from normres.configs import base
from normres.data import augment
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import machine
from normres.runs.durable import write_json
from normres.runs.local import load_data
from normres.runs.provenance import provenance
from normres.training.loop import fit
from normres.training.programs import Programs

WRITTEN = ("device", {"device", "checks"})  # see output.read
TOGETHER = (1, 2, 4)  # runs side by side on one device

Section = dict[str, Any]


def checks() -> Section:
    """Compares this device with the CPU: crops bit for bit, and outputs and gradients of each norm in float32.

    An error is the largest difference, relative to the largest number.
    """
    host, device = jax.devices("cpu")[0], jax.devices()[0]
    random = np.random.default_rng(0)
    images = random.standard_normal((64, 32, 32, 3)).astype(np.float32)

    def on(where: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        return jax.device_get(jax.jit(function)(*jax.device_put(arguments, where)))

    def forward_and_back(spec: norms.NormSpec, x: jax.Array, dy: jax.Array) -> Any:
        y, back = jax.vjp(lambda x: norms.normalization(x, spec)[0], x)
        return y, back(dy)[0]

    keys = jax.random.split(jax.random.key(0), len(images))
    crops = [on(where, augment.crop_flip, images, keys) for where in (host, device)]
    errors = {}
    for name in norms.TABLE:
        of_norm = partial(forward_and_back, norms.find_spec(name, groups=4, sub_batches=2))
        x, dy = (random.standard_normal((16, 8, 8, 16)).astype(np.float32) for _ in range(2))
        pairs = zip(*(on(where, of_norm, x, dy) for where in (host, device)), strict=True)
        errors[name] = float(np.max([np.abs(a - b).max() / np.abs(a).max() for a, b in pairs]))
    return {"crops_equal": bool(np.array_equal(*crops)), "errors_of_norms": errors}


def together(cell: Cell, count: int) -> Section:
    """Returns the images per second of 1, 2, 4 processes that train at once on this device, `count` steps each."""
    contender, rates = workers.contenders(())[0]["normres"], {}
    for number in TOGETHER:
        with measure.prepared(cell, dict.fromkeys(map(str, range(number)), contender)) as (running, _, left_out):
            if left_out:
                raise UserError(f"{number} processes at once: {next(iter(left_out.values()))}")
            with ThreadPoolExecutor(number) as pool:
                began = time.perf_counter()
                list(pool.map(lambda worker: worker.ask("sample", steps=count), running.values()))
                rates[str(number)] = number * (count + 1) * cell.batch / (time.perf_counter() - began)
    return {"depth": cell.depth, "images_per_second": rates}


def recipe(cell: Cell, path: str, until: float) -> Section:
    """Trains ResNet-20 by the paper's recipe until a time, or its end, and returns how far it came and how well.

    Width and batch size are the cell's.
    """
    source = {"data.source": "binary", "data.path": path} if path else {"data.source": "embedded"}
    config = base.get_config("he2015")
    # Nothing but training until the first checkpoint, which comes when it is told to stop or at the end.
    fields = dict.fromkeys(("train.eval_every", "train.checkpoint_every"), config.train.steps)
    fields |= {"train.batch_size": cell.batch, "train.eval_batch_size": cell.batch, "model.width": cell.width}
    config = configs.apply(config, source | fields)
    dtype = machine.resolve_dtype(config.train.dtype)
    ops, _ = machine.operations(config.train.ops, jax.devices())
    programs = Programs(config, load_data(config), dtype, ops=ops)
    state = programs.initial_state()
    programs.compile()
    began = time.perf_counter()
    for event, after in fit(programs, state, lambda: time.monotonic() > until):
        state = after
        if event.kind == "checkpoint":
            break
    step = int(state.step)
    seconds = time.perf_counter() - began
    return {
        **{"step": step, "steps": config.train.steps, "seconds": seconds, "seconds_a_step": seconds / max(step, 1)},
        **{"test": programs.evaluate(state, "test"), "data": path or "embedded", "seed": config.seed},
    }


def run(options: Any, selected: Sequence[Cell]) -> int:
    """Runs all sections, and writes the JSON after each; one that fails says why and stops no other.

    Returns the exit status: 1 if one has failed.
    """
    until = time.monotonic() + 60 * options.minutes
    document: dict[str, Any] = {"device": output.device_name(), "provenance": provenance()}
    sections: dict[str, Callable[[], Section]] = {
        "checks": checks,
        # Half of the time is for training.
        "steps": lambda: measure.measure_all(
            selected, commands.CONTENDERS, options.repeats, options.torch, until=(time.monotonic() + until) / 2
        ),
        "together": lambda: together(selected[0], options.steps),
        "recipe": lambda: recipe(selected[0], options.path, until),
    }
    for name, section in sections.items():
        began = time.monotonic()
        try:
            document[name] = section()
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            document[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        write_json(options.json, document)
    return int(any("error" in document[name] for name in sections))


def _checks_text(section: Section) -> str:
    worst, error = max(section["errors_of_norms"].items(), key=lambda pair: (math.isnan(pair[1]), pair[1]))
    equal = "equal" if section["crops_equal"] else "do not equal"
    return f"Crops {equal} the CPU's bit for bit; norms differ by at most {error:.1e} ({worst})."


def _together_text(section: Section) -> str:
    lines = [(number, f"{rate:,.0f}") for number, rate in section["images_per_second"].items()]
    return output.table(("processes at once", "images a second, in all"), lines, markdown=True)


def _recipe_text(section: Section) -> str:
    return (
        f"ResNet-20, the whole recipe: {section['step']:,} of {section['steps']:,} steps in "
        f"{section['seconds']:.0f} s, {1e3 * section['seconds_a_step']:.2f} ms each; "
        f"test error {section['test']['error']:.2%} ({section['data']})."
    )


TEXTS = {"checks": _checks_text, "steps": measure.markdown, "together": _together_text, "recipe": _recipe_text}


def text(document: dict[str, Any]) -> str:
    """Returns the sections that are there, in Markdown."""
    texts = [f"On {document['device']}."]
    for name, words in TEXTS.items():
        if name in document:
            error = document[name].get("error")
            texts.append(f"{name} failed: {error}" if error else words(document[name]))
    return "\n\n".join(texts) + "\n"
