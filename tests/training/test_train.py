"""The training step on one device and on eight, resuming, evaluating, and what a diverged run leaves."""

import gc
import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from normres.configs import base
from normres.data import Dataset, augment, preprocess
from normres.errors import UserError
from normres.layers import PLAIN
from normres.models import ResNet, ResNetConfig
from normres.runs import checkpoint
from normres.runs import config as configs
from normres.training import loop, optim
from normres.training.compiled import KEPT, Steps, compiled_steps
from normres.training.loop import fit
from normres.training.networks import model_config
from normres.training.programs import Programs

SMALL = {
    "model.depth": 8,
    "model.width": 4,
    "train.steps": 6,
    "train.batch_size": 16,
    "train.eval_batch_size": 16,
    "train.log_every": 2,
    "train.eval_every": 3,
    "train.checkpoint_every": 4,
    "train.steps_per_program": 1,
    "optim.warmup_steps": 2,
    "data.augmentation": "crop_flip",
    "model.remat": "nothing",  # compiles in less time; test_family.py compares the others
    # Not what is fast on this machine.
    "train.dtype": "float32",
    "train.ops": "plain",
}


def config(**changes):
    return configs.apply(base.get_config("demo"), SMALL | {key.replace("__", "."): v for key, v in changes.items()})


def random_dataset():
    random = np.random.default_rng(0)

    def split(size):
        labels = random.integers(0, 10, size).astype(np.int32)
        # A colour per class and noise, so that a few steps learn something.
        images = 20 * labels[:, None, None, None] + random.integers(0, 50, (size, 8, 8, 3))
        return images.astype(np.uint8), labels

    return Dataset("cifar10", "embedded", *split(40), *split(21), tuple("abcdefghij"))


DATASET = random_dataset()


def programs(devices=1, dtype="float32", ops=PLAIN, **changes):
    return Programs(config(**changes), DATASET, dtype, jax.devices()[:devices], ops=ops)


def after_steps(programs, steps=3):
    state, losses = programs.initial_state(), []
    for step in range(steps):
        state, metrics = programs.train(state, step)
        losses.append([metrics[name][0] for name in ("loss", "error", "learning_rate")])
    return state, np.array(losses)


def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def assert_close(a, b, tolerance=1e-4):
    for one, other in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# So that every stream of random numbers matters.
RANDOM = {"model__shortcut": "dropout", "model__stochastic_depth": 0.5, "model__norm": "group", "model__norm_groups": 2}


@pytest.mark.parametrize(("parallel", "fields"), [("jit", RANDOM), ("pmap", {})])
def test_eight_devices_equal_one(parallel, fields):
    one, losses_of_one = after_steps(programs(**fields))
    eight, losses = after_steps(programs(8, train__parallel=parallel, **fields))
    np.testing.assert_allclose(losses, losses_of_one, rtol=1e-4)
    assert_close(eight, one)
    assert len(jax.tree.leaves(eight.params)[0].sharding.device_set) == 8


def test_per_device_statistics_are_each_devices_own():
    own = programs(8, train__parallel="pmap", train__sync_batch_norm=False)
    state, _ = after_steps(own, 1)
    # By hand: the stem's mean for each device's two examples, averaged over devices, after one step at momentum 0.9.
    start = own.initial_state()
    indices = np.asarray(own.examples(0))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    images = preprocess.preprocess("pixel_mean", jnp.asarray(DATASET.train_images[indices]), own.data["train"])
    images = augment.crop_flip(images, keys)
    variables = {"params": start.params, "batch_stats": start.batch_stats}
    model = ResNet(model_config(config(), 10, "float32"), train=True)
    seen = jax.jit(partial(model.apply, mutable=["batch_stats"]))
    parts = [seen(variables, images[2 * device : 2 * device + 2])[1] for device in range(8)]
    expected = jax.tree.map(lambda *values: np.mean(values, axis=0), *parts)["batch_stats"]
    assert_close(state.batch_stats, expected)
    whole, _ = after_steps(programs(), 1)
    variance = lambda state: np.asarray(state.batch_stats["stage1_first"]["norm2"]["var"])  # noqa: E731
    assert not np.allclose(variance(state), variance(whole), rtol=1e-3)


def test_fit_yields_every_event_at_its_step_however_many_are_one_program(monkeypatch):
    alone, together = (programs(train__steps_per_program=most) for most in (1, 8))
    other = PLAIN._replace(conv=lambda *arguments: PLAIN.conv(*arguments))
    chosen = [(PLAIN, 1), (other, 1), (other, 8)]
    most = [programs(devices, ops=ops, train__steps_per_program=0) for ops, devices in chosen]
    assert [built.steps_per_program for built in most] == [1, 8, 1]
    own = f"{Path(__file__).parents[1] / 'runs/small_network.py'}:Net"  # in plain JAX, whatever the operations are
    assert programs(1, ops=other, train__steps_per_program=0, model__module=own).steps_per_program == 1
    dispatched, train = [], together.train

    def noted(state, step, count):
        dispatched.append(count)
        return train(state, step, count)

    together.train = noted
    monkeypatch.setattr(loop, "PROGRAM_SECONDS", 1e6)
    computed, expected = ([*fit(built, built.initial_state())] for built in (together, alone))
    assert dispatched == [1, 1, 1, 1, 2]  # one, as long as nobody knows how long it takes
    assert [(event.kind, event.step) for event, _ in computed] == [
        ("train", 2),
        ("train", 3),
        ("test", 3),
        ("checkpoint", 4),
        ("train", 4),
        ("checkpoint", 6),
        ("train", 6),
        ("test", 6),
        ("finished", 6),
    ]
    for (ours, _), (theirs, _) in zip(computed, expected, strict=True):
        assert (ours.kind, ours.step) == (theirs.kind, theirs.step)
        for name, value in ours.values.items():
            assert value == pytest.approx(theirs.values[name], rel=1e-5)
    assert_close(computed[-1][1], expected[-1][1])


def test_programs_are_as_short_as_a_signal_may_wait(monkeypatch):
    clock, waited = iter([0.0, 1.0, 3.0, 3.5, 9.0, 9.0, 9.1]), []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(loop.jax, "block_until_ready", waited.append)
    pace, counts = loop._Pace(8), []
    for name, count in (("first", 1), ("second", 1), ("third", 3), ("fourth", 1)):
        counts.append(pace.count)
        pace.follow(name, count)
    # The first took 3 seconds; the second, begun then, 6; the three steps of the third 0.1 together.
    assert [*counts, pace.count] == [1, 1, 3, 1, 8]
    assert waited == ["first", "second", "third"]  # each when the next was queued
    pace.pause()
    clock = iter([100.0])
    pace.follow("fifth", 8)  # after an evaluation, whose time is not the fourth's
    assert (pace.count, len(waited)) == (8, 3)


def test_resuming_equals_never_having_stopped(tmp_path):
    built = programs()
    straight = [(event, leaves(state)) for event, state in fit(built, built.initial_state())]
    for event, state in fit(built, built.initial_state()):
        if event.kind == "checkpoint":
            checkpoint.save(tmp_path, event.step, state, {"measured": event.values}, lambda step: False)
            break
    saved, _ = checkpoint.newest(tmp_path)
    restored = saved.state(programs(model__depth=8).initial_state())
    measured = saved.document["measured"]
    resumed = [(event, leaves(state)) for event, state in fit(programs(), restored, measured=measured)]
    expected = straight[-len(resumed) :]
    assert [event for event, _ in resumed] == [event for event, _ in expected]  # bit for bit, values included
    for ours, theirs in zip(resumed[-1][1], expected[-1][1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_told_to_stop_it_saves_and_leaves():
    built = programs()
    calls = iter([False, False, True])
    (event,) = [event for event, _ in fit(built, built.initial_state(), lambda: next(calls, True))]
    assert (event.kind, event.step, len(event.values["loss"])) == ("checkpoint", 2, 2)


def interrupted(built, asked):
    """Returns the events, but for checkpoints, of a run that is stopped when it asks once more, and goes on."""
    calls, seen, until = itertools.count(1), [], 0
    state, measured = built.initial_state(), {}
    for event, at in fit(built, built.initial_state(), lambda: next(calls) >= asked):
        seen.append(event)
        if event.kind == "checkpoint":
            state, measured, until = jax.tree.map(jnp.copy, at), event.values, len(seen)
    resumed = [event for event, _ in fit(built, state, measured=measured)]
    return [event for event in seen[:until] + resumed if event.kind != "checkpoint"]


@pytest.mark.parametrize("asked", range(1, 14))
def test_stopped_anywhere_it_goes_on_to_the_same_curve(asked):
    """Between programs and in evaluations, at the last step too: every event comes once, with the same numbers."""
    built = programs()
    straight = fit(built, built.initial_state())
    assert interrupted(built, asked) == [event for event, _ in straight if event.kind != "checkpoint"]


def test_evaluation_counts_every_example_once():
    built = programs(8)  # 21 examples in batches of 16: eleven of the last are padding
    state = built.initial_state()
    computed = built.evaluate(state, "test")
    images = preprocess.preprocess("pixel_mean", jnp.asarray(DATASET.test_images), built.data["test"])
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = np.asarray(ResNet(built.model).apply(variables, images), np.float64)
    chosen = np.log(np.exp(logits).sum(1)) - logits[np.arange(21), DATASET.test_labels]
    assert computed["loss"] == pytest.approx(chosen.mean(), rel=1e-5)
    assert computed["error"] == np.mean(logits.argmax(1) != DATASET.test_labels)


def test_training_learns_and_bfloat16_follows():
    exact = after_steps(programs(), 1)[1][0, 0]
    built = programs(dtype="bfloat16", train__steps=40, optim__warmup_steps=5)
    state, metrics = after_steps(built, 40)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype("float32")}
    # Guessing has log(10) = 2.3.
    assert metrics[-10:, 0].mean() < 1.8
    # Seven layers, each 2^-8 off at an element and less in the mean.
    assert metrics[0, 0] == pytest.approx(exact, rel=7 * 2**-8)
    assert metrics[0, 0] != exact


def test_a_diverged_run_says_where():
    built = programs(optim__learning_rate=1e30)
    losses = after_steps(built, 6)[1][:, 0]
    first_bad = np.flatnonzero(~np.isfinite(losses))[0] + 1
    events = [event for event, _ in fit(built, built.initial_state())]
    assert (events[-1].kind, events[-1].step) == ("diverged", first_bad)
    assert all(event.kind == "train" for event in events[:-1])


HELD = {
    "optim__hold_from_depth": 8,
    "optim__hold_until_error": 0.995,
    "optim__schedule": "constant",
    "optim__warmup_steps": 0,
}


def test_the_hold_ends_when_the_training_error_falls():
    _, metrics = after_steps(programs(**HELD), 6)
    rates = metrics[:, 2]
    # The running error starts at 1 and keeps 0.98 of itself; the rate of a step knows the errors before it.
    running, expected = 1.0, []
    held = True
    for error in metrics[:, 1]:
        expected.append(0.01 if held else 0.1)
        running = 0.98 * running + 0.02 * error
        held = held and running >= 0.995
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.1), "the hold never ended: this test would show nothing"


def test_runs_of_one_shape_share_a_program_and_train_by_their_own_values():
    first = programs(**HELD)
    compiled, losses = first.compile(), after_steps(first)[1]
    own = {"seed": 3, "optim__learning_rate": 0.05, "optim__momentum": 0.5, "optim__weight_decay": 0.1}
    # A network that is held sees the rate at which it is held.
    own |= {"optim__hold_learning_rate": 0.02, "optim__hold_until_error": 0.9}
    for fields in [{"seed": 3}, {"optim__momentum": 0.5}, {"optim__weight_decay": 0.1}, own]:
        other = programs(**HELD | fields)
        assert other.compile() is compiled
        others = after_steps(other)[1]
        assert not np.array_equal(losses, others)
    # As from a program that was compiled for the last run alone.
    compiled_steps.cache_clear()
    np.testing.assert_array_equal(after_steps(programs(**HELD | own))[1], others)


def test_a_batch_that_does_not_divide_over_the_devices_is_named():
    with pytest.raises(UserError, match=r"config\.train\.batch_size=12 is not a multiple of the 8 devices"):
        programs(8, train__batch_size=12)


def test_each_stream_of_random_numbers_has_a_seed_of_its_own():
    def seen(**seeds):
        built = programs(**RANDOM, **{f"seeds__{stream}": seed for stream, seed in seeds.items()})
        return built, leaves(built.initial_state().params), built.examples(0)

    built, start, indices = seen()
    loss = after_steps(built, 1)[1][0, 0]
    for stream in ("initialization", "order", "augmentation", "dropout"):
        other, other_start, other_indices = seen(**{stream: 5})
        assert any(map(np.any, map(np.not_equal, start, other_start))) == (stream == "initialization")
        assert np.any(indices != other_indices) == (stream == "order")
        if stream in ("augmentation", "dropout"):
            assert after_steps(other, 1)[1][0, 0] != loss


def test_auxiliary_losses_count_by_their_weight():
    def trained(**fields):
        return after_steps(programs(**fields), 2)[0].params["stage1_first"]["conv1"]["kernel"]

    plain = trained()
    heads = {"model__auxiliary": (1, 2)}
    np.testing.assert_allclose(trained(**heads, optim__auxiliary_weights=(0.0,)), plain, rtol=1e-5, atol=1e-6)
    assert not np.allclose(trained(**heads, optim__auxiliary_weights=(0.3, 0.1)), plain, rtol=1e-3)
    # Of 6 steps, one is done: five sixths of the weight are left.
    one_step_done = jnp.asarray(1)
    both = optim.auxiliary_weights(config(**heads), one_step_done, 2)
    np.testing.assert_allclose(both, [0.3 * 5 / 6] * 2, rtol=1e-6)
    own = config(**heads, optim__auxiliary_weights="0.3,0.1", optim__auxiliary_decay="none")
    np.testing.assert_allclose(optim.auxiliary_weights(own, one_step_done, 2), [0.3, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("unroll", "steps", "depth", "platform", "unrolled"),
    [
        ("auto", 400, 20, "cpu", True),
        ("auto", 399, 20, "cpu", False),
        ("auto", 64_000, 122, "cpu", True),
        ("auto", 64_000, 128, "cpu", False),
        ("auto", 64_000, 20, "gpu", True),
        ("auto", 64_000, 20, "tpu", False),
        ("never", 64_000, 20, "cpu", False),
        ("always", 1, 1202, "tpu", True),
    ],
)
def test_a_network_is_unrolled_where_that_pays(unroll, steps, depth, platform, unrolled):
    fields = {
        "model__unroll": unroll,
        "model__depth": depth,
        "train__steps": steps,
        "model__remat": "auto",
        "optim__warmup_steps": 0,
    }
    computed = model_config(config(**fields), 10, "float32", platform)
    assert (computed.unrolled, computed.remat) == (unrolled, "block_in_loops" if platform == "tpu" else "loops")
    assert model_config(config(**fields, model__width=160), 10, "float32", platform).remat == "loops"
    assert model_config(config(model__remat="block"), 10, "float32", platform).remat == "block"
    # Other operations say themselves what they keep.
    others = PLAIN._replace(add=jnp.add)
    assert model_config(config(**fields), 10, "float32", platform, others).remat == "nothing"


def test_unrolled_it_is_the_same_network_without_loops():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    # Stages of four blocks, so that three of them are scanned.
    config = ResNetConfig(depth=26, width=4)
    variables = drawn(ResNet(config), images)

    def loops_and_gradients(network):
        def loss(params):
            logits, _ = network.apply({**variables, "params": params}, images, mutable=["batch_stats"])
            return jnp.mean(logits**2)

        lowered = jax.jit(jax.grad(loss)).lower(variables["params"])
        return lowered.as_text().count("stablehlo.while"), lowered.compile()(variables["params"])

    loops, scanned = loops_and_gradients(ResNet(config, train=True))
    no_loops, unrolled = loops_and_gradients(ResNet(replace(config, unrolled=True), train=True))
    assert (loops, no_loops) == (6, 0)  # three forward, three backward
    assert_close(unrolled, scanned)


def test_a_program_is_not_shared_by_networks_that_differ():
    assert programs()._steps is not programs(model__shortcut="none")._steps
    assert programs()._steps is not programs(8)._steps
    assert programs()._steps is not programs(dtype="bfloat16")._steps
    one, other = (PLAIN._replace(add=add) for add in (jnp.add, lambda x, y: x + y))
    assert programs(ops=one)._steps is not programs(ops=other)._steps


def test_the_programs_of_a_long_sweep_do_not_pile_up():
    for depth in range(8, 8 + 6 * 8, 6):
        programs(model__depth=depth)
    gc.collect()
    alive = [thing for thing in gc.get_objects() if isinstance(thing, Steps)]
    assert len(alive) <= KEPT == 4
