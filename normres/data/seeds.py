"""Streams of random numbers: which seed each draws from, and its key at a step."""

import jax
from ml_collections import ConfigDict

# What tells apart the streams that are drawn at every step; the others are drawn from their seed alone.
AT_EACH_STEP = {"augmentation": 1, "dropout": 2}


def stream_seed(config: ConfigDict, stream: str) -> int:
    """Returns the seed of a stream (a field of config.seeds): its own if one is set, else config.seed."""
    own = config.seeds[stream]
    return config.seed if isinstance(own, int) and own < 0 else own  # a compiled step has it as a tracer


def step_key(config: ConfigDict, stream: str, step: jax.Array) -> jax.Array:
    """Returns a stream's key at a step: a function of both and of nothing that the number of devices changes."""
    key = jax.random.key(stream_seed(config, stream))
    return jax.random.fold_in(jax.random.fold_in(key, AT_EACH_STEP[stream]), step)
