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
from normres.bench.step import workers
from normres.errors import UserError
from normres.norms import NormSpec, forms

SHAPE = (8, 32, 32, 16)
DTYPES = ("float32", "bfloat16", "float16")
# The rows whose truth `reference` knows.
NORMS = tuple(
    name for name, spec in norms.TABLE.items() if spec.over and spec.form is forms.standardized and not spec.var_over
)
LIBRARIES = ("normres", "Flax", "PyTorch")
KINDS = ("fwd", "grad")
COLUMNS = [f"{library} {kind}" for kind in KINDS for library in LIBRARIES]

SAME = 0.1  # what errors are below on `normal`, not in epsilons; a larger one is no rounding
BETTER = 2.0  # a contender is better where normres's error is this many times as large
NEGLIGIBLE = 4.0  # epsilons: errors below are equally good

HEADER = f"""\
Errors against NumPy in float64, in units of the dtype's epsilon ({{epsilons}}).
  fwd   max |y - true y| / max(1, max |true y|)
  grad  max |dx - true dx| / (max |dy| / sqrt(var + epsilon)), wrt the input
The truth is computed from the input as rounded to the dtype, and errors are taken where it is finite: an infinity may
spoil its own statistic and no other.  "not finite": the result is not, and the truth is.  "refuses": raises an error.
"–": the input does not fit the dtype, or the library lacks the norm.
Arrays are {{shape}} unless the row says otherwise; epsilon {contenders.EPSILON:g}, {contenders.GROUPS} groups, \
{contenders.SUB_BATCHES} sub-batches.
JAX {jax.__version__}, Flax {flax.__version__}, {{device}}; {{torch}}."""

Array = NDArray[np.float64]
Shape = tuple[int, ...]
Case = Callable[[Array, float], Array]
Error = float | str | None  # in epsilons, infinite where the result is not finite; "refuses"; None: nothing to compare
Row = dict[str, Any]  # norm, dtype, case, and "LIBRARY KIND": Error


# The inputs by name.  To add one, add a row: f(normal numbers x, the dtype's smallest normal number) -> the input.
CASES: dict[str, Case] = {
    "normal": lambda x, tiny: x,
    "mean 1e2 x std": lambda x, tiny: 1e2 + x,
    "mean 1e4 x std": lambda x, tiny: 1e4 + x,
    "mean 1e6 x std": lambda x, tiny: 1e6 + x,
    "constant 0.1": lambda x, tiny: np.full_like(x, 0.1),
    "constant 1e30": lambda x, tiny: np.full_like(x, 1e30),
    "denormals": lambda x, tiny: np.tanh(x) * tiny,
    "one infinity": lambda x, tiny: np.where(np.arange(x.size).reshape(x.shape), x, np.inf),
    "normal x 1e18": lambda x, tiny: 1e18 * x,
    # What one pass shifts by is taken from there: the first example, and the first row of each.
    "first slices 1e4 off": lambda x, tiny: x + 1e4 * (np.indices(x.shape)[:2] == 0).sum(0),
    "one example": lambda x, tiny: x[:1],
    "one pixel": lambda x, tiny: x[:, :1, :1],
    "one element": lambda x, tiny: x[:1, :1, :1, :1],
}


def reference(x: Array, dy: Array, spec: NormSpec, epsilon: float) -> tuple[Array, Array, Array]:
    """Returns what a NormSpec without a form computes; x and dy are (N, ..., C), and so is each result.

    y = r (x - mean) with the gain r = 1 / sqrt(var + epsilon), the gradient of sum(y dy) wrt x, which is
    dx = r (dy - mean(dy) - y mean(dy y)), and r.  Without the means of x and dy if the norm does not center.
    Statistics of 24-bit numbers in float64 are exact to 29 bits and more.
    """
    # Axes: sub-batches, their examples, spatial ones, groups, their channels.
    examples, channels = x.shape[0] // spec.sub_batches, x.shape[-1] // spec.groups
    split = (spec.sub_batches, examples, *x.shape[1:-1], spec.groups, channels)
    places = {"N": (1,), "S": tuple(range(2, x.ndim)), "C": (x.ndim + 1,)}
    axes = tuple(axis for letter in spec.over for axis in places[letter])

    def mean(values: Array) -> Array:
        return np.asarray(values.mean(axes, keepdims=True))

    # An infinity makes its own statistic NaN, and that is the right answer.
    with np.errstate(invalid="ignore", over="ignore"):
        values, gradient = x.reshape(split), dy.reshape(split)
        deviation = values - mean(values) if spec.center else values
        gain = 1 / np.sqrt(mean(deviation**2) + epsilon)
        y = deviation * gain
        dx = gradient - y * mean(gradient * y)
        dx = gain * (dx - mean(gradient) if spec.center else dx)
    return y.reshape(x.shape), dx.reshape(x.shape), np.broadcast_to(gain, split).reshape(x.shape)


def rounded_input(case: str, shape: Shape, dtype: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Returns x and dy in the dtype, or None if it cannot hold the numbers (an infinity that is meant counts)."""
    random = np.random.default_rng(0)
    exact = CASES[case](random.standard_normal(shape), float(jnp.finfo(dtype).tiny))
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


def measure(
    names: Sequence[str], dtype: str, cases: Iterable[str], shape: Shape, torch: workers.Contender | None
) -> list[Row]:
    """Returns the errors of every library for each norm and input, in this dtype; without PyTorch, of two.

    Raises:
      UserError: a library computes something else than the norm (see `SAME`), or PyTorch does not run.
    """
    inputs = {case: rounded_input(case, shape, dtype) for case in cases}
    fitting = {case: pair for case, pair in inputs.items() if pair is not None}
    torch_pairs = contenders.in_torch(torch, dtype, fitting) if torch else {}
    epsilon = float(jnp.finfo(dtype).eps)
    rows: list[Row] = []
    for norm, case in product(names, inputs):
        rows.append({"norm": norm, "dtype": dtype, "case": case} | dict.fromkeys(COLUMNS))
        if case not in fitting:
            continue
        x, dy = fitting[case]
        spec, wide_dy = contenders.spec(norm, x.shape), dy.astype(np.float64)
        truth = reference(x.astype(np.float64), wide_dy, spec, contenders.EPSILON)
        params = {name: np.full(x.shape[-1], name == "scale", np.float32) for name in spec.affine}
        steps = contenders.steps(norm, spec, dtype)
        outputs = {library: step(params, x, dy) for library, step in steps.items()}
        pairs: dict[str, contenders.Pair] = {library: (y, dx) for library, (y, (_, dx)) in outputs.items()}
        if torch_pair := torch_pairs.get(f"{norm}/{case}"):
            pairs["PyTorch"] = torch_pair
        elif torch and norm in contenders.NORMS:
            rows[-1] |= {f"PyTorch {kind}": "refuses" for kind in KINDS}
        for library, pair in pairs.items():
            worst = errors(pair, truth, wide_dy, epsilon)
            rows[-1] |= {f"{library} {kind}": error for kind, error in zip(KINDS, worst, strict=True)}
            if case == "normal" and max(worst) * epsilon > SAME:
                error = cell(max(worst))
                raise UserError(f"{library} does not compute {norm} norm in {dtype}: error {error} epsilons")
    return rows


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
    known, version = workers.contenders(("torch",), torch)
    pytorch = known.get("torch")
    epsilons = ", ".join(f"{dtype} {float(jnp.finfo(dtype).eps):.2g}" for dtype in dtypes)
    about_torch = f"PyTorch {version}" if pytorch else "no PyTorch here (--torch=PYTHON names a Python that has it)"
    print(HEADER.format(epsilons=epsilons, shape=shape, device=output.device_name(), torch=about_torch))
    rows: list[Row] = []
    for dtype in dtypes:
        measured = measure(names, dtype, CASES, shape, pytorch)
        for norm in names:
            lines = [(row["case"], *(cell(row[name]) for name in COLUMNS)) for row in measured if row["norm"] == norm]
            print(f"\n{output.table((f'{norm}, {dtype}', *COLUMNS), lines)}", flush=True)
        rows += measured
    print(f"\nFlax or PyTorch is better ({BETTER:g} times and more, and normres above {NEGLIGIBLE:g}):")
    print("\n".join(f"  {sentence}" for row in rows for sentence in worse(row)) or "  nowhere")
    # JSON has no infinity.
    finite = [{key: cell(value) if value == math.inf else value for key, value in row.items()} for row in rows]
    output.write(json, {"errors": finite})
    return rows
