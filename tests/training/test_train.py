"""The training step on one device and on eight, evaluation, random streams, and the hold of the learning rate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import DATASET, HELD, RANDOM, after_steps, assert_close, config, leaves, programs

from normres.data import augment, preprocess
from normres.errors import UserError
from normres.models import ResNet
from normres.training import optim
from normres.training.networks import model_config


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
