"""Sweeps: the arms of a config file or of a grid, each with a stable name.  queue.py trains them.

An arm's directory is named by what it overrides and by a digest of its whole config.  So a sweep that is started again,
or extended, finds its own runs, and a changed config never meets the old ones.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import traps, unread
from normres.runs.fields import digest
from normres.training.optim import holds

MOST_SEEDS = 10_000
LONGEST_NAME = 237  # bytes before the digest: file systems take 255, and a kept run adds .run.json


@dataclass(frozen=True)
class Arm:
    """One run of a sweep: its directory name, its short label and its validated config."""

    run_id: str
    label: str
    config: ConfigDict


def grid(vary: Sequence[str]) -> list[dict[str, str]]:
    """Returns the product of "FIELD=A,B,..." texts, the first varying slowest; a value in parentheses may have commas.

    Raises:
      UserError: a text has no values, a parenthesis is lost, or a field is named twice.
    """
    axes: dict[str, list[str]] = {}
    for text in vary:
        name, _, values = text.removeprefix("config.").partition("=")
        parts = [part.strip() for part in re.split(r",(?![^(]*\))", values)]
        if not all(parts) or any(part.count("(") != part.count(")") for part in parts):
            raise UserError(f"--vary {text}: write FIELD=A,B,..., such as model.norm=batch,group")
        if name in axes:
            raise UserError(f"--vary {text}: {name} is varied twice")
        axes[name] = parts
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def expand(name_and_argument: str, overrides: Mapping[str, Any], seeds: int, vary: Sequence[str] = ()) -> list[Arm]:
    """Returns the arms of a sweep, all validated before any may start.

    The overrides hold for every arm; seeds are counted up from the config's own.  Each point of `vary`, see `grid`, is
    combined with each arm of the file's sweep(); a file without one has its config as the only arm.

    Raises:
      UserError: an arm's config cannot run, overrides a field that the sweep varies, or equals another arm's.
    """
    arms = configs.load_sweep(name_and_argument)
    if arms == []:
        raise UserError(f"{name_and_argument}: the sweep has no arms")
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds={seeds} must be from 1 to {MOST_SEEDS:,}")
    arms, points = arms or [{}], grid(vary)
    if seeds > 1 and any("seed" in point for point in (*points, *arms)):
        raise UserError(f"--seeds={seeds}: {name_and_argument} or --vary has the seeds already")
    if twice := points[0].keys() & {name for arm in arms for name in arm}:
        raise UserError(f"--vary {min(twice)}: {name_and_argument} varies it already")
    arms = [{**arm, **point} for arm in arms for point in points]
    if clash := sorted({name for arm in arms for name in arm} & overrides.keys()):
        raise UserError(f"config.{clash[0]} is what the sweep varies; it cannot be overridden for all arms")
    first = configs.first_seed(name_and_argument, overrides)
    expanded, known, paths = list[Arm](), dict[str, str](), dict[str, str]()
    for seed in range(first, first + seeds):
        for arm in arms:
            fields = arm if "seed" in arm else {**arm, "seed": seed}
            config = configs.load(name_and_argument, {**overrides, **fields})
            if (seeds > 1 or "seed" in arm) and all(config.seeds[stream] >= 0 for stream in unread.streams(config)):
                pinned = ", ".join(f"config.seeds.{name}" for name in sorted(unread.streams(config)))
                raise UserError(f"with {pinned} fixed, all seeds are the same run")
            label = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in fields.items())
            stem = label.replace(" ", ",").replace("/", "_").encode()
            stem = stem if len(stem) <= LONGEST_NAME else stem[:200]
            run_id = f"{stem.decode(errors='ignore')}-{digest(config)}"
            keys = (run_id, json.dumps(config.to_dict(), sort_keys=True))
            if same := [known[key] for key in keys if key in known]:
                raise UserError(f"{name_and_argument}: two arms of the sweep are the same: {same[0]} and {label}")
            known |= dict.fromkeys(keys, label)
            if (other := paths.setdefault(digest(config), config.data.path)) != config.data.path:
                both = f"two arms differ in config.data.path alone, {other} and {config.data.path}"
                hint = "which is no part of a run's name; give each a config.data.name, or use two --workdir"
                raise UserError(f"{name_and_argument}: {both}, {hint}")
            expanded.append(Arm(run_id, label, config))
    return expanded


def misleading(arms: Sequence[Arm]) -> list[str]:
    """Returns a sentence for each trap of some arms, and for each difference between arms that is easily missed."""
    said = Counter(line for arm in arms for line in traps.of(arm.config))
    # That a sweep departs from its recipe is what it is for.
    lines = [f"{n} of {len(arms)} arms: {line}" for line, n in said.items() if not line.startswith("config.recipe=")]
    trained = [arm.config.train for arm in arms]
    seen = sorted(train.batch_size * train.steps for train in trained)
    if len({train.batch_size for train in trained}) > 1 and seen[-1] > 1.1 * seen[0]:
        lines.append(f"the arms train on {seen[0]:,} to {seen[-1]:,} images: config.train.steps is not in proportion")
    if len({holds(arm.config) for arm in arms}) > 1:
        lines.append("only arms of config.optim.hold_from_depth and more layers start at a held learning rate")
    for name in ("style_weight", "label_smoothing"):
        if len({arm.config.optim[name] for arm in arms}) > 1:
            lines.append(f"the arms differ in config.optim.{name}: each has a loss of its own, so compare no losses")
    return lines
