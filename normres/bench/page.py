"""The tables of docs/norms.md, made from the rows of the code.

normres bench norms --markdown
"""

from normres.models import variants
from normres.norms import TABLE, NormSpec
from normres.norms import kernels as weights
from normres.report.tables import Table, markdown


def averages_over(spec: NormSpec) -> str:
    """Returns the reductions in words: "N, S" or "S, C in groups"; several are joined by "and"."""

    def words(over: str) -> str:
        named = {"N": "N in parts" if spec.sub_batches > 1 else "N", "C": "C in groups" if spec.groups > 1 else "C"}
        return ", ".join(named.get(letter, letter) for letter in over)

    means = " and ".join(f"({words(over)})" if len(spec.reductions) > 1 else words(over) for over in spec.reductions)
    return f"{means}; variance {words(spec.var_over)}" if spec.var_over else means


def _axes_table() -> Table:
    header = ("name", "averages over", "in evaluation", "invariant to", "passes")
    rows = []
    for name, spec in TABLE.items():
        assert spec.about is not None
        evaluation = "running averages over N" if spec.running else "as in training"
        invariant = ", ".join(spec.about.invariant) or "nothing"
        rows.append((name, averages_over(spec) or "nothing", evaluation, invariant, str(spec.about.passes)))
    caption = (
        "N examples, S space, C channels. Invariant: in training and with epsilon = 0, to a positive factor (scale) "
        "and an addend (shift), one for the whole input or one for each example or channel. Passes: readings and "
        "writings of the whole array, forward, in training, where the compiler fuses none."
    )
    return Table(header, tuple(rows), caption, 4)


def _formula_table() -> Table:
    rows = []
    for name, spec in TABLE.items():
        assert spec.about is not None
        learns = ", ".join([*spec.affine, *(parameter.name for parameter in spec.parameters)]) or "nothing"
        rows.append((name, spec.about.formula, learns, spec.about.use, spec.about.paper))
    header = ("name", "formula", "learns", "when to use it", "paper")
    return Table(header, tuple(rows), "x^ is what scale and bias are applied to: y = scale x^ + bias.", 5)


def _weights_table() -> Table:
    rows = [(name, row.formula, row.paper) for name, row in weights.TABLE.items()]
    return Table(
        ("name", "the kernel becomes", "paper"),
        tuple(rows),
        "Norms of kernels: the choices of config.model.weights.",
        3,
    )


def _scale_table() -> Table:
    rows = []
    for name, row in variants.RESIDUAL_SCALES.items():
        what = "–" if row.initial is None else f"a learned scalar on the branch, at first {row.initial:g}"
        what += ", and Fixup's initial kernels and scalar biases" if row.fixup else ""
        rows.append((name, what, row.paper))
    caption = "What stands in for norms: the choices of config.model.residual_scale, with config.model.norm=none."
    return Table(("name", "what it adds", "paper"), tuple(rows), caption, 3)


def text() -> str:
    """Returns the generated part of docs/norms.md."""
    return "\n".join(markdown(table) for table in (_axes_table(), _formula_table(), _weights_table(), _scale_table()))
