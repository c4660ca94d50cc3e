"""`normres bench numerics`: how far each norm is from the truth on hard inputs, beside Flax and PyTorch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from normres import norms
from normres.bench import contenders
from normres.bench.reference import Array, Reference, parts, reference
from normres.errors import UserError
from normres.norms import forms
from normres.runs import results
from normres.show.text import NOTHING, number, table

SHAPE = (8, 32, 32, 16)
GROUPS, SUB_BATCHES = 4, 2
DTYPES = ("float32", "bfloat16", "float16")
# The rows whose truth reference.py knows.
NORMS = tuple(
    name for name, spec in norms.TABLE.items() if spec.over and spec.form is forms.standardized and not spec.var_over
)
COLUMNS = ("normres", "Flax", "PyTorch")

NOT_FINITE = math.inf  # what stands for it among the errors
SAME = 0.1  # what the errors of contenders are below on `normal`, if they compute the same
BETTER = 2.0  # a contender is better where normres's error is this many times as large
NEGLIGIBLE = 4.0  # epsilons: errors below are equally good

HEADER = """\
Errors against NumPy in float64, in units of the dtype's epsilon ({epsilons}).
  forward   max |y - true y| / max(1, max |true y|)
  gradient  max |dx - true dx| / (max |dy| / sqrt(var + epsilon)), wrt the input
The truth is computed from the input as rounded to the dtype, and errors are taken where it is finite: an infinity
may spoil its own statistic and no other.  "not finite": it is not, and the truth is.  "refuses": raises an error.
"{nothing}": the input does not fit the dtype, or PyTorch lacks the norm.
Arrays are {shape} unless the row says otherwise; epsilon 1e-5, {groups} groups, {sub_batches} sub-batches.
JAX {jax}, Flax {flax}, {device}; {torch}."""


@dataclass(frozen=True)
class Case:
    """An input: its numbers from (random generator, shape, dtype), and which shape they have."""

    draw: Callable[[np.random.Generator, tuple[int, ...], Any], Array]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape


def _around(mean: float) -> Case:
    return Case(lambda random, shape, dtype: mean + random.standard_normal(shape))


def _constant(value: float) -> Case:
    return Case(lambda random, shape, dtype: np.full(shape, value))


def _normal(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return random.standard_normal(shape)


def _one_infinity(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    x = random.standard_normal(shape)
    x[(0,) * x.ndim] = np.inf
    return x


def _first_slices_away(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    x = random.standard_normal(shape)
    x[0] += 1e4
    x[:, 0] += 1e4
    return x


# To add an input, add a row.
CASES: dict[str, Case] = {
    "normal": _around(0.0),
    "mean 1e2 x std": _around(1e2),
    "mean 1e4 x std": _around(1e4),
    "mean 1e6 x std": _around(1e6),
    "constant 0.1": _constant(0.1),
    "constant 1e30": _constant(1e30),
    "denormals": Case(lambda random, shape, dtype: random.uniform(-1, 1, shape) * float(jnp.finfo(dtype).tiny)),
    "one infinity": Case(_one_infinity),
    "normal x 1e18": Case(lambda random, shape, dtype: 1e18 * random.standard_normal(shape)),
    # What one pass shifts by is taken from there.
    "first slices 1e4 off": Case(_first_slices_away),
    "one example": Case(_normal, lambda shape: (1, *shape[1:])),
    "one pixel": Case(_normal, lambda shape: (shape[0], 1, 1, shape[3])),
    "one element": Case(_normal, lambda shape: (1, 1, 1, 1)),
}


@dataclass(frozen=True)
class Errors:
    """Of one contender on one input, in units of the dtype's epsilon; None: not applicable; a string: why not."""

    forward: float | str | None
    gradient: float | str | None


@dataclass(frozen=True)
class Row:
    """One norm on one input: the errors of each column of the table."""

    norm: str
    dtype: str
    case: str
    errors: Mapping[str, Errors]


def rounded_input(case: str, shape: tuple[int, ...], dtype: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Returns x and dy in the dtype, or None if it cannot hold the numbers (an infinity that is meant counts)."""
    random = np.random.default_rng(0)
    row = CASES[case]
    shape = row.shape(shape)
    exact = row.draw(random, shape, dtype)
    with np.errstate(over="ignore"):
        x = exact.astype(jnp.dtype(dtype))
    if not np.array_equal(np.isfinite(exact), np.isfinite(x.astype(np.float64))):
        return None
    return x, random.standard_normal(shape).astype(jnp.dtype(dtype))


def errors(found: contenders.Pair, truth: Reference, dy: Array, epsilon: float) -> Errors:
    """Returns how far y and dx are from the truth; see HEADER."""
    y, dx = (np.asarray(value, np.float64) for value in found)
    finite = np.isfinite(truth.y)
    scale = max(1.0, float(np.abs(truth.y[finite]).max(initial=0.0)))
    forward = _worst(y, truth.y, np.float64(scale)) / epsilon
    with np.errstate(invalid="ignore"):
        size = truth.gain * np.abs(dy).max()
    return Errors(forward, _worst(dx, truth.dx, size) / epsilon)


def _worst(found: Array, truth: Array, scale: Array | np.float64) -> float:
    finite = np.isfinite(truth)
    if not np.isfinite(found[finite]).all():
        return NOT_FINITE
    scales = np.broadcast_to(scale, truth.shape)[finite]
    return float((np.abs(found[finite] - truth[finite]) / scales).max(initial=0.0))


def measure(
    names: Sequence[str], dtype: str, cases: Iterable[str], shape: tuple[int, ...], torch: str | None
) -> list[Row]:
    """Returns the errors of every contender for each norm and input, in this dtype.

    Raises:
      UserError: a contender computes something else than the norm (see `SAME`), or PyTorch does not run.
    """
    inputs = {case: pair for case in cases if (pair := rounded_input(case, shape, dtype)) is not None}
    of_torch: dict[str, contenders.Pair] = {}
    if torch:
        grouped = {name: (x, dy, math.gcd(GROUPS, x.shape[-1])) for name, (x, dy) in inputs.items()}
        of_torch = contenders.in_torch(torch, dtype, grouped)
    rows = []
    for norm in names:
        for case in cases:
            if case not in inputs:
                rows.append(Row(norm, dtype, case, {name: Errors(None, None) for name in COLUMNS}))
                continue
            row = Row(norm, dtype, case, _row(norm, dtype, *inputs[case], of_torch.get(f"{norm}/{case}"), bool(torch)))
            if case == "normal":
                _check_same(row)
            rows.append(row)
    return rows


def _row(
    norm: str, dtype: str, x: NDArray[Any], dy: NDArray[Any], of_torch: contenders.Pair | None, torch: bool
) -> dict[str, Errors]:
    """Returns the errors of each column."""
    epsilon = float(jnp.finfo(dtype).eps)
    exact_dy = dy.astype(np.float64)
    spec = norms.TABLE[norm]
    truth = reference(x.astype(np.float64), exact_dy, spec, GROUPS, SUB_BATCHES, contenders.EPSILON)
    found = {
        "normres": contenders.in_normres(norm, x, dy, GROUPS, SUB_BATCHES),
    }
    everyone = norm in contenders.MODULES
    if everyone:
        found["Flax"] = contenders.in_flax(norm, x, dy, parts(spec, x.shape, GROUPS, SUB_BATCHES)[1])
    if of_torch is not None:
        found["PyTorch"] = of_torch
    absent = Errors("refuses", "refuses") if everyone and torch else Errors(None, None)
    return {name: errors(found[name], truth, exact_dy, epsilon) if name in found else absent for name in COLUMNS}


def _check_same(row: Row) -> None:
    """Stops where a contender computes something else: an error of SAME on `normal` is no rounding."""
    for name, found in row.errors.items():
        for value in (found.forward, found.gradient):
            if isinstance(value, float) and value * float(jnp.finfo(row.dtype).eps) > SAME:
                raise UserError(
                    f"{name} does not compute {row.norm} norm in {row.dtype}: error {number(value)} epsilons"
                )


def worse(row: Row) -> list[str]:
    """Returns in words where normres's two passes are worse than Flax or PyTorch."""
    found = []
    for kind in ("forward", "gradient"):
        own, others = getattr(row.errors["normres"], kind), [getattr(row.errors[n], kind) for n in ("Flax", "PyTorch")]
        best = min((value for value in others if isinstance(value, float)), default=None)
        if isinstance(own, float) and best is not None and own > max(BETTER * best, NEGLIGIBLE):
            found.append(f"{row.norm}, {row.dtype}, {row.case}, {kind}: {cell(own)}, not {cell(best)}")
    return found


def cell(error: float | str | None) -> str:
    """Returns an error as the table has it."""
    if error is None:
        return NOTHING
    if isinstance(error, str):
        return error
    return number(error) if math.isfinite(error) else "not finite"


def text(rows: Sequence[Row]) -> str:
    """Returns the table of one norm in one dtype."""
    title = f"{rows[0].norm}, {rows[0].dtype}"
    header = [title, *(f"{name} {kind}" for kind in ("fwd", "grad") for name in COLUMNS)]
    lines = [
        [row.case, *(cell(getattr(row.errors[name], kind)) for kind in ("forward", "gradient") for name in COLUMNS)]
        for row in rows
    ]
    return table(header, lines)


def _for_json(row: Row) -> dict[str, Any]:
    """Returns the row; JSON has no infinity, so such errors are words as in the table."""
    found = asdict(row)
    for values in found["errors"].values():
        values |= {kind: cell(value) for kind, value in values.items() if value == NOT_FINITE}
    return found


def run(
    names: Sequence[str], dtypes: Sequence[str], torch: str | None, json: Path | None, shape: tuple[int, ...] = SHAPE
) -> list[Row]:
    """Measures and prints all; `torch` is the Python that has PyTorch, and `json` a file for the same numbers."""
    python, version = contenders.find_torch(torch) or (None, None)
    print(
        HEADER.format(
            epsilons=", ".join(f"{dtype} {float(jnp.finfo(dtype).eps):.2g}" for dtype in dtypes),
            nothing=NOTHING,
            shape=shape,
            groups=GROUPS,
            sub_batches=SUB_BATCHES,
            jax=jax.__version__,
            flax=flax.__version__,
            device=jax.devices()[0].device_kind,
            torch=f"PyTorch {version}" if version else "no PyTorch here (--torch=PYTHON names a Python that has it)",
        )
    )
    rows = []
    for dtype in dtypes:
        found = measure(names, dtype, tuple(CASES), shape, python)
        for norm in names:
            print(f"\n{text([row for row in found if row.norm == norm])}", flush=True)
        rows += found
    findings = [finding for row in rows for finding in worse(row)]
    print(f"\nFlax or PyTorch is better ({BETTER:g} times and more, and normres above {NEGLIGIBLE:g}):")
    print("\n".join(f"  {finding}" for finding in findings) or "  nowhere")
    if json:
        results.write_json(json, [_for_json(row) for row in rows])
    return rows
