"""Settings that mislead are said: each trap, and no trap where there is none."""

import pytest

from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import sweep, traps, unread
from normres.runs.fields import flatten


def load(settings, recipe="base"):
    return configs.load(recipe, dict(setting.split("=") for setting in settings.split()))


TRAPS = {
    "recipe=demo model.norm=group model.width=8": "is an instance norm",
    "recipe=demo model.norm=group model.norm_groups=1": "one group of all channels is layer norm",
    "recipe=demo model.norm=ghost_batch model.norm_sub_batches=1": "with one sub-batch is batch norm",
    "recipe=short train.steps=2000": "2400 is not reached in config.train.steps=2000",
    "optim.warmup_steps=40000": "the first comes before the end of config.optim.warmup_steps=40000",
    "optim.learning_rate=0": "nothing is learned",
    "train.steps=1000": "config.recipe='he2015' is edited (in brackets, its own): train.steps=1000 (64000)",
    "recipe=demo data.augmentation=crop_flip": "(in brackets, its own): data.augmentation='crop_flip' ('none')",
    "train.eval_every=70000": "no curve of the test error",
    "model.norm_groups=4": "norm_groups=4 has no effect with config.model.norm='batch'",
    "model.norm=layer model.norm_momentum=0.5": "norm_momentum=0.5 has no effect",
    "model.gate_bias=-3.0": "gate_bias=-3.0 has no effect with config.model.shortcut='A'",
    "recipe=demo optim.boundaries=100": "boundaries=(100,) has no effect with config.optim.schedule='cosine'",
    "optim.beta2=0.9": "beta2=0.9 has no effect with config.optim.optimizer='sgd'",
    "train.sync_batch_norm=false": "has no effect with config.train.parallel='jit'",
    "model.stride_at=first": "stride_at='first' has no effect with config.model.block='basic'",
    "model.padding=both model.shortcut=B": "has no effect with config.model.shortcut='B'",
    "model.padding=both model.shortcut=none": "has no effect with config.model.shortcut='none'",
    "model.norm=none model.norm_epsilon=0.001": "has no effect with config.model.norm='none'",
    "model.norm_average=cumulative model.norm_momentum=0.5": "no effect with config.model.norm_average='cumulative'",
    "optim.weight_decay=0 optim.decay_norms=false": "has no effect with config.optim.weight_decay=0.0",
    "optim.momentum=0 optim.nesterov=true": "has no effect with config.optim.momentum=0.0",
    "optim.hold_learning_rate=0.001": "has no effect with config.optim.hold_from_depth=110",
    "model.depth=110 optim.hold_until_error=0": "never falls below config.optim.hold_until_error=0.0",
    "optim.boundaries=()": "without config.optim.boundaries is the schedule 'constant'",
    "data.split_seed=1": "split_seed=1 has no effect with config.data.validation=0",
    "data.verify=false": "has no effect with config.data.source='embedded'",
    "train.batch_size=1 data.mixup=0.2": "has no effect with config.train.batch_size=1",
    "recipe=demo seeds.augmentation=1": "has no effect with config.data.augmentation='none'",
    "seeds.dropout=1": "has no effect with config.model.dropout=0.0",
    "model.family=vgg model.depth=11 model.unroll=always": "config.model.family='vgg' does not read it",
    "data.cutmix_probability=0.5": "has no effect with config.data.cutmix=0.0",
    "data.path=cifar": "config.data.path='cifar' has no effect with config.data.source='embedded'",
    "model.family=vgg model.depth=11 model.shortcut=B": "shortcut='B' has no effect: config.model.family='vgg'",
    "model.module=my.py:Net model.norm=layer": "config.model.module='my.py:Net' does not read it",
    "model.norm=instance model.layout=imagenet model.depth=18": "average over a single number",
    "model.shortcut=none model.residual_scale=skipinit": "the network cannot learn",
    "model.norm=none model.depth=56": "networks of more than 20 layers hardly learn",
    "model.norm=local_response model.depth=56": "config.model.norm='local_response', and nothing replaces norms",
    "train.batch_size=1": "batch norm sees one image at a time in training",
    "model.norm=ghost_batch model.norm_sub_batches=128": "=128: ghost_batch norm sees one image at a time",
    "model.zero_last_scale=true model.shortcut=none": "the network cannot learn",
    "model.shortcut=none model.order=pre": "all orders are the same network",
    "model.norm=none model.residual_scale=rezero": "is the same network as 'skipinit'",
    "model.residual_scale=skipinit": "stands beside batch norm",
    "model.norm=none model.residual_scale=fixup model.order=relu_before_addition": "gets no gradient",
    "model.weights=l2": "trains as with config.model.weights='plain'",
    "model.weights=spectral model.norm=layer": "trains as with config.model.weights='plain'",
    "model.weights=scaled_standardized": "trains as with config.model.weights='standardized'",
    "model.norm=none model.weights=standardized": "the square root of its fan-in",
    "model.norm=none model.weights=l2 model.depth=56": "hardly learn",
    "model.norm=SC": "config.model.norm='SC' with config.model.norm_groups=8 is group norm",
    "model.norm=SC model.norm_groups=1": "with config.model.norm_groups=1 is layer norm",
    "model.norm=NS": "config.model.norm='NS' is batch norm",
    "model.norm=evonorm_s0 model.width=8": "each group is one channel",
    "recipe=demo model.norm_momentum=0.999": "still 67% of their initial values",
    "model.norm_momentum=0.1": "(PyTorch's momentum 0.1 is 0.9 here)",
    "model.norm=switchable train.batch_size=1": "switchable norm sees one image at a time",
    "optim.optimizer=adamw": "0.001 is usual",
    "recipe=short train.steps=64000": "the last is an early one of config.train.steps=64000",
    "optim.decay_factor=10": "the learning rate does not fall at a boundary",
    "optim.decay_factor=0": "the learning rate is 0 after step 32000",
    "model.depth=110 optim.learning_rate=0.01": "the hold has no effect",
    "data.validation=500": "neither trained on nor measured",
    "seeds.initialization=0 seeds.order=0 seeds.augmentation=0 seed=3": "config.seed=3 has",
    "data.cutmix=1.0 data.cutmix_probability=0": "cutmix=1.0 has no effect",
    "data.corruptions=contrast data.corruption_seed=3": "corruption_seed=3 has no effect",
    "model.zero_last_scale=true model.order=pre": "the branch never gets a gradient",
    "model.zero_last_scale=true model.order=pre model.block=bottleneck model.depth=29": "never gets a gradient",
    "model.zero_last_scale=true model.residual_scale=rezero": "two numbers that are 0 at the start",
    "model.norm=none model.residual_scale=fixup model.weights=l2": "the branch's last kernel starts at zero and",
    "model.norm=none model.residual_scale=fixup model.weights=standardized": "'standardized' makes them large again",
    "model.stochastic_depth=0.5 model.shortcut=none": "stops the signal",
    "model.layout=imagenet model.depth=18": "images of 32 pixels: the last stage sees 1x1 pixels",
    "model.norm_epsilon=0": "the result is not finite",
    "model.squeeze=16": "1 hidden unit in the first stage",
    "model.layout=wide model.depth=28": "is config.model.layout='cifar' with config.model.depth=26",
    "optim.optimizer=sgd_classical optim.schedule=constant optim.boundaries=()": "at a constant learning rate is 'sgd'",
    "model.zero_last_scale=true model.order=norm_after_addition": "has no effect with config.model.order=",
}


@pytest.mark.parametrize(("settings", "message"), TRAPS.items())
def test_what_misleads_is_said(settings, message):
    said = traps.of(load(settings))
    assert any(message in line for line in said), said
    assert all("\n" not in line for line in said)


def test_the_conditions_are_of_fields_that_exist():
    fields = flatten(configs.load("base"))
    for by, is_read, names in unread.READ_IF:
        assert {by, *names.split()} <= fields.keys()
        is_read(configs.load("base"))


AS_MEANT = [
    "recipe=he2015",
    "recipe=short",
    "recipe=demo",
    "model.norm=group model.norm_groups=4 model.shortcut=exclusive_gate model.gate_bias=0.0",
    "data.source=npz data.path=x.npz model.norm=instance",
    "model.inner_width=8",  # narrows basic blocks too
    "model.squeeze=16 model.block=bottleneck model.depth=29",  # of 64 channels, 4 hidden units
    "model.zero_last_scale=true",
    "model.zero_last_scale=true model.order=pre model.norm=evonorm_s0",
    "model.layout=wide model.depth=28 model.shortcut=B",
    "train.steps_per_program=1",
    "model.norm=NHC model.norm_groups=1",
    "model.weights=l2 model.norm=layer",  # removes the scale of all channels at once, not of each
    "model.weights=l2 model.order=pre",
    "model.weights=l2 model.order=norm_after_addition",
]


@pytest.mark.parametrize("settings", AS_MEANT)
def test_what_can_be_meant_is_not_a_trap(settings):
    assert traps.of(load(settings)) == []


def test_the_images_that_are_there_count():
    assert traps.of(load("model.norm=instance model.layout=imagenet model.depth=18"), 224) == []


def test_a_module_that_does_not_take_what_the_run_offers(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("import flax.linen as nn\nclass Net(nn.Module):\n    classes: int\n")
    config = load(f"model.module={file}:Net train.dtype=bfloat16 train.parallel=pmap")
    assert traps.of(config) == []  # it is not imported before its data are read
    assert [line.partition(":")[0] for line in traps.of(config, 32)] == [
        "config.train.dtype='bfloat16' has no effect",
        f"config.model.module='{file}",
    ]


def test_what_only_the_data_and_the_devices_tell():
    config = load("train.parallel=pmap train.sync_batch_norm=false", "base:demo")
    said = [traps.of(config, 32, 50_000, devices)[0:2] for devices in (1, 8)]
    assert said[0][0] == "in config.train.steps=400 the run sees 25,600 of 50,000 training images"
    assert "has no effect on one device" in said[0][1]
    assert "a batch norm averages over 8 images, on each of 8 devices" in said[1][1]
    assert traps.of(configs.load("base:demo"), 32, 2_560, 8) == []


def test_what_a_sweep_says_of_its_arms():
    vary = ["train.batch_size=8,128", "model.depth=56,110", "optim.label_smoothing=0,0.1"]
    said = sweep.misleading(sweep.expand("base:short", {}, 1, vary))
    assert "the arms train on 25,600 to 409,600 images: config.train.steps is not in proportion" in said
    assert any("start at a held learning rate" in line for line in said)
    assert any("config.optim.label_smoothing: each has a loss of its own" in line for line in said)
    assert sweep.misleading(sweep.expand("batch_size:short", {}, 1)) == []
    with pytest.raises(UserError, match="all seeds are the same run"):
        sweep.expand("base:demo", {"seeds.initialization": 0, "seeds.order": 0}, 1, ["seed=0,1"])
