"""A run that cannot fit, or a batch larger than the data, is one line before anything is allocated."""

import jax
import numpy as np
import pytest

from normres.configs import base
from normres.data import Dataset
from normres.errors import UserError
from normres.runs import config as configs
from normres.training import limits
from normres.training.programs import Programs

TINY = {"model.depth": 8, "model.width": 4, "train.batch_size": 8, "train.eval_batch_size": 8, "train.ops": "plain"}


def programs(overrides, size=32, devices=1):
    images, labels = np.zeros((16, size, size, 3), np.uint8), np.zeros(16, np.int32)
    data = Dataset("mine", "npz", images, labels, images, labels, tuple("abcdefghij"))
    return Programs(configs.apply(base.get_config("demo"), TINY | overrides), data, "float32", jax.devices()[:devices])


def test_a_batch_larger_than_the_training_set_is_refused():
    programs({"train.batch_size": 16}).initial_state()
    message = r"^config\.train\.batch_size=17 is larger than the training set of 16 images, config\.data\.source="
    with pytest.raises(UserError, match=message):
        programs({"train.batch_size": 17}).initial_state()


def test_images_smaller_than_the_strides_are_refused():
    programs({}, size=4)
    with pytest.raises(UserError, match=r"images of 3x3 are too small: this network divides each side by 4$"):
        programs({}, size=3)


def test_sub_batches_divide_a_devices_share():
    ghost = {"model.norm": "ghost_batch", "model.norm_sub_batches": 4}
    programs(ghost, devices=4)
    programs(ghost | {"train.parallel": "pmap"}, devices=2)
    with pytest.raises(UserError, match=r"^config\.model\.norm_sub_batches=4 does not divide the 2 examples"):
        programs(ghost | {"train.parallel": "pmap"}, devices=4)


# 288 width^2 weights, each with its gradient and its momentum.
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.width": 16_384}, r"^config\.model\.width=16384, config\.model\.depth=8: parameters take 927\.7 GB"),
        ({"train.eval_batch_size": 2**20}, r"^config\.train\.eval_batch_size=1048576: activations take 2\.\d GB"),
    ],
)
def test_what_a_device_cannot_hold_is_refused_before_it_begins(monkeypatch, overrides, message):
    monkeypatch.setattr(limits, "device_memory", lambda: 10**9)
    programs({}).initial_state()
    with pytest.raises(UserError, match=message):
        programs(overrides).initial_state()


def test_a_program_that_takes_more_than_the_memory_is_refused(monkeypatch):
    built = programs({})
    monkeypatch.setattr(limits, "device_memory", lambda: 10**4)
    with pytest.raises(UserError, match=r"^config\.train\.batch_size=8, .*: activations take .* a device here has"):
        built.compile()
