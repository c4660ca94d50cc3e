"""Settings that mislead are said: each trap, and no trap where there is none."""

import pytest

from normres.runs import config as configs
from normres.runs import traps
from normres.runs.fields import flatten

TRAPS = [
    ({"recipe": "demo", "model.norm": "group", "model.width": 8}, "is an instance norm"),
    ({"recipe": "demo", "model.norm": "group", "model.norm_groups": 1}, "group norm with one group has no groups"),
    ({"recipe": "demo", "model.norm": "ghost_batch", "model.norm_sub_batches": 1}, "with one sub-batch is batch norm"),
    ({"recipe": "short", "train.steps": 2_000}, "2400 is not reached in config.train.steps=2000"),
    ({"optim.warmup_steps": 40_000}, "the first lies within config.optim.warmup_steps=40000"),
    ({"optim.learning_rate": 0}, "nothing is learned"),
    ({"train.steps": 1_000}, "config.recipe='he2015' is edited: train.steps=1000 (64000)"),
    ({"recipe": "demo", "data.augmentation": "crop_flip"}, "'demo' is edited: data.augmentation='crop_flip' ('none')"),
    ({"train.eval_every": 70_000}, "no curve of the test error"),
    ({"model.norm_groups": 4}, "norm_groups=4 has no effect with config.model.norm='batch'"),
    ({"model.norm": "layer", "model.norm_momentum": 0.5}, "norm_momentum=0.5 has no effect"),
    ({"model.gate_bias": -3.0}, "gate_bias=-3.0 has no effect with config.model.shortcut='A'"),
    (
        {"recipe": "demo", "optim.boundaries": "100"},
        "boundaries=(100,) has no effect with config.optim.schedule='cosine'",
    ),
    ({"optim.beta2": 0.9}, "beta2=0.9 has no effect with config.optim.optimizer='sgd'"),
    ({"train.sync_batch_norm": False}, "has no effect with config.train.parallel='jit'"),
    ({"model.stride_at": "first"}, "stride_at='first' has no effect with config.model.block='basic'"),
    ({"model.padding": "both", "model.shortcut": "B"}, "has no effect with config.model.shortcut='B'"),
    ({"model.norm": "none", "model.norm_epsilon": 1e-3}, "has no effect with config.model.norm='none'"),
    (
        {"model.norm_average": "cumulative", "model.norm_momentum": 0.5},
        "has no effect with config.model.norm_average='cumulative'",
    ),
    ({"optim.weight_decay": 0, "optim.decay_norms": False}, "has no effect with config.optim.weight_decay=0.0"),
    ({"optim.momentum": 0, "optim.nesterov": True}, "has no effect with config.optim.momentum=0.0"),
    ({"optim.hold_learning_rate": 0.001}, "has no effect with config.optim.hold_from_depth=110"),
    ({"model.depth": 110, "optim.hold_until_error": 0}, "that is never reached"),
    ({"optim.boundaries": ()}, "without config.optim.boundaries is the schedule 'constant'"),
    ({"data.split_seed": 1}, "split_seed=1 has no effect with config.data.validation=0"),
    ({"data.verify": False}, "has no effect with config.data.source='embedded'"),
    ({"train.batch_size": 1, "data.mixup": 0.2}, "has no effect with config.train.batch_size=1"),
    ({"recipe": "demo", "seeds.augmentation": 1}, "has no effect with config.data.augmentation='none'"),
    ({"seeds.dropout": 1}, "has no effect with config.model.dropout=0.0"),
    (
        {"model.family": "vgg", "model.depth": 11, "model.unroll": "always"},
        "config.model.family='vgg' does not read it",
    ),
    ({"data.cutmix_probability": 0.5}, "has no effect with config.data.cutmix=0.0"),
    ({"data.path": "cifar"}, "config.data.path='cifar' has no effect with config.data.source='embedded'"),
    (
        {"model.family": "vgg", "model.depth": 11, "model.shortcut": "B"},
        "config.model.shortcut='B' has no effect: config.model.family='vgg' does not read it",
    ),
    ({"model.module": "my.py:Net", "model.norm": "layer"}, "config.model.module='my.py:Net' does not read it"),
    ({"model.norm": "instance", "model.layout": "imagenet", "model.depth": 18}, "average over a single element"),
    ({"model.shortcut": "none", "model.residual_scale": "skipinit"}, "the network cannot learn"),
    ({"model.norm": "none", "model.depth": 56}, "a network this deep hardly trains"),
    ({"model.norm": "local_response", "model.depth": 56}, "config.model.norm='local_response' with nothing in"),
    ({"train.batch_size": 1}, "batch norm averages over one image in training"),
    (
        {"model.norm": "ghost_batch", "model.norm_sub_batches": 128},
        "ghost_batch norm averages over one image in training",
    ),
    ({"model.zero_last_scale": True, "model.shortcut": "none"}, "the network cannot learn"),
    ({"model.zero_last_scale": True, "model.order": "pre"}, "the branch never gets a gradient"),
    (
        {"model.zero_last_scale": True, "model.order": "pre", "model.block": "bottleneck", "model.depth": 29},
        "the branch never gets a gradient",
    ),
    ({"model.zero_last_scale": True, "model.residual_scale": "rezero"}, "two factors that start at zero"),
    (
        {"model.norm": "none", "model.residual_scale": "fixup", "model.weights": "l2"},
        "the branch's last kernel starts at zero and gets no gradient",
    ),
    (
        {"model.norm": "none", "model.residual_scale": "fixup", "model.weights": "standardized"},
        "config.model.weights='standardized' undoes the small start",
    ),
    ({"model.stochastic_depth": 0.5, "model.shortcut": "none"}, "nothing of the image is passed on"),
    (
        {"model.zero_last_scale": True, "model.order": "norm_after_addition"},
        "config.model.zero_last_scale=True has no effect with config.model.order='norm_after_addition'",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), TRAPS)
def test_what_misleads_is_said(overrides, message):
    said = traps.of(configs.load("base", overrides))
    assert any(message in line for line in said), said
    assert all("\n" not in line for line in said)


def test_the_conditions_are_of_fields_that_exist():
    fields = flatten(configs.load("base"))
    for by, is_read, names in traps.READ_IF:
        assert {by, *names.split()} <= fields.keys()
        is_read(configs.load("base"))


AS_MEANT = [
    {},  # the recipes themselves
    {"recipe": "short"},
    {"recipe": "demo"},
    {"model.norm": "group", "model.norm_groups": 4, "model.shortcut": "exclusive_gate", "model.gate_bias": 0.0},
    {"data.source": "npz", "data.path": "x.npz", "model.norm": "instance"},
    {"model.inner_width": 8},  # narrows basic blocks too
    {"model.zero_last_scale": True},
    {"model.zero_last_scale": True, "model.order": "pre", "model.norm": "evonorm_s0"},
    {"model.norm": "batch_instance", "model.layout": "imagenet", "model.depth": 18},
    {"train.steps_per_program": 1},
    {"model.norm": "SC", "model.norm_groups": 1},
]


@pytest.mark.parametrize("overrides", AS_MEANT)
def test_what_can_be_meant_is_not_a_trap(overrides):
    assert traps.of(configs.load("base", overrides)) == []


def test_the_images_that_are_there_count():
    config = configs.load("base", {"model.norm": "instance", "model.layout": "imagenet", "model.depth": 18})
    assert traps.of(config, 224) == []


def test_a_module_that_does_not_take_what_the_run_offers(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("import flax.linen as nn\nclass Net(nn.Module):\n    classes: int\n")
    config = configs.load("base", {"model.module": f"{file}:Net", "train.dtype": "bfloat16", "train.parallel": "pmap"})
    assert traps.of(config) == []  # it is not imported before its data are read
    assert [line.partition(":")[0] for line in traps.of(config, 32)] == [
        "config.train.dtype='bfloat16' has no effect",
        "config.train.sync_batch_norm=True has no effect",
    ]
