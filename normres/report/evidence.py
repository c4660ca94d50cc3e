"""What every experiment says about its numbers: how a diverged run is counted, and in what the scale differs."""

from collections.abc import Mapping, Sequence
from typing import Any

from normres.report.statistics import Arm, field

# The training of He et al. 2015 and 2016 on CIFAR.
PAPER_SCALE: Mapping[str, Any] = {"model.width": 16, "train.steps": 64_000, "train.batch_size": 128}
PAPER_TRAINING_IMAGES = 50_000


def chance(arm: Arm) -> float:
    """Returns the error of guessing, 1 - 1/classes, as which a diverged net is counted."""
    return 1 - 1 / int((arm.runs[0].record.get("data") or {}).get("classes") or 10)


def diverged_note(arms: Sequence[Arm]) -> str:
    """Says which of the arms' errors are those of diverged runs; empty if none is."""
    diverged = [arm for arm in arms if arm.diverged]
    if not diverged:
        return ""
    which = "; ".join(
        f"{len(arm.diverged)} of {len(arm.runs)} run{'s' * (len(arm.runs) > 1)} of {arm.label}" for arm in diverged
    )
    return f" Diverged runs are counted at the error of guessing, {100 * chance(diverged[0]):g} %: {which}."


def training_images(arm: Arm) -> int:
    """Returns the number of images that the arm was trained on; 0 if it is not known."""
    return int((arm.runs[0].record.get("data") or {}).get("train_examples") or 0)


def digits(arms: Sequence[Arm]) -> int:
    """Returns how many digits of an error in percent to print: one that a single image cannot change says nothing."""
    smallest = min((_smaller_set(arm) for arm in arms), default=0)
    return 2 if smallest >= 5_000 else 1


def _smaller_set(arm: Arm) -> int:
    data = arm.runs[0].record.get("data") or {}
    return min(int(data.get("train_examples") or 0), int(data.get("test_examples") or 0))


def scale_notes(arms: Sequence[Arm]) -> list[str]:
    """Returns a sentence on how these runs are smaller than the papers'; none if they are not."""
    runs = [run for arm in arms for run in arm.runs]
    scale = []
    for name, paper in PAPER_SCALE.items():
        here = sorted({field(run, name) for run in runs})
        if here != [paper]:
            word = name.rpartition(".")[2].replace("_", " ")
            scale.append(f"{word} {', '.join(f'{value:,}' for value in here)} here, {paper:,} there")
    images = sorted({training_images(arm) for arm in arms})
    if images != [PAPER_TRAINING_IMAGES]:
        counts = ", ".join(f"{count:,}" for count in images)
        scale.append(f"{counts} training images here, {PAPER_TRAINING_IMAGES:,} there")
    return [f"The scale differs, so only the order can be compared: {'; '.join(scale)}."] if scale else []
