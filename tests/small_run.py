"""A small run on random images, for tests of training: its config, its programs, and what a few steps make of it."""

import jax
import numpy as np

from normres.configs import base
from normres.data import Dataset
from normres.layers import PLAIN
from normres.runs import config as configs
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


HELD = {
    "optim__hold_from_depth": 8,
    "optim__hold_until_error": 0.995,
    "optim__schedule": "constant",
    "optim__warmup_steps": 0,
}
