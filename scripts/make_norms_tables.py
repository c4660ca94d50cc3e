"""Writes the tables and pictures of docs/norms.md, and the pictures of reports, from the rows of the code.

python scripts/make_norms_tables.py
"""

import re
from pathlib import Path

from normres.bench.output import NOTHING, table
from normres.models import variants
from normres.norms import TABLE, NormSpec
from normres.norms import kernels as weights
from normres.norms.spec import About
from normres.show import scope

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/norms.md"
MARKERS = re.compile(r"(<!-- begin generated -->\n)(.*)(\n<!-- end generated -->)", re.S)

AXES = (
    "N examples, S space, C channels. Invariant to scale: y does not change if x is multiplied by a positive number. "
    "Invariant to shift: if a number is added. Example (channel) scale: another number for each example (channel). In "
    "training, with epsilon = 0."
)
FORMULAS = "y = scale * formula + bias (gamma and beta in the papers); filter_response: y = formula."
KERNELS = "Norms of kernels: the choices of config.model.weights."
SCALES = "What stands in for norms: the choices of config.model.residual_scale, with config.model.norm=none."


def averages_over(spec: NormSpec) -> str:
    """Returns the reductions in words: "N, S" or "S, C in groups"; several are joined by "and"."""

    def words(over: str) -> str:
        parts = {"N": "N in parts" if spec.sub_batches > 1 else "N", "C": "C in groups" if spec.groups > 1 else "C"}
        return ", ".join(parts.get(letter, letter) for letter in over)

    means = " and ".join(f"({words(over)})" if len(spec.reductions) > 1 else words(over) for over in spec.reductions)
    return f"{means}; variance {words(spec.var_over)}" if spec.var_over else means


def text() -> str:
    """Returns the generated part of docs/norms.md; a norm without documentation has "–" in its cells."""
    axes, formulas = [], []
    for name, spec in TABLE.items():
        about = spec.about or About(NOTHING, NOTHING, (NOTHING,), NOTHING)
        evaluation = "running averages over N" if spec.running else "as in training"
        axes.append((name, averages_over(spec) or "nothing", evaluation, ", ".join(about.invariant) or "nothing"))
        learns = ", ".join([*spec.affine, *(parameter.name for parameter in spec.parameters)]) or "nothing"
        formulas.append((name, about.formula, learns, about.use, about.paper))
    kernels = [(name, row.formula, row.paper) for name, row in weights.TABLE.items()]
    scales = []
    for name, scale in variants.RESIDUAL_SCALES.items():
        adds = NOTHING if scale.initial is None else f"a learned scalar on the branch, at first {scale.initial:g}"
        adds += ", and Fixup's initial kernels and scalar biases" if scale.fixup else ""
        scales.append((name, adds, scale.paper))
    parts = (
        (AXES, ("name", "averages over", "in evaluation", "invariant to"), axes),
        (FORMULAS, ("name", "formula", "learns", "when to use it", "paper"), formulas),
        (KERNELS, ("name", "the kernel becomes", "paper"), kernels),
        (SCALES, ("name", "what it adds", "paper"), scales),
    )
    return "\n\n".join(f"{caption}\n\n{table(header, rows, len(header), True)}" for caption, header, rows in parts)


def pictures() -> dict[Path, str]:
    """Returns the scope pictures by their path: of all norms for the docs, of each one for reports."""
    each = {
        ROOT / f"normres/report/templates/scopes/{name}.svg": scope.svg({name: spec}) for name, spec in TABLE.items()
    }
    return {ROOT / "docs/scope.svg": scope.svg(TABLE), **each}


if __name__ == "__main__":
    for path, picture in pictures().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture)
    PAGE.write_text(MARKERS.sub(lambda parts: parts[1] + text() + parts[3], PAGE.read_text()))
