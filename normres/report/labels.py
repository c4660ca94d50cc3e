"""What metrics, fields and counts are called in tables and figures."""

from collections.abc import Mapping
from typing import Any


def finals(measure: str = "error") -> tuple[str, str]:
    """Returns the names of a measure's final numbers: in training and in test."""
    return f"train_{measure}", f"test_{measure}"


def unit_of(metric: str) -> str:
    """Returns "%" for an error, which is printed in percent, and "" for anything else."""
    return "%" if metric.endswith("error") else ""


def scale_of(metric: str) -> float:
    """Returns by what a final number is multiplied before it is printed."""
    return 100.0 if unit_of(metric) else 1.0


def metric_words(metric: str, on: str = "test") -> str:
    """Returns "training error" of "train_error", "test top-5 error" of "test_top5_error"; `on` as evaluated_on says."""
    words = {"train": "training", "top5": "top-5", "test": on}
    return " ".join(words.get(part, part) for part in metric.split("_"))


def titled(metric: str, on: str = "test") -> str:
    """Returns "test error (%)" of "test_error"."""
    return metric_words(metric, on) + " (%)" * (unit_of(metric) == "%")


def joined(*words: str) -> str:
    """Returns the words that are not empty, with commas between them."""
    return ", ".join(filter(None, words))


def short_label(key: Mapping[str, Any]) -> str:
    """Returns "depth 20, batch norm" of {"model.depth": 20, "model.norm": "batch"}."""
    words = {name: name.rpartition(".")[2].replace("_", " ") for name in key}
    adjectives = ("norm", "order", "recipe")
    return ", ".join(
        f"{value} {words[name]}" if words[name] in adjectives else f"{words[name]} {grouped(value)}"
        for name, value in key.items()
    )


def grouped(value: Any) -> str:
    """Returns a number with separators of thousands, anything else as it is."""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def counted(count: int, noun: str) -> str:
    """Returns "1 run" or "2 runs"."""
    return f"{count} {noun}{'s' * (count != 1)}"
