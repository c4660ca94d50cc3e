"""An experiment that compares variants of one network: their arms, the verdict, the table and the page.

A file of experiments/ declares one Comparison.  A subclass may replace its figure and its table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.clauses import Grid, Lower, Trend
from normres.report.curves import training_curves
from normres.report.dots import error_per_variant
from normres.report.figures import error_against_depth
from normres.report.files import write_file
from normres.report.page import Page
from normres.report.statistics import (
    Arm,
    Network,
    distinguishing_fields,
    error_metrics,
    field,
    group,
    joined,
    metric_words,
    short_label,
    summarize,
)
from normres.report.style import Drawing, save
from normres.report.verdict import Clause, digits, scale_notes
from normres.runs.results import Run

DEPTH, BLOCK, DATA = "model.depth", "model.block", "data.name"
FAIL = "fail"  # what He et al. 2016 print for an error above 20 %

# Of the fields that tell runs apart, those that say most come first; the others follow in alphabetical order.
PREFERRED = ("recipe", "data.name", "data.source", "model.norm", "model.order", "model.width", "train.steps")

Published = Mapping[Network, Mapping[str, float | str]]


@dataclass(frozen=True)
class Comparison:
    """What an experiments file declares.

    Attributes:
      title, claim, source: sentences for the page.
      config: the config file whose sweep makes the runs; its name is also the main figure's.
      variants: the config fields that make each variant, by its name, in the order in which they are listed.  A field
        that other variants name and this one does not has its value in `held`, or any value if it is not there.
      published: the papers' test error of a variant in a network, in percent, or a text such as FAIL.
      held: config fields that every variant has unless it names them; a published error is of such a network.
      clauses: the claim in parts.
      notes: sentences about the papers' numbers.
      over_depth: draw error against depth instead of a row per variant.
    """

    title: str
    claim: str
    source: str
    config: str
    variants: Mapping[str, Mapping[str, Any]]
    published: Published
    held: Mapping[str, Any]
    clauses: Sequence[Lower | Trend]
    notes: Sequence[str] = ()
    over_depth: bool = False

    @property
    def _own(self) -> tuple[str, ...]:
        """Returns the fields that say which variant an arm is."""
        return tuple(dict.fromkeys(name for fields in self.variants.values() for name in fields))

    def arms(self, runs: Sequence[Run]) -> list[Arm]:
        """Returns the arms: runs that agree in variant, network and all else in which the runs differ."""
        identity = (*self._own, DEPTH, BLOCK, DATA)
        others = distinguishing_fields(runs, ignore=identity, first=PREFERRED)
        arms = [
            Arm(
                self.variant(key),
                Network(key[DEPTH], key[BLOCK], key[DATA]),
                short_label({name: key[name] for name in others}),
                key,
                members,
            )
            for key, members in group(runs, [*others, *identity])
        ]
        order = list(self.variants)

        def place(arm: Arm) -> tuple[Any, ...]:
            of_variant = (order.index(arm.variant) if arm.variant in order else len(order), arm.variant)
            of_network = (arm.network.depth, arm.network.block)
            along = (*of_variant, *of_network) if self.over_depth else (*of_network, *of_variant)
            return (arm.context != "", arm.context, arm.network.data, *along)

        return sorted(arms, key=place)

    def variant(self, key: Mapping[str, Any]) -> str:
        """Returns the name of the variant that has these config fields; the fields themselves if it has no name."""
        for name, fields in self.variants.items():
            wanted = {**self.held, **fields}
            if all(_as_json(key[own]) == _as_json(wanted.get(own, key[own])) for own in self._own):
                return name
        return short_label({own: key[own] for own in self._own})

    def grids(self, arms: Sequence[Arm]) -> dict[str, Grid]:
        """Returns the arms by context, and in it by variant and network."""
        return {
            context: {(arm.variant, arm.network): arm for arm in arms if arm.context == context}
            for context in dict.fromkeys(arm.context for arm in arms)
        }

    def judge(self, arms: Sequence[Arm]) -> list[Clause]:
        """Returns the claim clause by clause; arms are compared only where nothing but the variant differs."""
        judged = []
        for context, grid in (self.grids(arms) or {"": {}}).items():
            clauses = [clause.judge(grid) for clause in self.clauses]
            judged += [replace(c, claim=f"{c.claim} [{context}]") for c in clauses] if context else clauses
        return judged

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs: of a variant and a network that were run, but not together."""
        return [
            joined(name, network.name, context)
            for context, grid in self.grids(arms).items()
            for network in dict.fromkeys(network for _, network in grid)
            for name in dict.fromkeys(name for name, _ in grid)
            if (name, network) not in grid
        ]

    def table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns the table of results, one row per arm, the paper's number beside the network that it is of."""
        runs = [run for arm in arms for run in arm.runs]
        places = digits(arms)
        columns: dict[str, Callable[[Arm], str]] = {
            "variant": lambda arm: joined(arm.variant, arm.context),
            "network": lambda arm: arm.network.name,
            "parameters": tables.parameters_cell,
            "seeds": tables.seeds_cell,
        }
        for metric in error_metrics(runs):
            columns[f"{metric_words(metric)} (%)"] = partial(tables.error_cell, metric=metric, digits=places)
        several = any(len(arm.runs) > 1 for arm in arms)
        if several:
            columns["median (%)"] = partial(_median_cell, places=places)
        columns["paper, test (%)"] = self._paper_cell
        caption = (
            "Errors at the last step over the whole training and test set; mean ± sample standard deviation over the "
            f"seeds that finished{', and the median of their test errors' if several else ''}. {facts.provenance(runs)}"
        )
        return tables.of_columns(columns, arms, caption)

    def _paper_cell(self, arm: Arm) -> str:
        """Returns the paper's number for this network, where the paper has this network."""
        wanted = {**self.held, **self.variants.get(arm.variant, {})}
        if any(_as_json(field(arm.runs[0], name)) != _as_json(value) for name, value in wanted.items()):
            return tables.NOTHING
        return _number(self.published.get(arm.network, {}).get(arm.variant))

    def paper_table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns every number that the paper has, and ours of the same networks."""
        grids = self.grids(arms)
        rows = []
        for network, errors in self.published.items():
            for name, error in errors.items():
                ours = [grid.get((name, network)) for grid in grids.values()]
                here = [tables.error_cell(arm, "test_error") if arm else "not run" for arm in ours]
                rows.append((name, network.name, _number(error), *here))
        header = ("variant", "network", "paper (%)", *(f"{joined('here', context)} (%)" for context in grids))
        return tables.Table(header, rows, "Test error in the paper, and here.", 2)

    def lines(self, arms: Sequence[Arm]) -> dict[str, list[Arm]]:
        """Returns the arms of each line of a plot over depth; blocks are told apart where one depth has both."""
        places = {(arm.context, arm.variant, arm.network.data, arm.network.depth) for arm in arms}
        both = len(places) < len(arms)
        lines: dict[str, list[Arm]] = {}
        for arm in arms:
            block = arm.network.block if both and arm.network.block != "basic" else ""
            label = joined(arm.variant, block, arm.network.data_title, arm.context)
            lines.setdefault(label, []).append(arm)
        return {label: sorted(members, key=lambda arm: arm.network.depth) for label, members in lines.items()}

    def drawing(self, arms: Sequence[Arm]) -> Drawing:
        """Returns the main figure, named after the config: error against depth, or a row per variant."""
        name = Path(self.config).stem
        if self.over_depth:
            over_depth: dict[str, dict[int, float]] = {}
            shown = {arm.network.data for arm in arms}  # another data set's errors would only stretch the axis
            for network, errors in self.published.items():
                for variant, error in errors.items():
                    if network.data in shown and not isinstance(error, str):
                        label = joined(variant, network.data_title)
                        over_depth.setdefault(label, {})[network.depth] = error
            return error_against_depth(name, self.lines(arms), over_depth)
        panels: dict[str, dict[str, Arm]] = {}
        for arm in arms:
            panels.setdefault(joined(arm.network.name, arm.context), {})[arm.variant] = arm
        published = {network.name: errors for network, errors in self.published.items()}
        present = [variant for row in (*published.values(), *panels.values()) for variant in row]
        variants = [variant for variant in self.variants if variant in present]
        return error_per_variant(name, panels, published, list(dict.fromkeys([*variants, *present])))

    def draw(self, runs: Sequence[Run], output: Path) -> list[Path]:
        """Writes the figures, table.md, table.tex, table.csv and index.html to `output`; returns their paths.

        Raises:
          UserError: there is no run, or a result file lacks a field.
        """
        if not runs:
            raise UserError(f"there is no run to report; `normres sweep --config={self.config}` makes them")
        arms = self.arms(runs)
        page = Page(
            title=self.title,
            claim=self.claim,
            source=self.source,
            clauses=self.judge(arms),
            warnings=facts.warnings(arms, missing=self.missing(arms)),
            drawings=[self.drawing(arms), training_curves(self.lines(arms))],
            table=self.table(arms),
            paper_table=self.paper_table(arms),
            paper_notes=[*self.notes, *scale_notes(arms)],
            facts=facts.what_was_run([run for arm in arms for run in arm.runs]),
            runs=facts.run_table(arms),
        )
        return [
            *(path for drawing in page.drawings for path in save(drawing.figure, output / drawing.name)),
            write_file(output / "table.md", tables.markdown(page.table)),
            write_file(output / "table.tex", tables.latex(page.table)),
            write_file(output / "table.csv", facts.runs_csv(arms)),
            write_file(output / "index.html", page.html(output)),
        ]


def _as_json(value: Any) -> Any:
    """Returns lists for tuples, which JSON does not have."""
    return list(value) if isinstance(value, tuple) else value


def _number(error: float | str | None) -> str:
    return tables.NOTHING if error is None else error if isinstance(error, str) else f"{error:.2f}"


def _median_cell(arm: Arm, places: int) -> str:
    """Returns the median of the test errors of the seeds that finished."""
    summary = summarize(arm.values("test_error"))
    return f"{100 * summary.median:.{places}f}" if summary else tables.NOTHING
