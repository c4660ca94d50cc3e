"""What is equal to what: each norm in terms of another, checked on random numbers.

    normres bench norms --equivalences

The tests run the same rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from normres import norms
from normres.norms import TABLE, NormSpec
from normres.norms.moments import Moments

SHAPE = (8, 6, 4, 12)
EXAMPLES, CHANNELS = SHAPE[0], SHAPE[-1]
TOLERANCE = 2e-6  # relative to outputs of about 1, in float32


@dataclass(frozen=True)
class Equivalence:
    """Two ways to say the same: each takes x (8, 6, 4, 12) and returns an array."""

    name: str
    one: Callable[[jax.Array], jax.Array]
    other: Callable[[jax.Array], jax.Array]


def inputs() -> jax.Array:
    """Returns numbers whose mean and deviation differ by example, position and channel."""
    random = np.random.default_rng(0)
    factor, offset = np.exp(random.normal(size=(EXAMPLES, 1, 1, CHANNELS))), random.normal(size=SHAPE)
    return jnp.asarray(random.normal(1.0, 1.0, SHAPE) * factor + 0.3 * offset, jnp.float32)


def _run(
    name: str, x: jax.Array, groups: int = 1, sub_batches: int = 1, channel_axis: int = -1, **options: Any
) -> jax.Array:
    spec = replace(norms.find_spec(name, groups, sub_batches), channel_axis=channel_axis)
    return norms.normalization(x, spec, **options)[0]


def row(name: str, **options: Any) -> Callable[[jax.Array], jax.Array]:
    """Returns the norm of that name as a function of x."""
    return partial(_run, name, **options)


def on_devices(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the norm with one example on each of eight members of a mapped axis."""
    return lambda x: jax.vmap(lambda one: _run(name, one, axis_name="data"), axis_name="data")(x[:, None])[:, 0]


def on_real_devices(x: jax.Array) -> jax.Array:
    """Batch norm with the examples over all devices there are that divide them."""
    count = max(n for n in range(1, jax.device_count() + 1) if EXAMPLES % n == 0)
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    sharded = jax.shard_map(
        lambda x: _run("batch", x, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    return jnp.asarray(np.asarray(jax.jit(sharded)(x)))


def spread(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the norm of x among as many elements again that a mask leaves out."""

    def run(x: jax.Array) -> jax.Array:
        wide = jnp.stack([x, jnp.full_like(x, jnp.inf)], 2).reshape(SHAPE[0], SHAPE[1], 2 * SHAPE[2], CHANNELS)
        mask = jnp.arange(2 * SHAPE[2]).reshape(1, 1, -1, 1) < SHAPE[2]
        return _run(name, wide, where=mask)[:, :, : SHAPE[2]]

    return run


def _at_own_moments(x: jax.Array) -> jax.Array:
    found = norms.moments(x, (0, 1, 2))
    return _run("batch_renorm", x, running=found)


def _weights(index: int) -> dict[str, jax.Array]:
    logits = jnp.where(jnp.arange(3) == index, 1e4, 0.0)
    return {"mean_logits": logits, "var_logits": logits}


def _gate(value: float) -> dict[str, jax.Array]:
    return {"gate": jnp.full((CHANNELS,), value)}


def _group_as_loop(x: jax.Array) -> jax.Array:
    return jnp.concatenate([_run("layer", part) for part in jnp.split(x, 3, axis=-1)], -1)


def _ghost_as_loop(x: jax.Array) -> jax.Array:
    return jnp.concatenate([_run("batch", part) for part in jnp.split(x, 4)])


def _evaluation(x: jax.Array) -> jax.Array:
    found = norms.moments(x, (0, 1, 2))
    return _run("batch", x, running=Moments(*found), use_running=True)


def _known_shift(x: jax.Array) -> jax.Array:
    mean, var, _ = norms.moments(x, (0, 1, 2), shift=x[:1, :1, :1])
    return norms.normalize(x, mean, var)


def _one_channel(x: jax.Array) -> jax.Array:
    return jnp.concatenate([_run("extended_batch", x[..., i : i + 1]) for i in range(CHANNELS)], -1)


ROWS = (
    Equivalence("group(1) = layer", row("group", groups=1), row("layer")),
    Equivalence("group(channels) = instance", row("group", groups=CHANNELS), row("instance")),
    Equivalence("group(3) = layer on each third of the channels", row("group", groups=3), _group_as_loop),
    Equivalence("ghost(1) = batch", row("ghost_batch", sub_batches=1), row("batch")),
    Equivalence("ghost(examples) = instance", row("ghost_batch", sub_batches=EXAMPLES), row("instance")),
    Equivalence("ghost(4) = batch on each quarter of the batch", row("ghost_batch", sub_batches=4), _ghost_as_loop),
    Equivalence(
        "batch on one example = instance",
        lambda x: jnp.concatenate([_run("batch", one) for one in jnp.split(x, EXAMPLES)]),
        row("instance"),
    ),
    Equivalence("batch at its own running averages = batch", _evaluation, row("batch")),
    Equivalence("batch-instance at gate 1 = batch", row("batch_instance", params=_gate(1)), row("batch")),
    Equivalence("batch-instance at gate 0 = instance", row("batch_instance", params=_gate(0)), row("instance")),
    Equivalence("switchable at batch = batch", row("switchable", params=_weights(0)), row("batch")),
    Equivalence("switchable at instance = instance", row("switchable", params=_weights(1)), row("instance")),
    Equivalence("switchable at layer = layer", row("switchable", params=_weights(2)), row("layer")),
    Equivalence("renorm without running averages (r = 1, d = 0) = batch", row("batch_renorm"), row("batch")),
    Equivalence("renorm at its own averages (r = 1, d = 0) = batch", _at_own_moments, row("batch")),
    Equivalence(
        "filter response without threshold = RMS over S",
        row("filter_response"),
        lambda x: norms.normalization(x, NormSpec(over="S", center=False))[0],
    ),
    Equivalence(
        "RMS of centred x = layer",
        lambda x: _run("rms", x - x.mean((1, 2, 3), keepdims=True)),
        row("layer"),
    ),
    Equivalence(
        "EvoNorm-B0 without its nonlinearity, of centred x = batch",
        lambda x: _run("evonorm_b0", x - x.mean((0, 1, 2), keepdims=True)),
        row("batch"),
    ),
    Equivalence("axes NS = batch", row("NS"), row("batch")),
    Equivalence("axes NHW = batch", row("NHW"), row("batch")),
    Equivalence("axes SC with 4 groups = group(4)", row("SC", groups=4), row("group", groups=4)),
    Equivalence("axes C = positional", row("C"), row("positional")),
    Equivalence(
        "positional = layer on each position",
        row("positional"),
        lambda x: _run("layer", x.reshape(-1, CHANNELS)).reshape(SHAPE),
    ),
    Equivalence(
        "batch of (N, C) = positional of its transpose",
        lambda x: _run("batch", x[:, 0, 0]),
        lambda x: _run("positional", x[:, 0, 0].T).T,
    ),
    Equivalence("layer of channels first = layer", lambda x: _channels_first("layer", x), row("layer")),
    Equivalence("batch of channels first = batch", lambda x: _channels_first("batch", x), row("batch")),
    *(
        Equivalence(f"{name}: a mask of ones = no mask", row(name, where=jnp.ones((1, 1, 1, 1), bool)), row(name))
        for name in TABLE
    ),
    Equivalence("variance by one pass about a known shift = by two passes", _known_shift, row("batch")),
    Equivalence("variance of all channels (extended batch) of one channel = batch", _one_channel, row("batch")),
    *(Equivalence(f"{name}: masked = sliced", spread(name), row(name)) for name in TABLE),
    *(
        Equivalence(f"{name}: eight members of a mapped axis = one array", on_devices(name), row(name))
        for name, spec in TABLE.items()
        if spec.over_examples and spec.sub_batches == 1
    ),
    Equivalence("batch: all devices = one device", on_real_devices, row("batch")),
)


def _channels_first(name: str, x: jax.Array) -> jax.Array:
    return jnp.moveaxis(_run(name, jnp.moveaxis(x, -1, 1), channel_axis=1), 1, -1)


def difference(equivalence: Equivalence) -> float:
    """Returns the largest difference between the two."""
    x = inputs()
    return float(jnp.max(jnp.abs(equivalence.one(x) - equivalence.other(x))))


def main() -> int:
    """Prints every row with its difference; returns 1 if one is over the tolerance."""
    failed = 0
    print(f"{'equal':<64} {'largest difference':>18}")
    for equivalence in ROWS:
        found = difference(equivalence)
        wrong = not found <= TOLERANCE * 10
        failed += wrong
        print(f"{equivalence.name:<64} {found:>18.1e}{'  NOT EQUAL' if wrong else ''}")
    print(f"{len(ROWS) - failed} of {len(ROWS)} hold")
    return 1 if failed else 0
