"""Any value of any field is one line, or a config whose steps trace; the values come from the declarations."""

import math
import os
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from normres.configs import base
from normres.data import preprocess
from normres.data.batches import FlatImages
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import traps
from normres.runs.local import load_data
from normres.training.compiled import compiled_steps
from normres.training.metrics import METRICS
from normres.training.networks import build_network
from normres.training.programs import Programs
from normres.training.traced import shape_of, traced

TINY = {"model.depth": 8, "model.width": 4, "model.norm_groups": 2, "optim.warmup_steps": 1, "train.steps": 2}
TINY |= {"train.dtype": "float32", "train.ops": "plain", "train.batch_size": 8, "train.eval_batch_size": 8}
ALL = bool(os.environ.get("NORMRES_TEST_ALL"))
TRACED = 25 if ALL else 12  # at most; a trace takes half a second
TRAINED = 10 if ALL else 3  # each is compiled

MESH = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])

# What is no value of most fields, or is so only by accident.
JUNK = (None, True, (), [], {}, b"1", 1j, [None], "", " ", "()", "(1", "1,", ",", "nan", "-inf", "1e999", "1e-999")
JUNK += ("0x10", "1_0", "true", "none", "a\nb", "\0", "\ud800", "~", "x" * 10_000, "9" * 5_000, 10**5_000, -0.0)
JUNK += (math.nan, math.inf, -math.inf, 0, -1, 1.5, 10**8, 2**31, 2**32, 2**63, -(2**63), 10**30, 1e300)


def number(field):
    """Strategy of the numbers in a field's range: all, small ones, and its edges."""
    top = min(field.most, field.below)
    if field.kind is int:
        top -= field.below <= field.most
        small = st.integers(field.least, min(top, field.least + 40))
        return st.one_of(st.integers(field.least, top), small, small, st.sampled_from((field.least, top)))
    inside = st.floats(field.least, top, exclude_max=field.below <= field.most, allow_subnormal=False)
    return st.one_of(inside, st.sampled_from((field.least, min(top, 0.5), 1e-30)))


def valid(field):
    """Strategy of the values that a field declares."""
    if field.kind is bool:
        one = st.booleans()
    elif field.choices:
        one = st.sampled_from(field.names())
    elif field.kind is str:
        return st.text(max_size=8) | st.sampled_from(("layer", "NHC", "group", "rms", "ghost_batch", field.value))
    else:
        one = number(field)
    if not isinstance(field.value, tuple):
        return one
    tuples = st.lists(one, max_size=len(field.names()) if field.choices else field.longest).map(tuple)
    return tuples | st.lists(one, max_size=3, unique=True).map(sorted).map(tuple)


def value(field):
    """Strategy of what someone may write: a valid value, as Python's or as the command line gives it, or any other."""
    as_text = valid(field).map(lambda value: ",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return st.one_of(valid(field), valid(field), as_text, st.sampled_from(JUNK), st.text(max_size=20))


NAMES = [name for name in base.FIELDS if name != "recipe"]  # chosen when a file is read; see test_config.py
CHANGES = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: value(base.FIELDS[name]) for name in names})
)


FIXED = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
FIXED |= {"phases": (Phase.generate,)}


def refused(call):
    """Returns what `call()` returns, or None if it is refused, which is one line."""
    try:
        return call()
    except UserError as error:
        line = str(error)
    assert line.strip()
    assert len(line.splitlines()) == 1, line
    assert len(line) < 2_000
    return None


def loaded(changes):
    """Returns the config, or None if it is refused."""
    return refused(lambda: configs.load("base:demo", TINY | changes))


def trace(config):
    """Traces a run's steps from shapes alone, as Programs does; returns whether there is such a network."""
    size = config.data.image_size
    network = refused(lambda: build_network(config, 10, "float32"))
    if network is None:
        assert config.model.module
        return False

    def array(*shape, dtype=np.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    statistics = preprocess.measure(np.zeros((2, 1, 1, 3), np.uint8), config.data.preprocess).arrays()
    images = {"images": FlatImages(array(9, size * size * 3, dtype=np.uint8), (size, size, 3)), "labels": array(9)}
    arrays, batch = images | statistics, config.train.batch_size
    indices = array(1, batch, 2) if config.data.mixup or config.data.cutmix else array(1, batch)
    specs = tuple(dict.fromkeys(arrays, P()).items())
    steps = compiled_steps(shape_of(config), network, MESH, ((9, size, size, 3),), specs)
    state = jax.eval_shape(steps.initialize, jax.random.key(0))
    after, metrics = jax.eval_shape(steps.train, state, arrays, indices, np.int32(1), traced(config))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert all(metric.shape == (1,) for metric in metrics.values())
    count = config.train.eval_batch_size
    of_batch = (arrays, array(count), array(count, dtype=np.float32))
    jax.eval_shape(steps.evaluate, state.params, state.batch_stats, *of_batch)
    return True


@pytest.fixture(scope="module")
def count():
    return Counter()


@settings(max_examples=300, **FIXED)
@given(changes=CHANGES)
def test_any_value_is_one_line_or_a_config_whose_steps_trace(count, changes):
    config = loaded(changes)
    count["refused" if config is None else "valid"] += 1
    if config is None:
        return
    assert all(len(line.splitlines()) == 1 for line in traps.of(config))
    # Of what only says where or how often something is done, the steps know nothing.
    if count["traced"] < TRACED and not all(base.FIELDS[name].how for name in changes):
        count["traced"] += trace(config)


def test_of_these_many_are_refused_and_many_are_not(count):
    assert min(count["refused"], count["valid"]) > 60
    assert count["traced"] == TRACED


def small(field):
    """Strategy of a field's values that a second of training allows."""
    if field.kind is int and not isinstance(field.value, tuple):
        return st.integers(field.least, field.least + 8)
    return valid(field)


SIZES = ("data.source", "data.path", "data.name", "data.image_size", "data.stream", "model.module", *TINY)
STARTED = st.lists(st.sampled_from([name for name in NAMES if name not in SIZES]), min_size=3, max_size=6, unique=True)
STARTED = STARTED.flatmap(lambda names: st.fixed_dictionaries({name: small(base.FIELDS[name]) for name in names}))


@settings(max_examples=TRAINED, **FIXED)
@given(changes=STARTED)
def test_some_of_them_train(changes):
    own = {"data.source": "synthetic", "data.image_size": 8, "train.eval_batch_size": 250, "train.steps_per_program": 1}
    config = loaded(own | changes)
    assume(config is not None)
    programs = refused(lambda: Programs(config, load_data(config), "float32", jax.devices()[:1]))
    assume(programs is not None)
    state = programs.initial_state()
    for number in range(2):
        state, metrics = programs.train(state, number)
        assert set(METRICS) < set(metrics)
    assert int(state.step) == 2
    assert 0 <= programs.evaluate(state, "test")["error"] <= 1
