"""`normres bench numerics`: how far each norm is from the truth on hard inputs, beside Flax and PyTorch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from normres import norms
from normres.bench import contenders, output
from normres.bench.output import NOTHING
from normres.bench.reference import Array, Reference, reference
from normres.errors import UserError
from normres.norms import forms

SHAPE = (8, 32, 32, 16)
DTYPES = ("float32", "bfloat16", "float16")
# The rows whose truth reference.py knows.
NORMS = tuple(
    name for name, spec in norms.TABLE.items() if spec.over and spec.form is forms.standardized and not spec.var_over
)
COLUMNS = ("normres", "Flax", "PyTorch")

SAME = 0.1  # what the errors of contenders are below on `normal`, if they compute the same
BETTER = 2.0  # a contender is better where normres's error is this many times as large
NEGLIGIBLE = 4.0  # epsilons: errors below are equally good

HEADER = """\
Errors against NumPy in float64, in units of the dtype's epsilon ({epsilons}).
  forward   max |y - true y| / max(1, max |true y|)
  gradient  max |dx - true dx| / (max |dy| / sqrt(var + epsilon)), wrt the input
The truth is computed from the input as rounded to the dtype, and errors are taken where the truth is finite: an infinity
may spoil its own statistic and no other.  "not finite": the result is not, and the truth is.  "refuses": raises an error.
"{nothing}": the input does not fit the dtype, or the library lacks the norm.
Arrays are {shape} unless the row says otherwise; epsilon 1e-5, {groups} groups, {sub_batches} sub-batches.
JAX {jax}, Flax {flax}, {device}; {torch}."""

Shape = tuple[int, ...]


def _first_set(random: np.random.Generator, shape: Shape) -> Array:
    x = random.standard_normal(shape)
    x[(0,) * x.ndim] = np.inf
    return x


def _first_slices_away(random: np.random.Generator, shape: Shape) -> Array:
    x = random.standard_normal(shape)
    x[0] += 1e4
    x[:, 0] += 1e4
    return x


def _around(mean: float) -> Callable[..., Array]:
    return lambda random, shape, tiny: mean + random.standard_normal(shape)


# The inputs, by name: f(random generator, shape, the dtype's smallest normal number) draws one.  To add one, add a row.
CASES: dict[str, Callable[[np.random.Generator, Shape, float], Array]] = {
    "normal": _around(0.0),
    "mean 1e2 x std": _around(1e2),
    "mean 1e4 x std": _around(1e4),
    "mean 1e6 x std": _around(1e6),
    "constant 0.1": lambda random, shape, tiny: np.full(shape, 0.1),
    "constant 1e30": lambda random, shape, tiny: np.full(shape, 1e30),
    "denormals": lambda random, shape, tiny: random.uniform(-1, 1, shape) * tiny,
    "one infinity": lambda random, shape, tiny: _first_set(random, shape),
    "normal x 1e18": lambda random, shape, tiny: 1e18 * random.standard_normal(shape),
    # What one pass shifts by is taken from there.
    "first slices 1e4 off": lambda random, shape, tiny: _first_slices_away(random, shape),
    "one example": lambda random, shape, tiny: random.standard_normal((1, *shape[1:])),
    "one pixel": lambda random, shape, tiny: random.standard_normal((shape[0], 1, 1, shape[3])),
    "one element": lambda random, shape, tiny: random.standard_normal((1, 1, 1, 1)),
}


class Errors(NamedTuple):
    """Of one contender on one input, in units of the dtype's epsilon.

    Infinite where the result is not finite; None where there is nothing to compare; "refuses" in words.
    """

    forward: float | str | None
    gradient: float | str | None


class Row(NamedTuple):
    """One norm on one input: the errors of each column of the table."""

    norm: str
    dtype: str
    case: str
    errors: Mapping[str, Errors]


def rounded_input(case: str, shape: Shape, dtype: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Returns x and dy in the dtype, or None if it cannot hold the numbers (an infinity that is meant counts)."""
    random = np.random.default_rng(0)
    exact = CASES[case](random, shape, float(jnp.finfo(dtype).tiny))
    with np.errstate(over="ignore"):
        x = exact.astype(jnp.dtype(dtype))
    if not np.array_equal(np.isfinite(exact), np.isfinite(x.astype(np.float64))):
        return None
    return x, random.standard_normal(exact.shape).astype(jnp.dtype(dtype))


def errors(pair: contenders.Pair, truth: Reference, dy: Array, epsilon: float) -> Errors:
    """Returns how far y and dx are from the truth; see HEADER."""
    y, dx = (np.asarray(value, np.float64) for value in pair)
    largest = np.abs(truth.y[np.isfinite(truth.y)]).max(initial=1.0)
    with np.errstate(invalid="ignore"):
        size = truth.gain * np.abs(dy).max()
    return Errors(_worst(y, truth.y, largest) / epsilon, _worst(dx, truth.dx, size) / epsilon)


def _worst(values: Array, truth: Array, scale: Any) -> float:
    finite = np.isfinite(truth)
    if not np.isfinite(values[finite]).all():
        return math.inf
    scales = np.broadcast_to(scale, truth.shape)[finite]
    return float((np.abs(values[finite] - truth[finite]) / scales).max(initial=0.0))


def measure(names: Sequence[str], dtype: str, cases: Iterable[str], shape: Shape, torch: str | None) -> list[Row]:
    """Returns the errors of every contender for each norm and input, in this dtype; `torch` is a Python that has it.

    Raises:
      UserError: a contender computes something else than the norm (see `SAME`), or PyTorch does not run.
    """
    inputs = {case: rounded_input(case, shape, dtype) for case in cases}
    fitting = {case: pair for case, pair in inputs.items() if pair is not None}
    torch_pairs = contenders.in_torch(torch, dtype, fitting) if torch else {}
    rows = []
    for norm in names:
        # A norm that PyTorch has and that is missing in its answer was refused.
        refused = "refuses" if torch and norm in contenders.MODULES else None
        for case, pair in inputs.items():
            by_contender = dict.fromkeys(COLUMNS, Errors(None, None))
            if pair is not None:
                pairs = _results(norm, dtype, *pair)
                if torch_pair := torch_pairs.get(f"{norm}/{case}"):
                    pairs["PyTorch"] = torch_pair
                by_contender["PyTorch"] = Errors(refused, refused)
                by_contender |= _all_errors(norm, dtype, pair, pairs)
            rows.append(Row(norm, dtype, case, by_contender))
            if case == "normal":
                _check_same(rows[-1])
    return rows


def _results(norm: str, dtype: str, x: NDArray[Any], dy: NDArray[Any]) -> dict[str, contenders.Pair]:
    """Returns what normres and Flax compute."""
    groups, sub_batches = contenders.parts(norm, x.shape)
    pairs = {"normres": contenders.in_normres(norm, groups, sub_batches)(x, dy)}
    if norm in contenders.MODULES:
        pairs["Flax"] = contenders.in_flax(norm, groups, dtype)(x, dy)
    return pairs


def _all_errors(
    norm: str, dtype: str, inputs: contenders.Pair, pairs: Mapping[str, contenders.Pair]
) -> dict[str, Errors]:
    x, dy = (array.astype(np.float64) for array in inputs)
    truth = reference(x, dy, norms.TABLE[norm].split(*contenders.parts(norm, x.shape)), contenders.EPSILON)
    return {name: errors(pair, truth, dy, float(jnp.finfo(dtype).eps)) for name, pair in pairs.items()}


def _check_same(row: Row) -> None:
    """Stops where a contender computes something else: an error of SAME on `normal` is no rounding."""
    for name, values in row.errors.items():
        for value in values:
            if isinstance(value, float) and value * float(jnp.finfo(row.dtype).eps) > SAME:
                raise UserError(f"{name} does not compute {row.norm} norm in {row.dtype}: error {cell(value)} epsilons")


def worse(row: Row) -> list[str]:
    """Returns in words where normres is worse than Flax or PyTorch."""
    sentences = []
    for kind in Errors._fields:
        own, *others = (getattr(row.errors[name], kind) for name in COLUMNS)
        best = min((value for value in others if isinstance(value, float)), default=None)
        if isinstance(own, float) and best is not None and own > max(BETTER * best, NEGLIGIBLE):
            sentences.append(f"{row.norm}, {row.dtype}, {row.case}, {kind}: {cell(own)}, not {cell(best)}")
    return sentences


def cell(error: float | str | None) -> str:
    """Returns an error as the table has it."""
    if isinstance(error, float):
        return output.number(error) if math.isfinite(error) else "not finite"
    return error or NOTHING


def text(rows: Sequence[Row]) -> str:
    """Returns the table of one norm in one dtype."""
    header = [f"{rows[0].norm}, {rows[0].dtype}", *(f"{name} {kind}" for kind in ("fwd", "grad") for name in COLUMNS)]
    lines = [
        [row.case, *(cell(getattr(row.errors[name], kind)) for kind in Errors._fields for name in COLUMNS)]
        for row in rows
    ]
    return output.table(header, lines)


def _for_json(row: Row) -> dict[str, Any]:
    """Returns the row; JSON has no infinity, so such errors are words as in the table."""
    by_contender = {
        name: {kind: cell(error) if error == math.inf else error for kind, error in values._asdict().items()}
        for name, values in row.errors.items()
    }
    return row._asdict() | {"errors": by_contender}


def run(
    names: Sequence[str], dtypes: Sequence[str], torch: str | None, json: Path | None, shape: Shape = SHAPE
) -> list[Row]:
    """Measures and prints all; `torch` is the Python that has PyTorch, and `json` a file for the same numbers."""
    python, version = contenders.find_torch(torch) or (None, None)
    print(
        HEADER.format(
            epsilons=", ".join(f"{dtype} {float(jnp.finfo(dtype).eps):.2g}" for dtype in dtypes),
            nothing=NOTHING,
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
    for dtype in dtypes:
        measured = measure(names, dtype, CASES, shape, python)
        for norm in names:
            print(f"\n{text([row for row in measured if row.norm == norm])}", flush=True)
        rows += measured
    sentences = [sentence for row in rows for sentence in worse(row)]
    print(f"\nFlax or PyTorch is better ({BETTER:g} times and more, and normres above {NEGLIGIBLE:g}):")
    print("\n".join(f"  {sentence}" for sentence in sentences) or "  nowhere")
    output.write(json, {"rows": [_for_json(row) for row in rows]})
    return rows
