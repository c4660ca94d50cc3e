"""What a run does for its kind of device, and which runs share a compiled program."""

import gc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from small_run import HELD, after_steps, assert_close, config, programs

from normres.layers import PLAIN
from normres.models import MODELS, ResNet, ResNetConfig
from normres.training import networks, tpu
from normres.training.compiled import KEPT, Steps, compiled_steps
from normres.training.networks import model_config
from normres.training.platforms import PLATFORMS


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
    row = PLATFORMS[platform]
    computed = model_config(config(**fields), 10, "float32", row)
    assert (computed.unrolled, computed.remat) == (unrolled, "block_in_loops" if platform == "tpu" else "loops")
    assert model_config(config(**fields, model__width=160), 10, "float32", row).remat == "loops"
    assert model_config(config(model__remat="block"), 10, "float32", row).remat == "block"
    # Other operations say themselves what they keep.
    others = PLAIN._replace(add=jnp.add)
    assert model_config(config(**fields), 10, "float32", row, others).remat == "nothing"


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


def test_only_a_tpu_gets_its_operations():
    for platform, expected in (("tpu", True), ("cpu", False), ("cuda", False)):
        network = networks.build_network(config(), 10, "float32", PLATFORMS[platform])
        assert (network.ops is tpu.OPERATIONS) == expected
    assert tpu.block_by_block(MODELS["vgg"].module(MODELS["vgg"].config())) is None
