"""Settings that mislead are said: each trap, and no trap where there is none."""

import pytest

from normres.runs import config as configs
from normres.runs import traps
from normres.runs.fields import flatten

TRAPS = [
    ("base:demo", {"model.norm": "group", "model.width": 8}, "is an instance norm"),
    ("base:demo", {"model.norm": "group", "model.norm_groups": 1}, "group norm with one group has no groups"),
    ("base:demo", {"model.norm": "ghost_batch", "model.norm_sub_batches": 1}, "with one sub-batch is batch norm"),
    ("base:short", {"train.steps": 2_000}, "2400 is not reached in config.train.steps=2000"),
    ("base", {"optim.warmup_steps": 40_000}, "the first lies within config.optim.warmup_steps=40000"),
    ("base", {"optim.learning_rate": 0}, "nothing is learned"),
    ("base", {"train.steps": 1_000}, "config.recipe='he2015' is edited: train.steps=1000 (64000)"),
    ("base:demo", {"data.augmentation": "crop_flip"}, "'demo' is edited: data.augmentation='crop_flip' ('none')"),
    ("base", {"train.eval_every": 70_000}, "no curve of the test error"),
    ("base", {"model.norm_groups": 4}, "norm_groups=4 has no effect with config.model.norm='batch'"),
    ("base", {"model.norm": "layer", "model.norm_momentum": 0.5}, "norm_momentum=0.5 has no effect"),
    ("base", {"model.gate_bias": -3.0}, "gate_bias=-3.0 has no effect with config.model.shortcut='A'"),
    ("base:demo", {"optim.boundaries": "100"}, "boundaries=(100,) has no effect with config.optim.schedule='cosine'"),
    ("base", {"optim.beta2": 0.9}, "beta2=0.9 has no effect with config.optim.optimizer='sgd'"),
    ("base", {"train.sync_batch_norm": False}, "has no effect with config.train.parallel='jit'"),
    ("base", {"model.inner_width": 8}, "inner_width=8 has no effect with config.model.block='basic'"),
    ("base", {"data.cutmix_probability": 0.5}, "has no effect with config.data.cutmix=0.0"),
    ("base", {"data.path": "cifar"}, "config.data.path='cifar' has no effect with config.data.source='embedded'"),
    (
        "base",
        {"model.family": "vgg", "model.depth": 11, "model.shortcut": "B"},
        "config.model.shortcut='B' has no effect: config.model.family='vgg' does not read it",
    ),
    ("base", {"model.module": "my.py:Net", "model.norm": "layer"}, "config.model.module='my.py:Net' does not read it"),
    (
        "base",
        {"model.norm": "instance", "model.layout": "imagenet", "model.depth": 18},
        "average over a single element",
    ),
    ("base", {"model.shortcut": "none", "model.residual_scale": "skipinit"}, "the network cannot learn"),
    ("base", {"model.norm": "none", "model.depth": 56}, "a network this deep hardly trains"),
    (
        "base",
        {"model.zero_last_scale": True, "model.order": "norm_after_addition"},
        "config.model.zero_last_scale=True has no effect with config.model.order='norm_after_addition'",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "message"), TRAPS)
def test_what_misleads_is_said(name, overrides, message):
    said = traps.of(configs.load(name, overrides))
    assert any(message in line for line in said), said
    assert all("\n" not in line for line in said)


def test_published_recipes_have_no_traps():
    for name in ("base", "base:short", "base:demo"):
        assert traps.of(configs.load(name)) == []
    as_meant = {
        "model.norm": "group",
        "model.norm_groups": 4,
        "model.shortcut": "exclusive_gate",
        "model.gate_bias": 0.0,
    }
    assert traps.of(configs.load("base:demo", as_meant)) == []
    assert traps.of(configs.load("base", {"optim.optimizer": "sgd", "data.path": ""})) == []


def test_the_conditions_are_of_fields_that_exist():
    fields = flatten(configs.load("base"))
    for by, is_read, names in traps.READ_IF:
        assert {by, *names.split()} <= fields.keys()
        is_read(fields[by])
