"""What a training step does in another way on a TPU gives the same numbers, here on a CPU."""

import jax
import numpy as np
import pytest
from small_run import assert_close, programs

from normres import norms
from normres.training import compiled, tpu
from normres.training.loop import fit
from normres.training.platforms import PLATFORMS

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(2, 3, (4, 3, 5, 8)).astype(np.float32)
COTANGENT = RANDOM.normal(size=X.shape).astype(np.float32)


@pytest.mark.parametrize("name", ["batch", "ghost_batch", "layer", "group", "instance", "rms"])
def test_a_norm_is_the_same_with_its_scale_last(name):
    spec = norms.find_spec(name, 4, 2)
    parameters = {each: RANDOM.normal(size=8).astype(np.float32) for each in spec.affine}

    def both(normalize):
        return jax.value_and_grad(
            lambda x, parameters: (normalize(x, spec, parameters)[0] * COTANGENT).sum(), argnums=(0, 1)
        )(X, parameters)

    assert_close(both(tpu.normalize), both(norms.normalization), 1e-5)


@pytest.fixture
def as_a_tpu(monkeypatch):
    """Returns a function that lets the programs of CPUs be those of TPUs."""

    def change():
        compiled.compiled_steps.cache_clear()
        monkeypatch.setitem(PLATFORMS, "cpu", PLATFORMS["cpu"]._replace(blocks_apart=True))

    yield change
    compiled.compiled_steps.cache_clear()


def test_a_run_is_the_same_with_its_blocks_apart(as_a_tpu):
    fields = {"model__depth": 20, "optim__optimizer": "adamw", "optim__clip_factor": 0.01, "optim__decay_norms": False}
    fields |= {"optim__learning_rate": 0.01, "train__probe_every": 3}

    def run():
        ours = programs(**fields)
        # A state is valid until the next event.
        return ours, [(event, jax.device_get(state)) for event, state in fit(ours, ours.initial_state())]

    _, usual = run()
    as_a_tpu()
    ours, events = run()
    state = ours.initial_state()
    stack = jax.tree.leaves(state.params["stage1_rest"])[0]
    ours.train(state, 0)
    assert stack.is_deleted()  # with its blocks, it would be in memory twice
    assert set(ours.train(ours.initial_state(), 0)[0].params) > {"stage1_first", "stage1_block2", "stage3_block3"}
    for (event, state), (expected, whole) in zip(events, usual, strict=True):
        assert event.kind == expected.kind
        assert_close((state, event.values), (whole, expected.values), 2e-4)


def test_blocks_taken_apart_and_put_together_are_the_same():
    state = programs(model__depth=68, model__unroll="always", train__steps=400).initial_state()
    stages = frozenset(f"stage{stage}_rest" for stage in (1, 2, 3))
    split = tpu.apart(state, stages)
    assert not any(name.endswith("_rest") for tree in (split.params, split.batch_stats) for name in tree)
    assert sum(name.startswith("stage2_block") for name in split.params) == 10
    jax.tree.map(np.testing.assert_array_equal, tpu.together(split), state)
