"""An experiment: what a sweep was run for, and the page that is made of its runs.

A file of experiments/ declares one Experiment.  A subclass may replace its charts and its table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normres.errors import UserError, nearest
from normres.report import clauses, facts, figures, page, paper, tables
from normres.report import published as in_papers
from normres.report.arms import Arm, Setting, distinguishing_fields, evaluated_on, field, group, measure_of, metrics_of
from normres.report.charts import Chart
from normres.report.clauses import Grid, Lower, Trend, Verdict
from normres.report.labels import finals, joined, scale_of, short_label, titled
from normres.runs.fields import declared, typed
from normres.runs.results import MARKED, Run

BLOCK, DATA = "model.block", "data.name"
FAIL = "fail"  # what He et al. 2016 print for an error above 20 %
PAPER = "paper, test (%)"  # a column

# What the axis of a field is called.
AXES = {"model.depth": "depth (layers)", "train.batch_size": "images per batch", "optim.learning_rate": "learning rate"}
# Of the fields that tell runs apart, those that say most come first; the others follow in alphabetical order.
PREFERRED = ("recipe", "data.name", "data.source", "model.norm", "model.order", "model.width", "train.steps")

EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Experiment:
    """What an experiments file declares.

    Attributes:
      title, claim, source: sentences for the page; without a claim there is no verdict.
      config: the config file whose sweep makes the runs; its name is also the main figure's.
      variants: the config fields that make each variant, by its name, in the order in which they are listed.  A field
        that other variants name and this one does not has its value in `held`, or any value if it is not there.
      published: the papers' test error of a variant in a setting, in percent, or a text such as FAIL.
      scale: config fields of the training that `published` is from, which the page compares with the runs'; {}: none.
      held: config fields that every variant has unless it names them; a published error is of such a network.
      clauses: the claim in parts.
      notes: sentences about the papers' numbers.
      over: the field along which arms are lines; a depth unless said otherwise.
      lines: draw error over that field instead of a row per variant.
      follows: fields that follow from variant and `over`, such as the steps from the batch size; they tell arms apart
        only where they do not.
      alone: each of these numeric fields gets a figure of its own, too, if there is a line in it.
      measure: what is compared: "error", or "loss" of networks that have none.
    """

    title: str
    claim: str
    source: str
    config: str
    variants: Mapping[str, Mapping[str, Any]]
    published: in_papers.Published = EMPTY
    scale: Mapping[str, Any] = facts.PAPER_SCALE
    held: Mapping[str, Any] = EMPTY
    clauses: Sequence[Lower | Trend] = ()
    notes: Sequence[str] = ()
    over: str = "model.depth"
    lines: bool = False
    follows: Sequence[str] = ()
    alone: Sequence[str] = ()
    measure: str = "error"

    def check(self) -> None:
        """Raises UserError, which names the field or the clause, if it is not made of what an experiment is made of."""
        if not (isinstance(self.variants, Mapping) and all(isinstance(one, Mapping) for one in self.variants.values())):
            raise UserError(f"{self.config}: EXPERIMENT.variants must be a dict: of each variant's name, its fields")
        if not (isinstance(self.clauses, Sequence) and all(isinstance(one, Lower | Trend) for one in self.clauses)):
            raise UserError(f"{self.config}: EXPERIMENT.clauses must be a list of Lower and Trend")
        for name in (*self._own, *self.held, *self.follows, *self.alone, self.over):
            if name not in declared():
                raise UserError(f"{self.config}: EXPERIMENT: {name!r} is no field; {nearest(name, declared())}")
        for clause in self.clauses:
            for name in (clause.better, clause.worse) if isinstance(clause, Lower) else (clause.variant,):
                if name not in self.variants:
                    hint = nearest(name, self.variants)
                    raise UserError(f"{self.config}: EXPERIMENT.clauses: {name!r} is no variant; {hint}")

    @property
    def _own(self) -> tuple[str, ...]:
        """Returns the fields that say which variant an arm is."""
        return tuple(dict.fromkeys(name for fields in self.variants.values() for name in fields))

    def arms(self, runs: Sequence[Run]) -> list[Arm]:
        """Returns the arms: runs that agree in variant, setting and all else in which the runs differ.

        Raises:
          UserError: the runs' values of `over` are no numbers.
        """
        identity = (*self._own, self.over, BLOCK, DATA)
        others = distinguishing_fields(runs, ignore=(*identity, *self.follows), first=PREFERRED)
        known = (*identity, *others)
        others += [name for name in self.follows if len(group(runs, (*known, name))) > len(group(runs, known))]
        arms = [
            Arm(
                self.variant(key),
                Setting(key[self.over], key[BLOCK], key[DATA], self.over),
                short_label({name: key[name] for name in others}),
                key,
                members,
            )
            for key, members in group(runs, [*others, *identity])
        ]
        if strange := [arm.setting.at for arm in arms if type(arm.setting.at) not in (int, float)]:
            raise UserError(f"{self.config}: EXPERIMENT.over={self.over!r} is no number: a run has {strange[0]!r}")
        order = list(self.variants)

        def place(arm: Arm) -> tuple[Any, ...]:
            of_variant = (order.index(arm.variant) if arm.variant in order else len(order), arm.variant)
            of_setting = (arm.setting.at, arm.setting.block)
            along = (*of_variant, *of_setting) if self.lines else (*of_setting, *of_variant)
            return (arm.context != "", arm.context, arm.setting.data, *along)

        return sorted(self._told_apart(arms), key=place)

    def _told_apart(self, arms: Sequence[Arm]) -> list[Arm]:
        """Returns the arms, of which those with one label say in which fields they differ; none hides another."""
        apart = []
        for arm in arms:
            alike = [other.key for other in arms if other.label == arm.label]
            differ = {own: arm.key[own] for own in self._own if len({str(key[own]) for key in alike}) > 1}
            apart.append(replace(arm, context=joined(arm.context, short_label(differ))))
        return apart

    def variant(self, key: Mapping[str, Any]) -> str:
        """Returns the name of the variant that has these config fields, of several the one that names the most.

        The fields themselves if it has no name.
        """

        def has(fields: Mapping[str, Any]) -> bool:
            wanted = {**self.held, **fields}
            return all(own not in wanted or _agree(own, key[own], wanted[own]) for own in self._own)

        names = [name for name, fields in self.variants.items() if has(fields)]
        own = {name: key[name] for name in self._own}
        return max(names, key=lambda name: len(self.variants[name]), default=short_label(own))

    def grids(self, arms: Sequence[Arm]) -> dict[str, Grid]:
        """Returns the arms by context, and in it by variant and setting."""
        return {
            context: {(arm.variant, arm.setting): arm for arm in arms if arm.context == context}
            for context in dict.fromkeys(arm.context for arm in arms)
        }

    def judge(self, arms: Sequence[Arm]) -> list[Verdict]:
        """Returns the claim clause by clause; arms are compared only where nothing but the variant differs."""
        claims, on = list[tuple[Lower | Trend, Grid]](), evaluated_on(arms)
        for context, grid in (self.grids(arms) or {"": {}}).items():
            for clause in self.clauses:
                quantity = replace(clause.quantity, words=clause.quantity.words.replace("test", on))
                claim = f"{clause.claim} [{context}]" if context else clause.claim
                claims.append((replace(clause, claim=claim, quantity=quantity), grid))
        return clauses.judge(claims)

    def missing(self, arms: Sequence[Arm]) -> list[str]:
        """Returns the labels of arms without runs: of a variant and a setting that were run, but not together."""
        return [
            joined(name, setting.name, context)
            for context, grid in self.grids(arms).items()
            for setting in dict.fromkeys(setting for _, setting in grid)
            for name in dict.fromkeys(name for name, _ in grid)
            if (name, setting) not in grid
        ]

    def warnings(self, arms: Sequence[Arm]) -> list[str]:
        """Returns what weakens all numbers of the page, a sentence each."""
        sentences = facts.warnings(arms, missing=self.missing(arms))
        if any(isinstance(clause, Lower) and clause.best for clause in self.clauses):
            over, on = short_label({self.over: ""}).strip(), evaluated_on(arms)
            sentences.append(
                f"The {over} of each variant was chosen on the {on} set: its {on} error is lower than on new images "
                "because of this choice, above all where several values are nearly equal. The intervals do not include "
                "this."
            )
        return sentences

    def table(self, arms: Sequence[Arm]) -> tables.Table:
        """Returns the table of results, one row per arm, with what weakens an arm's numbers as notes."""
        letters = facts.lettered(arms)
        columns: dict[str, Callable[[Arm], str]] = {
            "variant": lambda arm: joined(arm.variant, arm.context),
            "setting": lambda arm: arm.setting.name,
        }
        if letters:
            columns["notes"] = lambda arm: " ".join(letters[sentence] for sentence in facts.notes_of(arm))
        texts = len(columns)
        columns |= self.columns(arms)
        rows = [tuple(cell(arm) for cell in columns.values()) for arm in arms]
        caption = f"{self.caption(arms)} {facts.provenance([run for arm in arms for run in arm.runs])}"
        footnotes = [f"{letter}: {sentence}" for sentence, letter in letters.items()]
        footnotes += facts.scale_notes(arms, self.scale) if PAPER in columns else []
        return tables.Table(tuple(columns), rows, caption, texts, footnotes)

    def columns(self, arms: Sequence[Arm]) -> dict[str, Callable[[Arm], str]]:
        """Returns the columns of numbers: what is a cell of an arm, by the column's title."""
        training, test = finals(self.measure)
        known = metrics_of(run for arm in arms for run in arm.runs)
        others = [name for name in known if name.startswith("test_") and name.endswith(f"_{self.measure}")]
        places = facts.digits(arms, self.measure)
        columns: dict[str, Callable[[Arm], str]] = {"parameters": tables.parameters_cell, "seeds": tables.seeds_cell}
        for metric in dict.fromkeys([training, test, *others]):
            columns[titled(metric, evaluated_on(arms))] = partial(tables.error_cell, metric=metric, digits=places)

        def statistic(arm: Arm, name: str) -> str:
            summary = arm.summary(test)
            return f"{scale_of(test) * getattr(summary, name):.{places}f}" if summary else tables.NOTHING

        if any(len(arm.runs) > 1 for arm in arms):
            columns["median"] = partial(statistic, name="median")
            columns["interquartile mean"] = partial(statistic, name="interquartile_mean")
        if self.published:  # the paper's number, beside the setting that it is of
            columns[PAPER] = self._paper_cell
        return columns

    def caption(self, arms: Sequence[Arm]) -> str:
        """Returns what the table says of its numbers."""
        on, what = evaluated_on(arms), {"error": "Errors", "loss": "Losses"}[self.measure]
        several = any(len(arm.runs) > 1 for arm in arms)
        middle = f"; median and interquartile mean are those of the {on} {self.measure}" if several else ""
        return (
            f"{what} at the last step over the whole training and {on} set; mean ± sample standard deviation over the "
            f"seeds that finished{middle}."
        )

    def _paper_cell(self, arm: Arm) -> str:
        """Returns the paper's number for this setting, where the paper has it."""
        wanted = {**self.held, **self.variants.get(arm.variant, {})}
        if not all(_agree(name, field(arm.runs[0], name), value) for name, value in wanted.items()):
            return tables.NOTHING
        return in_papers.printed(self.published, self.published.get(arm.setting, {}).get(arm.variant))

    def paper_table(self, arms: Sequence[Arm]) -> tables.Table | None:
        """Returns the papers' numbers beside ours; None if they have none."""
        return in_papers.table(self.published, self.grids(arms), facts.digits(arms))

    def along(self, arms: Sequence[Arm]) -> dict[str, list[Arm]]:
        """Returns the arms of each line of a plot; a line is of one kind of block."""
        both = in_papers.several_blocks(self.published, arms)
        lines: dict[str, list[Arm]] = {}
        for arm in arms:
            block = arm.setting.block if both and arm.setting.block != "basic" else ""
            label = joined(arm.variant, block, arm.setting.data_title, arm.context) or "all"
            lines.setdefault(label, []).append(arm)
        return {label: sorted(members, key=lambda arm: arm.setting.at) for label, members in lines.items()}

    def main_chart(self, arms: Sequence[Arm]) -> Chart:
        """Returns the main figure, named after the config: error over a field, or a row per variant."""
        name = Path(self.config).name.removesuffix(".py")
        if self.lines:
            axis = AXES.get(self.over, self.over)
            theirs = in_papers.lines(self.published, arms)
            return figures.error_over(name, axis, self.along(arms), *theirs, self.measure)
        panels: dict[str, dict[str, Arm]] = {}
        for arm in arms:
            panels.setdefault(joined(arm.setting.name, arm.context), {})[arm.variant] = arm
        of_papers = {setting.name: errors for setting, errors in self.published.items()}
        present = dict.fromkeys(variant for row in (*of_papers.values(), *panels.values()) for variant in row)
        rows = list(dict.fromkeys([*(variant for variant in self.variants if variant in present), *present]))
        return figures.error_per_variant(name, panels, of_papers, rows, self.measure)

    def charts(self, runs: Sequence[Run], arms: Sequence[Arm]) -> list[Chart]:
        """Returns all figures: the main one, one over each field of `alone`, and the curves."""
        made = [self.main_chart(arms)]
        for name in self.alone:
            other = replace(self, over=name, lines=True, config=f"error-over-{name}", alone=())
            along = other.arms(runs)
            if any(len(line) > 1 for line in other.along(along).values()):
                made.append(other.main_chart(along))
        if not self.claim and any(len(arm.runs) > 1 for arm in arms):
            by_label = {arm.label: arm for arm in arms}
            made.append(figures.error_per_variant("seeds", {"over seeds": by_label}, {}, [*by_label], self.measure))
        return [*made, figures.training_curves(self.along(arms), self.measure)]

    def draw(self, runs: Sequence[Run], output: Path) -> list[Path]:
        """Writes the figures, table.md, table.tex, table.csv and index.html to `output`; returns their paths."""
        arms = self.arms(runs)
        charts = self.charts(runs, arms)
        drawn = [path for chart in charts for path in paper.save(chart, output)]
        return [*drawn, *page.write(self, arms, charts, output)]


def of_unknown(runs: Sequence[Run]) -> Experiment:
    """Returns an experiment without a claim for any runs: a variant for each choice, a figure for each number."""
    names = distinguishing_fields(runs, first=PREFERRED)
    values = {name: {str(field(run, name)): field(run, name) for run in runs} for name in names}
    numbers = [name for name in names if all(type(value) in (int, float) for value in values[name].values())]
    choices = [name for name in names if name not in numbers and name not in (BLOCK, DATA)]
    variants = {short_label(key): key for key, _ in group(runs, choices)} if choices else {}
    own = any(run.config["model"].get("module") for run in runs)  # which has no such depth
    default = "train.steps" if own else "model.depth"
    over = default if default in numbers or not numbers else numbers[0]
    measure = measure_of(runs)
    # Fields that differ only together with others tell no runs apart, but may be what makes the difference.
    with_them = [name for name in distinguishing_fields(runs, each=True) if name not in names]
    values |= {name: {str(field(run, name)): None for run in runs} for name in with_them}
    differ, beside = (", ".join(f"{name} ({', '.join(values[name])})" for name in some) for some in (names, with_them))
    return Experiment(
        title=f"{len(runs)} runs",
        claim="",
        source=f"Fields that differ: {differ or 'none but the seed'}." + f" With them: {beside}." * bool(beside),
        config=measure,
        measure=measure,
        variants=variants,
        over=over,
        lines=over in numbers,
        alone=[name for name in numbers if name != over],
    )


def _agree(name: str, held: Any, wanted: Any) -> bool:
    """Returns whether a run's value of a field, read from JSON, is the one that an experiment names."""
    wanted = typed(name, wanted) if name in declared() else wanted
    if name in MARKED and wanted:
        known = Path(held).name
        return Path(wanted).name in (known, known[: -len("-01234567")])  # with its mark
    return bool(tuple(held) == wanted if isinstance(wanted, tuple) else held == wanted)  # JSON has lists
