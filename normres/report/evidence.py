"""What every experiment says about its numbers: how a diverged run counts, overfitting, and how the scale differs."""

from collections.abc import Mapping, Sequence
from typing import Any

from normres.report.statistics import Arm, field
from normres.report.verdict import Difference

# The training of He et al. 2015 and 2016 on CIFAR.
PAPER_SCALE: Mapping[str, Any] = {"model.width": 16, "train.steps": 64_000, "train.batch_size": 128}
PAPER_TRAINING_IMAGES = 50_000


def chance(arm: Arm) -> float:
    """Returns the error of guessing, 1 - 1/classes, at which a diverged network counts."""
    return 1 - 1 / (_data_count(arm, "classes") or 10)


def runs_text(count: int, of: int) -> str:
    """Returns "1 of 2 runs"."""
    return f"{count} of {of} run{'s' * (of != 1)}"


def seeds_text(arms: Sequence[Arm]) -> tuple[str, bool]:
    """Returns "3 seeds" or "1 to 3 seeds", and whether any arm has several."""
    fewest, most = min(len(arm.runs) for arm in arms), max(len(arm.runs) for arm in arms)
    return f"{most if fewest == most else f'{fewest} to {most}'} seed{'s' * (most > 1)}", most > 1


def diverged_note(arms: Sequence[Arm]) -> str:
    """Says which of the arms' errors are those of diverged runs; begins with a space, empty if none is."""
    diverged = [arm for arm in arms if arm.diverged]
    if not diverged:
        return ""
    which = "; ".join(f"{runs_text(len(arm.diverged), len(arm.runs))} of {arm.label}" for arm in diverged)
    return f" Diverged runs count at the error of guessing, {100 * chance(diverged[0]):g} %: {which}."


def overfitting_note(lines: Mapping[str, Sequence[Arm]]) -> str:
    """Says where the test error rises with depth although the training error falls: that is not degradation."""
    sentences = []
    for label, arms in lines.items():
        shallow, deep = arms[0], arms[-1]
        train, test = (
            Difference(before, after) if before and after else None
            for before, after in ((shallow.summary(name), deep.summary(name)) for name in ("train_error", "test_error"))
        )
        if train and test and train.is_lower() == test.is_higher() == "borne out":
            sentences.append(
                f" From depth {shallow.key['model.depth']} to {deep.key['model.depth']} the test error of {label} "
                f"rises, but its training error falls: the deeper network overfits the "
                f"{_data_count(deep, 'train_examples'):,} training images, which is not degradation."
            )
    return "".join(sentences)


def digits(arms: Sequence[Arm]) -> int:
    """Returns the decimals of an error in percent: 2 if every set has 5,000 images or more, otherwise 1."""
    sizes = [_data_count(arm, name) for arm in arms for name in ("train_examples", "test_examples")]
    return 2 if min(sizes, default=0) >= 5_000 else 1


def scale_notes(arms: Sequence[Arm]) -> list[str]:
    """Returns a sentence on how these runs differ in scale from the papers'; none if they do not."""
    runs = [run for arm in arms for run in arm.runs]
    scale = []
    for name, paper in PAPER_SCALE.items():
        here = sorted({field(run, name) for run in runs})
        if here != [paper]:
            word = name.rpartition(".")[2].replace("_", " ")
            scale.append(f"{word} {', '.join(f'{value:,}' for value in here)} here, {paper:,} there")
    images = sorted({_data_count(arm, "train_examples") for arm in arms})
    if images != [PAPER_TRAINING_IMAGES]:
        counts = ", ".join(f"{count:,}" for count in images)
        scale.append(f"{counts} training images here, {PAPER_TRAINING_IMAGES:,} there")
    return [f"The scale differs, so only the order can be compared: {'; '.join(scale)}."] if scale else []


def _data_count(arm: Arm, name: str) -> int:
    """Returns a count of the record's data, such as "train_examples"; 0 if it is not known."""
    return int((arm.runs[0].record.get("data") or {}).get(name) or 0)
