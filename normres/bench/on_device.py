"""`normres bench device`: everything that only a real accelerator can say, in a few minutes and one JSON file.

It imports no more than jax, flax, optax, orbax, rich, matplotlib, pillow and ml_collections, which a GPU's image has.
"""

import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normres import norms
from normres.bench import output
from normres.bench.step import cells, measure, workers
from normres.configs import base
from normres.data import augment
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import machine
from normres.runs.durable import read_json, write_json
from normres.runs.local import load_data
from normres.runs.provenance import provenance
from normres.training.programs import Programs

TORCH = ("torch", "torch-default", "torch-reduce-overhead", "torch-max-autotune")
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

    keys = jax.random.split(jax.random.key(0), len(images))
    crops = [on(where, augment.crop_flip, images, keys) for where in (host, device)]
    errors = {}
    for name in norms.TABLE:
        spec = norms.find_spec(name, groups=4, sub_batches=2)

        def forward_and_back(x: jax.Array, dy: jax.Array, spec: Any = spec) -> Any:
            y, back = jax.vjp(lambda x: norms.normalization(x, spec)[0], x)
            return y, back(dy)[0]

        x, dy = (random.standard_normal((16, 8, 8, 16)).astype(np.float32) for _ in range(2))
        pairs = zip(*(on(where, forward_and_back, x, dy) for where in (host, device)), strict=True)
        errors[name] = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
    return {"crops_equal": bool(np.array_equal(*crops)), "errors_of_norms": errors}


def steps(
    depths: tuple[int, ...], batch: int, width: int, repeats: int, torch: str | None, until: float = math.inf
) -> Section:
    """Times a training step beside Flax, PyTorch in all its modes, and the scanned form; begins no depth after `until`.

    The first depth is always measured; those that the time does not allow are in "left_out".
    """
    selected = [cells.Cell(depth, "bfloat16", "batch", batch, width) for depth in depths]
    contenders, version = workers.contenders(("flax", "scanned")), "absent"
    if found := workers.find_torch(torch, TORCH):
        contenders, version = contenders | found[0], found[1]
    conditions = measure.conditions(selected, contenders, version, repeats, None)
    document = measure.measure_all(selected[:1], contenders, conditions, None) | {"left_out": []}
    for cell in selected[1:]:
        if time.monotonic() > until:
            document["left_out"].append(cell.depth)
            print(f"depth {cell.depth} is left out: the time is over", flush=True)
        else:
            document["cells"] += measure.measure_all([cell], contenders, conditions, None)["cells"]
    return document


def together(depth: int, batch: int, width: int, count: int) -> Section:
    """Returns the images per second of 1, 2, 4 processes that train at once on this device."""
    cell = cells.Cell(depth, "bfloat16", "batch", batch, width)
    rates = {}
    for number in TOGETHER:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            source = folder / "before.npz"
            np.savez(source, allow_pickle=False, **cells.arrays(cell))
            contender = workers.contenders(())["normres"]
            running = []
            for place in range(number):
                (folder / str(place)).mkdir()
                worker = stack.enter_context(workers.Worker(contender, folder / str(place)))
                destination = str(folder / f"after{place}.npz")
                worker.ask("prepare", spec=cell.spec(), source=str(source), destination=destination)
                running.append(worker)
            pool = stack.enter_context(ThreadPoolExecutor(number))
            began = time.perf_counter()
            list(pool.map(lambda worker: worker.ask("sample", steps=count), running))  # raises what a worker raises
            rates[str(number)] = number * (count + 1) * batch / (time.perf_counter() - began)
    return {"depth": depth, "images_per_second": rates}


def recipe(path: str, until: float, fields: dict[str, Any]) -> Section:
    """Trains ResNet-20 by the paper's recipe until a time, or its end, and returns how far it came and how well."""
    source = {"data.source": "binary", "data.path": path} if path else {"data.source": "embedded"}
    config = configs.apply(base.get_config("he2015"), source | fields)
    dtype = machine.resolve_dtype(config.train.dtype)
    ops, _ = machine.operations(config.train.ops, jax.devices())
    programs = Programs(config, load_data(config), dtype, ops=ops)
    state, step = programs.initial_state(), 0
    programs.compile()
    began = time.perf_counter()
    metrics: dict[str, Any] = {}
    while step < config.train.steps and time.monotonic() < until:
        for _ in range(100):  # between looks at the clock, so that the device is never waited for
            count = min(programs.steps_per_program, config.train.steps - step)
            state, metrics = programs.train(state, step, count)
            step += count
            if step == config.train.steps:
                break
        jax.block_until_ready(state)
    seconds = time.perf_counter() - began
    tested = programs.evaluate(state, "test") or {}
    last = {name: float(values[count - 1]) for name, values in metrics.items()}
    return {
        **{"step": step, "steps": config.train.steps, "seconds": seconds, "seconds_a_step": seconds / max(step, 1)},
        **{"last_training_step": last, "test": tested, "data": path or "embedded", "seed": config.seed},
    }


def run(options: Any) -> None:
    """Runs all sections, and writes the JSON after each; one that fails says why and stops no other."""
    until = time.monotonic() + 60 * options.minutes
    sizes = (options.batch, options.width)
    document: dict[str, Any] = {"device": output.device_name(), "provenance": provenance()}
    fields = {"train.batch_size": options.batch, "train.eval_batch_size": options.batch, "model.width": options.width}
    sections: dict[str, Callable[[], Section]] = {
        "checks": checks,
        "steps": lambda: steps(options.depths, *sizes, options.repeats, options.torch, (time.monotonic() + until) / 2),
        "together": lambda: together(options.depths[0], *sizes, options.steps),
        "recipe": lambda: recipe(options.path, until, fields),
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


def read(file: Path) -> dict[str, Any]:
    """Reads what run wrote; anything else is a UserError."""
    document = read_json(file)
    if not (isinstance(document, dict) and {"device", "checks", "steps"} <= set(document)):
        raise UserError(f"{file}: no measurements of `normres bench device`")
    return document


def markdown(document: dict[str, Any]) -> str:
    """Returns all sections for a page."""
    from normres.bench.step import show

    failed = {name: section["error"] for name, section in document.items() if "error" in section}
    texts = [f"On {document['device']}."] + [f"{name} failed: {error}" for name, error in failed.items()]
    if "checks" not in failed:
        worst = max(document["checks"]["errors_of_norms"].items(), key=lambda pair: pair[1])
        equal = "equal" if document["checks"]["crops_equal"] else "do not equal"
        texts.append(f"Crops {equal} the CPU's bit for bit; norms differ by at most {worst[1]:.1e} ({worst[0]}).")
    if "steps" not in failed:
        texts.append(show.markdown(document["steps"]))
    if "together" in document and "together" not in failed:
        rates = document["together"]["images_per_second"]
        lines = [(number, f"{rate:,.0f}") for number, rate in rates.items()]
        texts.append(output.table(("processes at once", "images a second, in all"), lines, markdown=True))
    if "recipe" in document and "recipe" not in failed:
        done = document["recipe"]
        texts.append(
            f"ResNet-20, the whole recipe: {done['step']:,} of {done['steps']:,} steps in {done['seconds']:.0f} s, "
            f"{1e3 * done['seconds_a_step']:.2f} ms each; test error {done['test']['error']:.2%} ({done['data']})."
        )
    return "\n\n".join(texts) + "\n"
