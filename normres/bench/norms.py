"""`normres bench norms`: the time of forward and backward of each norm, beside Flax's module, in one process."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from normres.bench import contenders
from normres.errors import UserError
from normres.runs import results
from normres.show.text import table

SHAPES = ((128, 32, 32, 16), (128, 8, 8, 64))
NORMS = tuple(contenders.MODULES)
GROUPS = 4
REPEATS = 15
SAMPLE_SECONDS = 0.03  # one sample calls often enough to last this long
COPY_BYTES = 2**28
ARRAYS_MOVED = 5  # read x, write y; read x and dy, write dx

# What contenders may differ by, relative to the largest number of an output.  In float32 Flax loses some of the
# variance as E[x^2] - E[x]^2, and gradients of parameters are sums that cancel.
TOLERANCE = {"float32": 5e-4, "bfloat16": 2e-2, "float16": 4e-3}

HEADER = """\
One training step of one norm (output, gradients of the input, the scale and the bias, running averages), {dtype}.
normres.linen and flax.linen ({flax}) in this process, under the same settings, called in turns.
  time      median of {repeats} samples of {seconds:g} s and more, after a warm-up
  ratio     normres / Flax, pair by pair: median (lower to upper quartile); below 1 normres is faster
  of copy   share of this machine's copy bandwidth that is reached, if only what must be moved counts:
            read x, write y, read x and dy, write dx, {arrays} arrays.  Arrays that fit a cache can exceed 1.
Copy bandwidth ({copy_bytes} MB read and written in place by jnp.negative): {copy:.1f} GB/s.
JAX {jax} on {device}; XLA_FLAGS={flags}"""


@dataclass(frozen=True)
class Timing:
    """Of one norm on one shape; seconds, and ratios normres / Flax (lower quartile, median, upper quartile)."""

    norm: str
    shape: tuple[int, ...]
    dtype: str
    normres: float
    flax: float
    ratio: tuple[float, float, float]
    normres_of_copy: float
    flax_of_copy: float


def paired(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int, sample_seconds: float = SAMPLE_SECONDS
) -> tuple[list[float], list[float]]:
    """Returns the seconds per call of two functions, sampled in turns and each first as often as the other."""
    both = (one, other)
    calls = [_calls(function, sample_seconds) for function in both]
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 else (1, 0):
            seconds[which].append(_sample(both[which], calls[which]))
    return seconds


def _calls(function: Callable[[], Any], sample_seconds: float) -> int:
    """Warms up, and returns how many calls last long enough."""
    jax.block_until_ready(function())
    once = min(_sample(function, 1) for _ in range(3))
    return max(1, round(sample_seconds / once))


def _sample(function: Callable[[], Any], calls: int) -> float:
    """Returns the seconds per call of `calls` calls."""
    # An accelerator works off a queue while the next call is prepared; on a CPU queued calls compete for its cores.
    queued = jax.default_backend() != "cpu"
    began = time.perf_counter()
    for _ in range(calls):
        result = function() if queued else jax.block_until_ready(function())
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / calls


def copy_bandwidth(size: int = COPY_BYTES, repeats: int = REPEATS) -> float:
    """Returns the bytes per second that one pass over an array of `size` bytes reads and writes.

    In place, or the time to get fresh memory from the system is measured: on a CPU that can take most of it.
    """
    array = jnp.ones(size // 4, jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0)
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        array = jax.block_until_ready(negate(array))
        seconds.append(time.perf_counter() - began)
    return 2 * array.nbytes / statistics.median(seconds[1:])


def prepared(norm: str, shape: tuple[int, ...], dtype: str) -> dict[str, Callable[[], Any]]:
    """Returns per library a call of its compiled training step on the same arrays, and compiles.

    Raises:
      UserError: the libraries do not compute the same.
    """
    random = np.random.default_rng(0)
    x, dy = (jnp.asarray(0.5 + random.standard_normal(shape), dtype) for _ in range(2))
    # Not ones and zeros, under which a forgotten scale or bias would not show.
    variables = contenders.module("Flax", norm, GROUPS, dtype).init(jax.random.key(0), x)
    parameters = {name: jnp.asarray(1 + random.random(value.shape)) for name, value in variables["params"].items()}
    variables = {**variables, "params": parameters}
    steps = {name: contenders.train_step(contenders.module(name, norm, GROUPS, dtype)) for name in contenders.LIBRARIES}
    check_same(f"{norm} on {shape}", *(step(variables, x, dy) for step in steps.values()))
    return {name: partial(step, variables, x, dy) for name, step in steps.items()}


def check_same(what: str, one: Any, other: Any) -> None:
    """Compares two trees of outputs.

    Raises:
      UserError: two arrays differ by more than TOLERANCE, or in number, shape or dtype.
    """
    found, others = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    if [(path, a.shape, a.dtype) for path, a in found] != [(path, b.shape, b.dtype) for path, b in others]:
        raise UserError(f"{what}: the contenders return different things, so their times say nothing")
    for (path, a), (_, b) in zip(found, others, strict=True):
        values = [np.asarray(value, np.float64) for value in (a, b)]
        error = np.abs(values[0] - values[1]).max() / max(np.abs(values[0]).max(), 1e-30)
        if not error <= TOLERANCE[str(a.dtype)]:
            place = jax.tree_util.keystr(path)
            raise UserError(f"{what}: the contenders differ by {error:.1e} at {place}, so their times say nothing")


def measure(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    repeats: int,
    sample_seconds: float,
    copy: float,
) -> Iterator[Timing]:
    """Yields the timing of each norm on each shape; `copy` is the machine's bandwidth in bytes per second."""
    for shape in shapes:
        for norm in names:
            steps = prepared(norm, shape, dtype)
            own, others = paired(steps["normres"], steps["Flax"], repeats, sample_seconds)
            ratios = [one / other for one, other in zip(own, others, strict=True)]
            lower, middle, upper = (float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
            least = ARRAYS_MOVED * math.prod(shape) * jnp.dtype(dtype).itemsize / copy
            times = statistics.median(own), statistics.median(others)
            yield Timing(norm, shape, dtype, *times, (lower, middle, upper), least / times[0], least / times[1])


def text(timings: Sequence[Timing]) -> str:
    """Returns the table."""
    header = ("norm", "shape", "normres", "Flax", "ratio", "", "normres of copy", "Flax of copy")
    rows = [
        (
            timing.norm,
            " ".join(str(size) for size in timing.shape),
            f"{1e3 * timing.normres:.3f} ms",
            f"{1e3 * timing.flax:.3f} ms",
            f"{timing.ratio[1]:.2f}",
            f"({timing.ratio[0]:.2f} to {timing.ratio[2]:.2f})",
            f"{timing.normres_of_copy:.0%}",
            f"{timing.flax_of_copy:.0%}",
        )
        for timing in timings
    ]
    return table(header, rows, text_columns=2)


def run(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    repeats: int,
    json: Path | None,
    sample_seconds: float = SAMPLE_SECONDS,
    copy_bytes: int = COPY_BYTES,
) -> list[Timing]:
    """Checks that the contenders agree, measures, and prints; `json` is a file for the same numbers."""
    copy = copy_bandwidth(copy_bytes, repeats)
    facts = {
        "dtype": dtype,
        "repeats": repeats,
        "flax": flax.__version__,
        "jax": jax.__version__,
        "device": device_name(),
        "flags": os.environ.get("XLA_FLAGS", ""),
    }
    shown = {"seconds": sample_seconds, "arrays": ARRAYS_MOVED, "copy_bytes": copy_bytes // 10**6, "copy": copy / 1e9}
    print(HEADER.format(**facts, **shown), flush=True)
    timings = list(measure(names, shapes, dtype, repeats, sample_seconds, copy))
    print(f"\n{text(timings)}")
    if json:
        rows = [asdict(timing) for timing in timings]
        results.write_json(json, {**facts, "copy_bytes_per_second": copy, "timings": rows, **results.provenance()})
    return timings


def device_name() -> str:
    """Returns the accelerator's name, or the processor's."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    host = results.provenance()["host"]
    return f"{host['cpu']} ({host['cpu_count']} cores)"
