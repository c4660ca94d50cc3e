"""Each norm in terms of another, on random numbers."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from normres import norms
from normres.norms import NormSpec

SHAPE = (8, 6, 4, 12)
EXAMPLES, CHANNELS = SHAPE[0], SHAPE[-1]
TOLERANCE = 2e-5  # relative to outputs of about 1, in float32


def inputs():
    """Returns numbers whose mean and deviation differ by example, position and channel."""
    random = np.random.default_rng(0)
    factor, offset = np.exp(random.normal(size=(EXAMPLES, 1, 1, CHANNELS))), random.normal(size=SHAPE)
    return jnp.asarray(random.normal(1.0, 1.0, SHAPE) * factor + 0.3 * offset, jnp.float32)


def run(name, x, groups=1, sub_batches=1, **options):
    return norms.normalization(x, norms.find_spec(name, groups, sub_batches), **options)[0]


def row(name, **options):
    """Returns the norm of that name as a function of x."""
    return partial(run, name, **options)


def by_parts(name, parts, axis):
    """Returns the norm on each of so many equal parts of x along an axis."""
    return lambda x: jnp.concatenate([run(name, part) for part in jnp.split(x, parts, axis)], axis)


def switch(index):
    """Returns switchable norm with all weight on one of its reductions."""
    logits = np.float32(1e4) * (np.arange(3) == index)
    return row("switchable", params={"mean_logits": logits, "var_logits": logits})


NHW, HWC = (0, 1, 2), (1, 2, 3)
GATES = [{"gate": np.full(CHANNELS, value, np.float32)} for value in (0, 1)]
BATCH, LAYER, INSTANCE, POSITIONAL = map(row, ("batch", "layer", "instance", "positional"))

# What a row's name says: one side, and the other.
EQUAL = {
    "group(1) = layer": (row("group", groups=1), LAYER),
    "group(channels) = instance": (row("group", groups=CHANNELS), INSTANCE),
    "group(3) = layer on each third of the channels": (row("group", groups=3), by_parts("layer", 3, -1)),
    "ghost(1) = batch": (row("ghost_batch", sub_batches=1), BATCH),
    "ghost(examples) = instance": (row("ghost_batch", sub_batches=EXAMPLES), INSTANCE),
    "ghost(4) = batch on each quarter": (row("ghost_batch", sub_batches=4), by_parts("batch", 4, 0)),
    "batch on one example = instance": (by_parts("batch", EXAMPLES, 0), INSTANCE),
    "batch at its own running averages = batch": (
        lambda x: run("batch", x, running=norms.moments(x, NHW), use_running=True),
        BATCH,
    ),
    "batch-instance at gate 1 = batch": (row("batch_instance", params=GATES[1]), BATCH),
    "batch-instance at gate 0 = instance": (row("batch_instance", params=GATES[0]), INSTANCE),
    "switchable at batch = batch": (switch(0), BATCH),
    "switchable at instance = instance": (switch(1), INSTANCE),
    "switchable at layer = layer": (switch(2), LAYER),
    "renorm without running averages (r = 1, d = 0) = batch": (row("batch_renorm"), BATCH),
    "renorm at its own averages (r = 1, d = 0) = batch": (
        lambda x: run("batch_renorm", x, running=norms.moments(x, NHW)),
        BATCH,
    ),
    "filter response without threshold = RMS over S": (
        row("filter_response"),
        lambda x: norms.normalization(x, NormSpec(over="S", center=False))[0],
    ),
    "RMS of centred x = layer": (lambda x: run("rms", x - x.mean(HWC, keepdims=True)), LAYER),
    "EvoNorm-B0 without its nonlinearity, of centred x = batch": (
        lambda x: run("evonorm_b0", x - x.mean(NHW, keepdims=True)),
        BATCH,
    ),
    "axes NS = batch": (row("NS"), BATCH),
    "axes NHW = batch": (row("NHW"), BATCH),
    "axes SC with 4 groups = group(4)": (row("SC", groups=4), row("group", groups=4)),
    "axes C = positional": (row("C"), POSITIONAL),
    "positional = layer on each position": (POSITIONAL, lambda x: LAYER(x.reshape(-1, CHANNELS)).reshape(SHAPE)),
    "batch of (N, C) = positional of its transpose": (
        lambda x: BATCH(x[:, 0, 0]),
        lambda x: POSITIONAL(x[:, 0, 0].T).T,
    ),
    "extended batch of one channel = batch": (by_parts("extended_batch", CHANNELS, -1), BATCH),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL)
def test_equivalences(one, other):
    np.testing.assert_allclose(one(inputs()), other(inputs()), rtol=0, atol=TOLERANCE)
