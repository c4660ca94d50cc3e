"""`normres bench numerics`: how far each norm is from the truth on hard inputs, beside Flax and PyTorch."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from normres import norms
from normres.bench import contenders, output
from normres.bench.reference import Array, reference
from normres.bench.step.workers import Contender, find_torch
from normres.errors import UserError
from normres.norms import forms

SHAPE = (8, 32, 32, 16)
DTYPES = ("float32", "bfloat16", "float16")
# The rows whose truth reference.py knows.
NORMS = tuple(
    name for name, spec in norms.TABLE.items() if spec.over and spec.form is forms.standardized and not spec.var_over
)
LIBRARIES = ("normres", "Flax", "PyTorch")
KINDS = ("fwd", "grad")

SAME = 0.1  # what the errors of contenders are below on `normal`, if they compute the same
BETTER = 2.0  # a contender is better where normres's error is this many times as large
NEGLIGIBLE = 4.0  # epsilons: errors below are equally good

HEADER = """\
Errors against NumPy in float64, in units of the dtype's epsilon ({epsilons}).
  fwd   max |y - true y| / max(1, max |true y|)
  grad  max |dx - true dx| / (max |dy| / sqrt(var + epsilon)), wrt the input
The truth is computed from the input as rounded to the dtype, and errors are taken where it is finite: an infinity may
spoil its own statistic and no other.  "not finite": the result is not, and the truth is.  "refuses": raises an error.
"–": the input does not fit the dtype, or the library lacks the norm.
Arrays are {shape} unless the row says otherwise; epsilon 1e-5, {groups} groups, {sub_batches} sub-batches.
JAX {jax}, Flax {flax}, {device}; {torch}."""

Shape = tuple[int, ...]
Case = Callable[[np.random.Generator, Shape, float], Array]
Error = float | str | None  # in epsilons, infinite where the result is not finite; "refuses"; None: nothing to compare
Row = dict[str, Any]  # norm, dtype, case, and "LIBRARY KIND": Error


def _normal(mean: float = 0, factor: float = 1, where: Sequence[Any] = (), more: float = 0) -> Case:
    """Returns a case of normal numbers; in some places there is `more`."""

    def draw(random: np.random.Generator, shape: Shape, tiny: float) -> Array:
        x = mean + factor * random.standard_normal(shape)
        for place in where:
            x[place] += more
        return x

    return draw


# The inputs by name.  To add one, add a row: f(random generator, shape, the dtype's smallest normal number) -> x.
CASES: dict[str, Case] = {
    "normal": _normal(),
    "mean 1e2 x std": _normal(1e2),
    "mean 1e4 x std": _normal(1e4),
    "mean 1e6 x std": _normal(1e6),
    "constant 0.1": lambda random, shape, tiny: np.full(shape, 0.1),
    "constant 1e30": lambda random, shape, tiny: np.full(shape, 1e30),
    "denormals": lambda random, shape, tiny: random.uniform(-1, 1, shape) * tiny,
    "one infinity": _normal(where=[(0, 0, 0, 0)], more=np.inf),
    "normal x 1e18": _normal(factor=1e18),
    # What one pass shifts by is taken from there.
    "first slices 1e4 off": _normal(where=[0, (slice(None), 0)], more=1e4),
    "one example": lambda random, shape, tiny: random.standard_normal((1, *shape[1:])),
    "one pixel": lambda random, shape, tiny: random.standard_normal((shape[0], 1, 1, shape[3])),
    "one element": lambda random, shape, tiny: random.standard_normal((1, 1, 1, 1)),
}


def rounded_input(case: str, shape: Shape, dtype: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Returns x and dy in the dtype, or None if it cannot hold the numbers (an infinity that is meant counts)."""
    random = np.random.default_rng(0)
    exact = CASES[case](random, shape, float(jnp.finfo(dtype).tiny))
    with np.errstate(over="ignore"):
        x = exact.astype(jnp.dtype(dtype))
    if not np.array_equal(np.isfinite(exact), np.isfinite(x.astype(np.float64))):
        return None
    return x, random.standard_normal(exact.shape).astype(jnp.dtype(dtype))


def errors(pair: contenders.Pair, truth: tuple[Array, Array, Array], dy: Array, epsilon: float) -> tuple[float, float]:
    """Returns how far y and dx are from the truth, see HEADER; `truth` is what reference() returns."""
    y, dx, gain = truth
    largest = np.abs(y[np.isfinite(y)]).max(initial=1.0)
    with np.errstate(invalid="ignore"):
        sizes = (np.broadcast_to(largest, y.shape), gain * np.abs(dy).max())
    worst = []
    for values, true, size in zip(pair, (y, dx), sizes, strict=True):
        finite = np.isfinite(true)
        apart = np.abs(np.asarray(values, np.float64)[finite] - true[finite]) / size[finite] / epsilon
        worst.append(float(apart.max(initial=0.0)) if np.isfinite(apart).all() else math.inf)
    return worst[0], worst[1]


def measure(names: Sequence[str], dtype: str, cases: Iterable[str], shape: Shape, torch: Contender | None) -> list[Row]:
    """Returns the errors of every library for each norm and input, in this dtype; without PyTorch, of two.

    Raises:
      UserError: a library computes something else than the norm (see `SAME`), or PyTorch does not run.
    """
    inputs = {case: rounded_input(case, shape, dtype) for case in cases}
    fitting = {case: pair for case, pair in inputs.items() if pair is not None}
    torch_pairs = contenders.in_torch(torch, dtype, fitting) if torch else {}
    rows = []
    for norm, case in product(names, inputs):
        row: Row = {"norm": norm, "dtype": dtype, "case": case}
        row |= {f"{library} {kind}": None for library in LIBRARIES for kind in KINDS}
        if case in fitting:
            if torch and norm in contenders.MODULES:
                row |= dict.fromkeys(("PyTorch fwd", "PyTorch grad"), "refuses")
            row |= _errors_of_all(norm, dtype, *fitting[case], torch_pairs.get(f"{norm}/{case}"))
        if case == "normal":
            _check_same(row)
        rows.append(row)
    return rows


def _errors_of_all(
    norm: str, dtype: str, x: NDArray[Any], dy: NDArray[Any], torch_pair: contenders.Pair | None
) -> dict[str, float]:
    """Returns the errors by "LIBRARY KIND", of the libraries that have the norm."""
    spec, wide_dy = contenders.spec(norm, x.shape), dy.astype(np.float64)
    truth = reference(x.astype(np.float64), wide_dy, spec, contenders.EPSILON)
    steps = {"normres": contenders.in_normres(spec)}
    if norm in contenders.MODULES:
        steps["Flax"] = contenders.in_flax(norm, spec.groups, dtype)
    params = {name: np.full(x.shape[-1], name == "scale", np.float32) for name in spec.affine}
    pairs = {"PyTorch": torch_pair} if torch_pair else {}
    for library, step in steps.items():
        y, (_, dx) = step(params, x, dy)
        pairs[library] = y, dx
    return {
        f"{library} {kind}": error
        for library, pair in pairs.items()
        for kind, error in zip(KINDS, errors(pair, truth, wide_dy, float(jnp.finfo(dtype).eps)), strict=True)
    }


def _check_same(row: Row) -> None:
    """Stops where a library computes something else: an error of SAME on `normal` is no rounding."""
    for column, error in row.items():
        if isinstance(error, float) and error * float(jnp.finfo(row["dtype"]).eps) > SAME:
            library, norm, dtype = column.split()[0], row["norm"], row["dtype"]
            raise UserError(f"{library} does not compute {norm} norm in {dtype}: error {cell(error)} epsilons")


def worse(row: Row) -> list[str]:
    """Returns in words where normres is worse than Flax or PyTorch."""
    sentences = []
    for kind in KINDS:
        own, *others = (row[f"{library} {kind}"] for library in LIBRARIES)
        best = min((error for error in others if isinstance(error, float)), default=math.inf)
        if isinstance(own, float) and own > max(BETTER * best, NEGLIGIBLE):
            sentences.append(f"{row['norm']}, {row['dtype']}, {row['case']}, {kind}: {cell(own)}, not {cell(best)}")
    return sentences


def cell(error: Error) -> str:
    """Returns an error as the table has it."""
    if isinstance(error, float):
        return output.number(error) if math.isfinite(error) else "not finite"
    return error or output.NOTHING


def run(
    names: Sequence[str], dtypes: Sequence[str], torch: str | None, json: Path | None, shape: Shape = SHAPE
) -> list[Row]:
    """Measures and prints all; `torch` is the Python that has PyTorch, and `json` a file for the same numbers."""
    pytorch, version = find_torch(torch) or (None, None)
    print(
        HEADER.format(
            epsilons=", ".join(f"{dtype} {float(jnp.finfo(dtype).eps):.2g}" for dtype in dtypes),
            shape=shape,
            groups=contenders.GROUPS,
            sub_batches=contenders.SUB_BATCHES,
            jax=jax.__version__,
            flax=flax.__version__,
            device=jax.devices()[0].device_kind,
            torch=f"PyTorch {version}" if version else "no PyTorch here (--torch=PYTHON names a Python that has it)",
        )
    )
    rows: list[Row] = []
    columns = [f"{library} {kind}" for kind in KINDS for library in LIBRARIES]
    for dtype in dtypes:
        measured = measure(names, dtype, CASES, shape, pytorch)
        for norm in names:
            lines = [(row["case"], *(cell(row[name]) for name in columns)) for row in measured if row["norm"] == norm]
            print(f"\n{output.table((f'{norm}, {dtype}', *columns), lines)}", flush=True)
        rows += measured
    print(f"\nFlax or PyTorch is better ({BETTER:g} times and more, and normres above {NEGLIGIBLE:g}):")
    print("\n".join(f"  {sentence}" for row in rows for sentence in worse(row)) or "  nowhere")
    # JSON has no infinity.
    finite = [{key: cell(value) if value == math.inf else value for key, value in row.items()} for row in rows]
    output.write(json, {"rows": finite})
    return rows
