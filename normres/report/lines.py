"""Arms as lines of a plot over depth: plain or residual, one per variant and never two things averaged."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from normres.report.statistics import Arm, distinguishing_fields, group
from normres.runs.results import Run

DEPTH = "model.depth"
SHORTCUT = "model.shortcut"

# Of the fields that tell runs apart, those that say most come first; the others follow in alphabetical order.
PREFERRED = ("recipe", "data.name", "data.source", "model.norm", "model.order", "model.width", "train.steps")


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """Returns the arms: runs that agree in shortcut, depth and all else that the runs differ in."""
    others = distinguishing_fields(runs, ignore=(SHORTCUT, DEPTH), first=PREFERRED)
    arms = group(runs, [*others, SHORTCUT, DEPTH], lambda key: f"{line_label(key)}, depth {key[DEPTH]}")
    # Plain first, in every context.
    return sorted(arms, key=lambda arm: (context_of(arm.key) != "", context_of(arm.key), arm.key[SHORTCUT] != "none"))


def line_label(key: Mapping[str, Any]) -> str:
    """Returns "plain" or "residual (A)", and what else tells this line from the others: "plain, width 8"."""
    context = context_of(key)
    variant = "plain" if key[SHORTCUT] == "none" else f"residual ({key[SHORTCUT]})"
    return f"{variant}, {context}" if context else variant


def lines_of(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Returns the arms of each line, ordered by depth."""
    lines: dict[str, list[Arm]] = {}
    for arm in arms:
        lines.setdefault(line_label(arm.key), []).append(arm)
    return {label: sorted(members, key=lambda arm: arm.key[DEPTH]) for label, members in lines.items()}


def context_of(key: Mapping[str, Any], ignore: Collection[str] = (SHORTCUT, DEPTH)) -> str:
    """Returns what tells an arm from the others besides the fields of `ignore`."""
    words = []
    for name, value in key.items():
        if name in ignore:
            continue
        word = name.rpartition(".")[2].replace("_", " ")
        words.append(f"{value} {word}" if word in ("norm", "order", "recipe") else f"{word} {value}")
    return ", ".join(words)


def missing_arms(arms: Sequence[Arm]) -> list[str]:
    """Returns the labels of the arms that would complete lines x depths and have no run."""
    depths = sorted({arm.key[DEPTH] for arm in arms})
    there = {arm.label for arm in arms}
    return [name for line in lines_of(arms) for depth in depths if (name := f"{line}, depth {depth}") not in there]
