"""An experiment that compares variants of one network: their arms, the verdict, the table and the page.

A file of experiments/ declares one Comparison.  A subclass may replace its figure and its table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.report import facts, tables
from normres.report.clauses import DATA_TITLES, Grid, Lower, Network, Trend
from normres.report.curves import training_curves
from normres.report.dots import error_per_variant
from normres.report.evidence import digits, scale_notes
from normres.report.figures import error_against_depth
from normres.report.files import write_file
from normres.report.page import Page
from normres.report.statistics import (
    Arm,
    distinguishing_fields,
    error_metrics,
    field,
    group,
    metric_words,
    short_label,
    summarize,
)
from normres.report.style import Drawing, save
from normres.report.verdict import Clause
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
        arms = group(runs, [*others, *identity], self._label)
        order = list(self.variants)

        def place(arm: Arm) -> tuple[Any, ...]:
            name, network, context = self.variant(arm.key), network_of(arm.key), self.context(arm.key)
            of_variant = (order.index(name) if name in order else len(order), name)
            of_network = (network.depth, network.block)
            along = (*of_variant, *of_network) if self.over_depth else (*of_network, *of_variant)
            return (context != "", context, network.data, *along)

        return sorted(arms, key=place)

    def variant(self, key: Mapping[str, Any]) -> str:
        """Returns the name of the variant that has these config fields; the fields themselves if it has no name."""
        for name, fields in self.variants.items():
            wanted = {**self.held, **fields}
            if all(_as_json(key[own]) == _as_json(wanted.get(own, key[own])) for own in self._own):
                return name
        return short_label({own: key[own] for own in self._own})

    def context(self, key: Mapping[str, Any]) -> str:
        """Returns what tells an arm from the others besides variant and network, such as "width 8"."""
        known = (*self._own, DEPTH, BLOCK, DATA)
        return short_label({name: value for name, value in key.items() if name not in known})

    def _label(self, key: Mapping[str, Any]) -> str:
        return joined(self.variant(key), network_of(key).name, self.context(key))

    def grids(self, arms: Sequence[Arm]) -> dict[str, Grid]:
        """Returns the arms by context, and in it by variant and network."""
        grids: dict[str, dict[tuple[str, Network], Arm]] = {}
        for arm in arms:
            grids.setdefault(self.context(arm.key), {})[self.variant(arm.key), network_of(arm.key)] = arm
        return {**grids}

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
        metrics = error_metrics(runs)
        several = any(len(arm.runs) > 1 for arm in arms)
        rows = tuple(
            (
                joined(self.variant(arm.key), self.context(arm.key)),
                network_of(arm.key).name,
                tables.parameters_cell(arm),
                tables.seeds_cell(arm),
                *(tables.error_cell(arm, metric, places) for metric in metrics),
                *([_median_cell(arm, places)] if several else []),
                self._paper_cell(arm),
            )
            for arm in arms
        )
        header = (
            *("variant", "network", "parameters", "seeds"),
            *(f"{metric_words(metric)} (%)" for metric in metrics),
            *(["median (%)"] if several else []),
            "paper, test (%)",
        )
        caption = (
            "Errors at the last step over the whole training and test set; mean ± sample standard deviation over the "
            f"seeds that finished{', and the median of their test errors' if several else ''}. {facts.provenance(runs)}"
        )
        return tables.Table(header, rows, caption, 2)

    def _paper_cell(self, arm: Arm) -> str:
        """Returns the paper's number for this network, where the paper has this network."""
        name = self.variant(arm.key)
        wanted = {**self.held, **self.variants.get(name, {})}
        if any(_as_json(field(arm.runs[0], field_name)) != _as_json(value) for field_name, value in wanted.items()):
            return tables.NOTHING
        return _number(self.published.get(network_of(arm.key), {}).get(name))

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
        return tables.Table(header, tuple(rows), "Test error in the paper, and here.", 2)

    def lines(self, arms: Sequence[Arm]) -> dict[str, list[Arm]]:
        """Returns the arms of each line of a plot over depth; blocks are told apart where one depth has both."""
        places = [(self.context(arm.key), self.variant(arm.key), arm.key[DATA], arm.key[DEPTH]) for arm in arms]
        both = len(set(places)) < len(places)
        lines: dict[str, list[Arm]] = {}
        for arm in arms:
            block = arm.key[BLOCK] if both and arm.key[BLOCK] != "basic" else ""
            label = joined(self.variant(arm.key), block, _data_title(arm.key[DATA]), self.context(arm.key))
            lines.setdefault(label, []).append(arm)
        return {label: sorted(members, key=lambda arm: arm.key[DEPTH]) for label, members in lines.items()}

    def drawing(self, arms: Sequence[Arm]) -> Drawing:
        """Returns the main figure, named after the config: error against depth, or a row per variant."""
        name = Path(self.config).stem
        if self.over_depth:
            over_depth: dict[str, dict[int, float]] = {}
            shown = {arm.key[DATA] for arm in arms}  # another data set's errors would only stretch the axis
            for network, errors in self.published.items():
                for variant, error in errors.items():
                    if network.data in shown and not isinstance(error, str):
                        label = joined(variant, _data_title(network.data))
                        over_depth.setdefault(label, {})[network.depth] = error
            return error_against_depth(name, self.lines(arms), over_depth)
        panels: dict[str, dict[str, Arm]] = {}
        for arm in arms:
            title = joined(network_of(arm.key).name, self.context(arm.key))
            panels.setdefault(title, {})[self.variant(arm.key)] = arm
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


def network_of(key: Mapping[str, Any]) -> Network:
    """Returns the network that has these config fields."""
    return Network(key[DEPTH], key[BLOCK], key[DATA])


def joined(*words: str) -> str:
    """Returns the words that are not empty, with commas between them."""
    return ", ".join(filter(None, words))


def _data_title(name: str) -> str:
    """Returns what a label says of a data set: nothing of CIFAR-10."""
    return "" if name == "cifar10" else DATA_TITLES.get(name, name)


def _as_json(value: Any) -> Any:
    """Returns lists for tuples, which JSON does not have."""
    return list(value) if isinstance(value, tuple) else value


def _number(error: float | str | None) -> str:
    return tables.NOTHING if error is None else error if isinstance(error, str) else f"{error:.2f}"


def _median_cell(arm: Arm, places: int) -> str:
    """Returns the median of the test errors of the seeds that finished."""
    summary = summarize(arm.values("test_error"))
    return f"{100 * summary.median:.{places}f}" if summary else tables.NOTHING
