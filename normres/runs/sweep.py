"""Sweeps: the arms of a config file's sweep(), each with a stable name, run one after the other, skipping what is done.

An arm's directory is named by what it overrides and by a digest of its whole config, so a sweep that is started again,
or extended, finds its own runs, and a changed base config never meets the old ones.
"""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from normres.errors import UserError
from normres.runs import config as configs


@dataclass(frozen=True)
class Arm:
    """One run of a sweep: its directory name, its short label and its validated config."""

    run_id: str
    label: str
    config: ConfigDict


def expand(path_and_argument: str, overrides: dict[str, Any], seeds: int) -> list[Arm]:
    """Returns the arms of a sweep, all validated before any may start.

    Args:
      path_and_argument: a config file with get_config and sweep, `FILE.py` or `FILE.py:ARGUMENT`.
      overrides: fields that hold for every arm; an arm's own fields win.
      seeds: number of seeds, counted up from the config's own.

    Raises:
      UserError: an arm's config cannot run, overrides a field that the sweep varies, or equals another arm's.
    """
    arms = configs.load_sweep(path_and_argument)
    if not arms:
        raise UserError(f"{path_and_argument}: the sweep has no arms")
    if seeds < 1:
        raise UserError(f"--seeds={seeds} must be at least 1")
    varied = {name for arm in arms for name in arm}
    clash = sorted(varied & overrides.keys())
    if clash:
        raise UserError(f"config.{clash[0]} is what the sweep varies; it cannot be overridden for all arms")
    base = configs.load(path_and_argument, overrides)
    expanded = []
    for seed in range(base.seed, base.seed + seeds):
        for arm in arms:
            config = configs.apply(base, arm if "seed" in arm else {**arm, "seed": seed})
            parts = [f"{name.rpartition('.')[2]}={value}" for name, value in arm.items()]
            if "seed" not in arm:
                parts.append(f"seed={seed}")
            label = " ".join(parts)
            expanded.append(Arm(f"{','.join(parts)}-{configs.digest(config)}".replace("/", "_"), label, config))
    names = [arm.run_id for arm in expanded]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{path_and_argument}: two arms of the sweep are the same: {twice}")
    return expanded
