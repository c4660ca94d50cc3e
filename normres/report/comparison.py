"""An experiment that compares variants of one network: their arms, the verdict, the table and the page.

A file of experiments/ says what is compared, what the papers found and which clauses its claim has; the rest, which
is the same for all of them, is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normres.errors import UserError
from normres.report import facts, figures, tables
from normres.report.clauses import Found, Lower, Network, Trend
from normres.report.dots import error_per_variant
from normres.report.evidence import digits, scale_notes
from normres.report.lines import DEPTH, PREFERRED, context_of
from normres.report.publication import Sketch, curves_sketch, publish, seeds_text
from normres.report.statistics import Arm, distinguishing_fields, field, group, short_label, summarize
from normres.report.style import PAGE_INCHES
from normres.report.verdict import Clause
from normres.runs.results import Run

BLOCK, DATA = "model.block", "data.name"
FAIL = "fail"  # what He et al. 2016 print for an error above 20 %

Published = Mapping[Network, Mapping[str, float | str]]


@dataclass(frozen=True)
class Comparison:
    """What an experiments file declares.

    Attributes:
      title, claim, source, config: as in every experiments file.
      variants: the config fields that make each variant, by its name, in the order in which they are listed; a field
        that other variants name and this one does not has its value in `held`, or any if it is not there.
      published: the papers' test error of a variant in a network, in percent, or FAIL.
      held: config fields that every variant has unless it names them; a published error is of such a network.
      clauses: the claim in parts.
      notes: sentences that belong to the papers' numbers.
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

    @property
    def identity(self) -> tuple[str, ...]:
        """Returns the fields that say which variant and which network an arm is."""
        return (*self._own, DEPTH, BLOCK, DATA)

    def arms(self, runs: Sequence[Run]) -> list[Arm]:
        """Returns the arms: runs that agree in variant, network and all else that the runs differ in."""
        others = distinguishing_fields(runs, ignore=self.identity, first=PREFERRED)
        arms = group(runs, [*others, *self.identity], self._label)
        order = list(self.variants)

        def place(arm: Arm) -> tuple[Any, ...]:
            name, network, context = self.variant(arm), network_of(arm), self.context(arm)
            known = order.index(name) if name in order else len(order)
            return (context != "", context, network.data, network.depth, network.block, known, name)

        return sorted(arms, key=place)

    def variant(self, arm: Arm) -> str:
        """Returns the name of the arm's variant; its fields, where it is none of those declared."""
        return self._variant(arm.key)

    def _variant(self, key: Mapping[str, Any]) -> str:
        for name, fields in self.variants.items():
            wanted = {**self.held, **fields}
            if all(_plain(key[own]) == _plain(wanted.get(own, key[own])) for own in self._own):
                return name
        return short_label({own: key[own] for own in self._own})

    def context(self, arm: Arm) -> str:
        """Returns what tells the arm from the others besides variant and network, such as "width 8"."""
        return context_of(arm.key, self.identity)

    def _label(self, key: Mapping[str, Any]) -> str:
        network = Network(key[DEPTH], key[BLOCK], key[DATA])
        context = context_of(key, self.identity)
        return f"{self._variant(key)}, {network.name}" + (f", {context}" if context else "")

    def found(self, arms: Sequence[Arm]) -> dict[str, dict[tuple[str, Network], Arm]]:
        """Returns the arms by context, and there by variant and network."""
        found: dict[str, dict[tuple[str, Network], Arm]] = {}
        for arm in arms:
            found.setdefault(self.context(arm), {})[self.variant(arm), network_of(arm)] = arm
        return found

    def judge(self, arms: Sequence[Arm]) -> list[Clause]:
        """Returns the claim clause by clause; arms are compared only where nothing but the variant differs."""
        contexts: Mapping[str, Found] = self.found(arms) or {"": {}}
        judged = []
        for context, found in contexts.items():
            for clause in self.clauses:
                result = clause.judge(found)
                judged.append(replace(result, claim=f"{result.claim} [{context}]") if context else result)
        return judged

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs: of variants and networks that were run, not together."""
        absent = []
        for context, found in self.found(arms).items():
            for network in dict.fromkeys(network for _, network in found):
                for name in dict.fromkeys(name for name, _ in found):
                    if (name, network) not in found:
                        absent.append(f"{name}, {network.name}" + (f", {context}" if context else ""))
        return absent

    def table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns the table of results, one row per arm, the paper's number beside the network that it is of."""
        places = digits(arms)
        several = any(len(arm.runs) > 1 for arm in arms)
        rows = tuple(
            (
                ", ".join(filter(None, (self.variant(arm), self.context(arm)))),
                network_of(arm).name,
                tables.parameters_cell(arm),
                tables.seeds_cell(arm),
                tables.error_cell(arm, "train_error", places),
                tables.error_cell(arm, "test_error", places),
                *([_median_cell(arm, places)] if several else []),
                self._paper_cell(arm),
            )
            for arm in arms
        )
        header = (
            "variant",
            "network",
            "parameters",
            "seeds",
            "training error (%)",
            "test error (%)",
            *(["median (%)"] if several else []),
            "paper, test (%)",
        )
        caption = (
            "Errors at the last step over the whole training and test set; mean ± sample standard deviation over "
            + (
                "the seeds that finished, and the median of their test errors. "
                if several
                else "the seeds that finished. "
            )
            + facts.provenance([run for arm in arms for run in arm.runs])
        )
        return tables.Table(header, rows, caption, 2)

    def _paper_cell(self, arm: Arm) -> str:
        """Returns the paper's number for this net, where the paper has this net."""
        wanted = {**self.held, **self.variants.get(self.variant(arm), {})}
        if any(_plain(field(arm.runs[0], name)) != _plain(value) for name, value in wanted.items()):
            return tables.NOTHING
        return _number(self.published.get(network_of(arm), {}).get(self.variant(arm)))

    def paper_table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns every number that the paper has, and ours of the same networks."""
        contexts = self.found(arms)
        rows = []
        for network, errors in self.published.items():
            for name, error in errors.items():
                ours = [found.get((name, network)) for found in contexts.values()]
                here = [tables.error_cell(arm, "test_error") if arm else "not run" for arm in ours]
                rows.append((name, network.name, _number(error), *here))
        header = ("variant", "network", "paper (%)", *(f"here{', ' if c else ''}{c} (%)" for c in contexts))
        return tables.Table(header, tuple(rows), "Test error in the paper, and here.", 2)

    def lines(self, arms: Sequence[Arm]) -> dict[str, list[Arm]]:
        """Returns the arms of each line of a plot over depth; blocks are told apart where one depth has both."""
        places = [(self.context(arm), self.variant(arm), arm.key[DATA], arm.key[DEPTH]) for arm in arms]
        both = len(set(places)) < len(places)
        lines: dict[str, list[Arm]] = {}
        for arm in arms:
            network = network_of(arm)
            words = [self.variant(arm), network.block if both and network.block != "basic" else ""]
            words += ["CIFAR-100" if network.data == "cifar100" else "", self.context(arm)]
            lines.setdefault(", ".join(filter(None, words)), []).append(arm)
        return {label: sorted(members, key=lambda arm: arm.key[DEPTH]) for label, members in lines.items()}

    def draw(self, runs: Sequence[Run], output_directory: Path) -> list[Path]:
        """Writes the figures (named after the config, and curves), table.md, table.tex and index.html.

        Raises:
          UserError: there is no run, or a result file lacks a field.
        """
        if not runs:
            raise UserError(f"there is no run to report; `normres sweep --config={self.config}` makes them")
        arms = self.arms(runs)
        return publish(
            output_directory,
            [self._depth_sketch(arms) if self.over_depth else self._dots_sketch(arms), curves_sketch(self.lines(arms))],
            title=self.title,
            claim=self.claim,
            source=self.source,
            clauses=self.judge(arms),
            arms=arms,
            missing=self.missing(arms),
            table=self.table(arms),
            paper_table=self.paper_table(arms),
            paper_notes=[*self.notes, *scale_notes(arms)],
        )

    def _dots_sketch(self, arms: Sequence[Arm]) -> Sketch:
        """Returns a row per variant, a panel per network, and the paper's numbers in a panel beside them."""
        panels: dict[str, dict[str, Arm]] = {}
        for arm in arms:
            title = ", ".join(filter(None, (network_of(arm).name, self.context(arm))))
            panels.setdefault(title, {})[self.variant(arm)] = arm
        listed = [name for errors in self.published.values() for name in errors]
        known = [name for name in self.variants if name in listed or any(name in panel for panel in panels.values())]
        names = [*known, *dict.fromkeys(name for panel in panels.values() for name in panel if name not in known)]
        published = {network.name: errors for network, errors in self.published.items()}
        seeds, several = seeds_text(arms)
        return Sketch(
            Path(self.config).stem,
            error_per_variant(panels, published, names),
            "Final training and test error, one row per variant; the table has the numbers.",
            f"Error at the last step, {seeds} per variant"
            + (": the marker is the mean, dashes are seeds" if several else "")
            + ". A cross at the right edge marks diverged runs; means are over the runs that finished. The panel of "
            "the paper’s numbers has an axis of its own, and “fail” there is an error above 20 %.",
            PAGE_INCHES,
        )

    def _depth_sketch(self, arms: Sequence[Arm]) -> Sketch:
        """Returns error against depth, and the paper's numbers in a panel beside it."""
        published: dict[str, dict[int, float]] = {}
        run = {arm.key[DATA] for arm in arms}  # another data set's errors would only stretch the axis
        for network, errors in self.published.items():
            for name, error in errors.items():
                if network.data in run and not isinstance(error, str):
                    label = name if network.data == "cifar10" else f"{name}, CIFAR-100"
                    published.setdefault(label, {})[network.depth] = error
        seeds, several = seeds_text(arms)
        return Sketch(
            Path(self.config).stem,
            figures.error_against_depth(self.lines(arms), published=published),
            "Final training and test error against depth, one line per variant; the table has the numbers.",
            f"Error at the last step against depth, {seeds} per point"
            + (": the line joins the means, dashes are seeds" if several else "")
            + ". A cross at the upper edge marks diverged runs; means are over the runs that finished."
            + (" The panel of the paper’s numbers has axes of its own." if published else ""),
            PAGE_INCHES if published else 0.5 * PAGE_INCHES,
        )


def network_of(arm: Arm) -> Network:
    """Returns the arm's network."""
    return Network(arm.key[DEPTH], arm.key[BLOCK], arm.key[DATA])


def _plain(value: Any) -> Any:
    """Returns lists for tuples, which JSON does not know."""
    return list(value) if isinstance(value, tuple) else value


def _number(error: float | str | None) -> str:
    return tables.NOTHING if error is None else error if isinstance(error, str) else f"{error:.2f}"


def _median_cell(arm: Arm, places: int) -> str:
    """Returns the median of the test errors of the seeds that finished."""
    summary = summarize(arm.values("test_error"))
    return f"{100 * summary.median:.{places}f}" if summary else tables.NOTHING
