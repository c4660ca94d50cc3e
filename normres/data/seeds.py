"""Streams of random numbers: which seed each draws from, and its key at a step."""

import jax
from ml_collections import ConfigDict

# What tells apart the streams that are drawn at every step; the others are drawn from their seed alone.
AT_EACH_STEP = {"augmentation": 1, "dropout": 2}


def stream_seed(config: ConfigDict, stream: str) -> int:
    """Returns the seed of a stream (a field of config.seeds): its own if one is set, else config.seed."""
    own: int = config.seeds[stream]
    return int(config.seed) if own < 0 else own


def stream_key(config: ConfigDict, stream: str) -> jax.Array:
    """Returns the key from which a stream of AT_EACH_STEP draws at every step; see traced.py for one as an array."""
    own = config.seeds[stream]
    if isinstance(own, jax.Array):
        return jax.random.wrap_key_data(own)
    return jax.random.fold_in(jax.random.key(stream_seed(config, stream)), AT_EACH_STEP[stream])


def step_key(config: ConfigDict, stream: str, step: jax.Array) -> jax.Array:
    """Returns a stream's key at a step: a function of both and of nothing that the number of devices changes."""
    return jax.random.fold_in(stream_key(config, stream), step)
