"""Arms: the runs that agree in the fields that matter, and not in the seed.

No run is dropped silently: an arm knows which of its runs finished, which diverged and which are not done,
and the mean of an arm is always the mean of a number of runs that the arm names.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from normres.errors import UserError
from normres.report.inference import Summary, summarize
from normres.report.labels import counted, joined, short_label
from normres.runs.results import DONE, Run

DATA_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}


@dataclass(frozen=True)
class Setting:
    """A column of the papers' tables: a value `at` of the config field `over`, a kind of block and a data set."""

    at: Any
    block: str = "basic"
    data: str = "cifar10"
    over: str = "model.depth"

    @property
    def name(self) -> str:
        """Returns "depth 110", "depth 164 (bottleneck), CIFAR-100"."""
        block = "" if self.block == "basic" else f" ({self.block})"
        return joined(f"{short_label({self.over: self.at})}{block}", self.data_title)

    @property
    def data_title(self) -> str:
        """Returns what a label says of the data set: nothing of CIFAR-10, and of photographs, which have no rival."""
        return "" if self.data in ("cifar10", "photographs") else DATA_TITLES.get(self.data, self.data)

    @property
    def kind(self) -> tuple[str, str]:
        """What must agree for two settings to be compared along the field."""
        return (self.data, self.block)


@dataclass(frozen=True)
class Arm:
    """The runs that agree in the fields of `key`, ordered by seed.

    Attributes:
      variant: its name.
      setting: where it was tried.
      context: what tells it from other arms besides these two, such as "width 8".
      key: the config fields that the runs share, as far as they tell arms apart.
      runs: at least one.
    """

    variant: str
    setting: Setting
    context: str
    key: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """Returns "plain, depth 20, width 8"."""
        return joined(self.variant, self.setting.name, self.context)

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that reached their last step."""
        return tuple(run for run in self.runs if run.record["status"] == "finished")

    @property
    def diverged(self) -> tuple[Run, ...]:
        """The runs that became non-finite."""
        return tuple(run for run in self.runs if run.record["status"] == "diverged")

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """The runs that still run or were stopped."""
        return tuple(run for run in self.runs if run.record["status"] not in DONE)

    def summary(self, metric: str) -> Summary | None:
        """Returns the statistics of a final number, such as "train_error", over the seeds that finished and have it."""
        return summarize(self.by_seed(lambda run: final(run, metric)).values())

    def by_seed(self, number: Callable[[Run], float | None], runs: Sequence[Run] | None = None) -> dict[Any, float]:
        """Returns a number of each seed, over `runs` (those that finished, unless said) that have it.

        Of several runs with one seed, such as copies, it is their mean.
        """
        values: dict[Any, list[float]] = {}
        for run in self.finished if runs is None else runs:
            if (value := number(run)) is not None:
                values.setdefault(seed(run), []).append(value)
        return {one: fmean(several) for one, several in values.items()}

    def count(self, name: str) -> int:
        """Returns a count of the record's data, such as "train_examples"; 0 if it is not known."""
        return int((self.runs[0].record.get("data") or {}).get(name) or 0)

    @property
    def chance(self) -> float:
        """The error of guessing, 1 - 1/classes, at which a diverged network counts."""
        return 1 - 1 / (self.count("classes") or 10)


def final(run: Run, metric: str) -> float | None:
    """Returns a run's final number called `metric`; None if it has none or it is not finite."""
    value = (run.record.get("final") or {}).get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def metrics_of(runs: Iterable[Run]) -> list[str]:
    """Returns the names of the final numbers that the runs' records hold, in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.record.get("final") or {}))


def measure_of(runs: Iterable[Run]) -> str:
    """Returns what the runs are compared by: their error, or their loss if they make images and have no error."""
    known = metrics_of(runs)
    return "loss" if "test_loss" in known and "test_error" not in known else "error"


def evaluated_on(arms: Iterable[Arm]) -> str:
    """Returns "validation" if all runs were evaluated on a part of the training images, else "test"."""
    splits = {(run.record.get("data") or {}).get("evaluated_on") for arm in arms for run in arm.runs}
    return "validation" if splits == {"validation"} else "test"


def field(run: Run, name: str) -> Any:
    """Returns a run's config field by its dotted name; a missing one is a UserError that names the file."""
    try:
        return run.field(name)
    except (KeyError, TypeError):
        raise UserError(f"{run.path}: the config has no field {name!r}") from None


def run_id(run: Run) -> str:
    """Returns a run's id, or its directory's name where the record has none."""
    return str(run.record.get("run_id") or run.path.name)


def seed(run: Run) -> Any:
    """Returns a run's seed."""
    return run.record.get("seed", run.config.get("seed"))


def one_of_each_seed(runs: Sequence[Run]) -> list[Run]:
    """Returns the first run of each seed; the others are its copies."""
    first: dict[Any, Run] = {}
    for run in runs:
        first.setdefault(seed(run), run)
    return list(first.values())


def seeds_text(arms: Sequence[Arm]) -> str:
    """Returns "3 seeds" or "1 to 3 seeds" of arms: those that finished or, if none did, all."""
    counts = [len(set(map(seed, arm.finished or arm.runs))) for arm in arms]
    fewest, most = min(counts), max(counts)
    return ("" if fewest == most else f"{fewest} to ") + counted(most, "seed")


def group(runs: Iterable[Run], fields: Sequence[str]) -> list[tuple[dict[str, Any], tuple[Run, ...]]]:
    """Returns (values of `fields`, the runs that have them, by seed) for each combination that there is."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (sort_key(seed(run)), run_id(run))):
        # A config's lists cannot be keys of a dictionary, their JSON can.
        groups.setdefault(json.dumps({name: field(run, name) for name in fields}), []).append(run)
    return [(json.loads(key), tuple(members)) for key, members in groups.items()]


def distinguishing_fields(
    runs: Sequence[Run], *, ignore: Iterable[str] = (), first: Sequence[str] = (), each: bool = False
) -> list[str]:
    """Returns config fields that tell the runs apart, apart from seed, bookkeeping and `ignore`.

    Unless `each` is wanted, a field is left out where the fields before it already tell the same runs apart, so that a
    recipe stands for the fields that it sets.  Fields of `first` come first, the others follow in alphabetical order.
    """
    flat = [run.identity for run in runs]
    names = {name for config in flat for name in config} - {"seed", *ignore}

    def classes(fields: Sequence[str]) -> int:
        return len({json.dumps([config.get(name) for name in fields]) for config in flat})

    chosen: list[str] = []
    for name in sorted(names, key=lambda name: ([*first, name].index(name), name)):
        if classes([name] if each else [*chosen, name]) > classes([] if each else chosen):
            chosen.append(name)
    return chosen


def sort_key(value: Any) -> tuple[int, float, str]:
    """Returns a key that sorts numbers as numbers and before texts."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))
