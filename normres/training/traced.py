"""Numbers that a compiled step takes as arguments, so that the arms of a sweep share one compiled program."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from normres.data.seeds import stream_key

# Runs that differ in these fields, or in a seed, and in no other share a program.
TRACED = (
    "seeds.augmentation",
    "seeds.dropout",
    "optim.learning_rate",
    "optim.momentum",
    "optim.weight_decay",
    "optim.hold_learning_rate",
    "optim.hold_until_error",
)


def traced(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns the values of the config's TRACED fields: of a seed its stream's key, uint32 (2,), else float32 ()."""
    values: dict[str, np.ndarray] = {}
    for name in TRACED:
        section, _, field = name.partition(".")
        if section == "seeds":
            values[name] = np.asarray(jax.random.key_data(stream_key(config, field)))
        else:
            values[name] = np.array(config[section][field], np.float32)
    return values


def with_traced(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Returns a copy of the config with these values, which may be tracers, of the TRACED fields."""
    copy = config.copy_and_resolve_references()
    with copy.ignore_type():
        copy.update_from_flattened_dict(values)
    return copy


def shape_of(config: ConfigDict) -> FrozenConfigDict:
    """Returns the config with zeros for what is no part of a program: the TRACED fields and the seeds."""
    nothing = dict.fromkeys((*TRACED, "seed", *(f"seeds.{stream}" for stream in config.seeds)), 0)
    return FrozenConfigDict(with_traced(config, nothing))
