"""Configs and sweeps: overrides are typed, mistakes are named with the nearest choice, ids depend on content alone."""

import dataclasses
import json
import math

import pytest

from normres.configs import base
from normres.errors import FaultInFile, UserError
from normres.runs import config as configs
from normres.runs import fields, results, sweep
from normres.training import losses

DEMO = "degradation:demo"
BASE = ("base:demo", {}, 1)  # of which a grid varies fields


def test_overrides_take_the_type_of_the_field():
    texts = {"model.depth": "56", "optim.learning_rate": "1", "optim.nesterov": "true", "optim.boundaries": "100,200"}
    texts |= {"data.path": "12", "train.steps": "1_000"}
    values = fields.flatten(configs.apply(base.get_config(), texts))
    assert [values[name] for name in texts] == [56, 1.0, True, (100, 200), "12", 1_000]
    assert isinstance(values["optim.learning_rate"], float)


def test_a_later_layer_wins(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from normres.configs import base\n"
        "def get_config():\n"
        "    config = base.get_config('short')\n"
        "    config.train.batch_size = 32\n"
        "    config.data.augmentation = 'flip'\n"
        "    return config\n"
    )
    of_file = configs.load(str(file))
    assert (of_file.recipe, of_file.train.steps, of_file.train.batch_size) == ("short", 3_200, 32)
    # Another recipe lies below the file's lines; the command line lies above them.
    demo = configs.load(str(file), {"train.steps": "200", "recipe": "demo", "data.augmentation": "none"})
    assert (demo.recipe, demo.optim.schedule, demo.train.steps) == ("demo", "cosine", 200)
    assert (demo.train.batch_size, demo.data.augmentation) == (32, "none")
    assert configs.load(str(file)).recipe == "short"  # and the next file is read as it is
    with pytest.raises(UserError, match="'he2014' does not exist; did you mean 'he2015'"):
        configs.load(str(file), {"recipe": "he2014"})


MISTAKES = {
    "model.dept=3": "config.model.dept is not a field; did you mean 'model.depth'?",
    "depth=3": "config.depth is not a field; ",
    "model.depth=18": "config.model.depth=18 is not 6n+2 (8, 14, 20, ...); the nearest: 14 or 20",
    "model.depth=20.0": "config.model.depth='20.0' is not an integer",
    "model.norm=layrenorm": "config.model.norm='layrenorm' does not exist; did you mean 'layer'?",
    "model.norm=bacth": "did you mean 'batch'? choices: batch, extended_batch, instance, layer, group, rms",
    "model.norm=group model.norm_groups=3": "norm_groups=3 does not divide config.model.width=16; did you mean 2?",
    "model.norm=ND": "config.model.norm: over='ND': an array of 4 axes has no 'D'",
    "model.norm=NHC model.norm_groups=3": "config.model.norm_groups=3 does not divide config.model.width=16;",
    "model.norm=ghost_batch model.norm_sub_batches=3": "norm_sub_batches=3 does not divide config.train.batch_size=128",
    "model.block=bottleneck model.depth=56 model.cardinality=3": "did you mean 2? choices: 1, 2, 4, 8, 16",
    "model.cardinality=4": "config.model.cardinality=4 needs config.model.block='bottleneck'",
    "model.auxiliary=1,2 optim.auxiliary_weights=0.1,0.2,0.3": "one for each of the 2 stages",
    "model.module=mine.py": "config.model.module='mine.py' names no class; write FILE.py:NAME",
    "model.family=vgg": "config.model.depth=20 is no depth of VGG; choices: 11, 13, 16, 19",
    "model.family=vg": "config.model.family='vg' does not exist; did you mean 'vgg'?",
    "model.stochastic_depth=1": "config.model.stochastic_depth=1.0 must be below 1",
    "model.norm=group model.stem_width=12": "norm_groups=8 does not divide config.model.stem_width=12;",
    "seeds.order=-2": "config.seeds.order=-2 must be at least -1",
    "seed.order=1": "did you mean 'seeds.order'?",
    "train.dtype=flaot32": "did you mean 'float32'? choices: auto, float32, bfloat16",
    "optim.learning_rate=nan": "config.optim.learning_rate=nan is no number; it must be at least 0 and at most 1e+30",
    "optim.learning_rate=inf": "config.optim.learning_rate=inf must be at most 1e+30",
    "seed=4294967296": "config.seed=4294967296 must be below 4,294,967,296",
    "optim.boundaries=-5,10": "config.optim.boundaries=(-5, 10) must be at least 1",
    "optim.boundaries=1.5": "config.optim.boundaries='1.5' is not integers, such as 100,200",
    "optim.auxiliary_weights=much": "config.optim.auxiliary_weights='much' is not numbers, such as 0.3,0.1",
    "model.stem_width=32": "config.model.stem_width=32 must be at most 16, the channels of the first block",
    "model.auxiliary=1,1": "config.model.auxiliary=(1, 1) must increase",
    "train.steps=10 optim.warmup_steps=10": "warmup_steps=10 must be less than config.train.steps=10",
    "model.unroll=always model.depth=1208": "is for at most 600 blocks; config.model.depth=1208 has 603",
    "data.source=synthetic data.image_size=3": "config.data.image_size=3: images of 3x3 are too",
    "optim.nesterov=yes": "config.optim.nesterov='yes' is not true or false",
    "optim.boundaries=200,100": "config.optim.boundaries=(200, 100) must increase",
    "data.source=binary": "config.data.path is empty",
    "recipe=demo": "config.recipe cannot be changed after the config file was read",
    "model=3": "config.model is not a field",
}
OTHER_MISTAKES = [
    ({"model.remat": True}, "config.model.remat=True does not exist; choices: nothing, elementwise, loops, block, "),
    ({"seed": 10**5_000}, "config.seed=a number of thousands of digits is not an integer"),
    ({"optim.boundaries": range(1, 200)}, "is not integers, such as 100,200"),
    ({"optim.boundaries": [*range(1, 200)]}, "must have at most 100 numbers"),
    ({"data.path": "a\nb"}, "config.data.path='a\\nb' has a character that cannot be printed"),
    ({"data.path": "x" * 5_000}, "must have at most 4,096 characters"),
]


@pytest.mark.parametrize(("override", "message"), [*MISTAKES.items(), *OTHER_MISTAKES])
def test_a_mistake_is_one_line_that_names_field_and_choice(override, message):
    if isinstance(override, str):
        override = dict(setting.split("=") for setting in override.split())
    with pytest.raises(UserError) as caught:
        configs.apply(base.get_config(), override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def another(name, field):
    """Returns another valid value of a field."""
    if name == "model.norm":
        return "layer"
    if name == "model.depth":
        return 26
    if field.choices:
        other = next(choice for choice in field.names() if field.value not in (choice, (choice,)))
        return (other,) if isinstance(field.value, tuple) else other
    if isinstance(field.value, bool):
        return not field.value
    if isinstance(field.value, tuple):
        return tuple(2 * item for item in field.value) or (1,)
    if isinstance(field.value, str):
        return field.value + "x"
    return field.kind(field.value / 2 or (1 if field.kind is int else 0.5))


REFUSED = {
    # Another value of these needs a second field: the error names the field.
    "model.family": "config.model.depth",
    "model.module": "config.model.module",
    "model.cardinality": "config.model.cardinality",
    "data.source": "config.data.path",
    "data.evaluate_on": "config.data.evaluate_on",
    "data.stream": "config.data.stream",
    "data.stratified": "config.data.stratified",
    "data.image_size": "config.data.image_size",
    "model.layout": "config.model.depth",
    "data.name": "config.data.name",
}


@pytest.mark.parametrize("name", list(base.FIELDS))
@pytest.mark.parametrize("edited", [False, True], ids=["option", "base.py"])
def test_a_changed_field_changes_the_run_or_is_refused_by_name(name, edited, monkeypatch):
    field = base.FIELDS[name]
    monkeypatch.setitem(losses.LOSSES, "another", losses.cross_entropy)  # there is one only
    value = another(name, field)
    before = configs.load("base")
    overrides = {} if edited else {name: value}
    if edited:
        monkeypatch.setitem(base.FIELDS, name, dataclasses.replace(field, value=value))
    if REFUSED.get(name):
        with pytest.raises(UserError) as caught:
            configs.load("base", overrides)
        assert str(caught.value).startswith(REFUSED[name])
        return
    after = configs.load("base", overrides)
    assert fields.flatten(after)[name] == value != fields.flatten(before)[name]
    # Where something is computed is no part of what it is.
    assert (fields.digest(after) == fields.digest(before)) == field.how


def test_every_field_says_what_it_means_and_how_far_it_goes():
    for name, field in base.FIELDS.items():
        assert len(field.meaning) > 8, name
        if field.kind in (int, float):
            assert math.isfinite(field.least), name
            assert math.isfinite(min(field.most, field.below)), name
        if isinstance(field.value, tuple):
            assert field.choices or field.longest, name


def test_the_digest_depends_on_content_alone():
    one = base.get_config()
    same = json.loads(json.dumps(configs.to_dict(one), sort_keys=True))
    assert fields.digest(one) == fields.digest(dict(reversed(same.items())))
    assert fields.digest(one) != fields.digest(configs.apply(one, {"seed": 1}))


def test_a_field_that_is_added_later_renames_no_run_and_blocks_no_resume(tmp_path, monkeypatch):
    old = configs.to_dict(base.get_config("demo"))
    name = fields.digest(old)
    # The program learns a field; older runs had what is now "square".
    shape = fields.Field("round", "of pixels", ("round", "square"), before="square")
    monkeypatch.setitem(base.FIELDS, "model.shape", shape)
    as_before, otherwise = (configs.load("base:demo", {"model.shape": shape}) for shape in ("square", "round"))
    assert fields.digest(as_before) == name != fields.digest(otherwise)
    results.check_identity(tmp_path, old, configs.to_dict(as_before))
    assert results.Run(tmp_path, old, {}, []).field("model.shape") == "square"
    with pytest.raises(UserError, match=r"config\.model\.shape is 'square' there and 'round' here"):
        results.check_identity(tmp_path, old, configs.to_dict(otherwise))
    # And without a word on older runs, it is another run.
    monkeypatch.setitem(base.FIELDS, "model.shape", dataclasses.replace(shape, before=fields.NOT_ADDED_LATER))
    with pytest.raises(UserError, match=r"config\.model\.shape is"):
        results.check_identity(tmp_path, old, configs.to_dict(as_before))


def test_a_sweep_expands_to_stable_names():
    arms = sweep.expand(DEMO, {}, seeds=2)
    assert len(arms) == 8
    assert arms[0].run_id == f"shortcut=none,depth=8,seed=0-{fields.digest(arms[0].config)}"
    assert [arm.run_id for arm in arms] == [arm.run_id for arm in sweep.expand(DEMO, {}, seeds=2)]
    assert arms[4].config.seed == 1
    # A changed base never meets the old runs.
    other = sweep.expand(DEMO, {"optim.learning_rate": "0.2"}, seeds=1)
    assert not {arm.run_id for arm in arms} & {arm.run_id for arm in other}


def test_a_grid_needs_no_file():
    vary = ["model.norm=batch,group", "model.depth=8, 14", "optim.boundaries=(1,2),(3)"]
    arms = sweep.expand("base:demo", {}, 2, vary)
    assert len(arms) == 16
    assert [arms[at].label for at in (1, 2)] == [
        "norm=batch depth=8 boundaries=(3) seed=0",
        "norm=batch depth=14 boundaries=(1,2) seed=0",
    ]
    assert {(arm.config.model.norm, arm.config.model.depth, arm.config.optim.boundaries) for arm in arms} == {
        (norm, depth, steps) for norm in ("batch", "group") for depth in (8, 14) for steps in ((1, 2), (3,))
    }
    assert [arm.config.seed for arm in sweep.expand(*BASE, ["seed=0,1"])] == [0, 1]
    # Of a file with arms of its own, each is combined with each point.
    models = [arm.config.model for arm in sweep.expand(DEMO, {}, 1, ["model.norm=batch,group"])[:3]]
    assert [f"{model.shortcut} {model.norm}" for model in models] == ["none batch", "none group", "A batch"]


def test_a_config_without_arms_has_seeds():
    assert [(arm.label, arm.config.seed) for arm in sweep.expand("base:demo", {"seed": 4}, 2)] == [
        ("seed=4", 4),
        ("seed=5", 5),
    ]


def test_a_long_value_does_not_make_a_name_too_long():
    (arm,) = sweep.expand(*BASE, [f"data.path={'x' * 300}"])
    assert len(arm.run_id) < 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("configs/degradation.py:dmeo", {}, 1), "did you mean 'demo'?"),
        (("degradatoin", {}, 1), "'degradatoin' is no file of configs/; did you mean 'degradation'?"),
        (("configs/degradatoin.py", {}, 1), "no such file; did you mean 'configs/degradation.py'?"),
        ((DEMO, {"model.depth": "20"}, 1), "config.model.depth is what the sweep varies"),
        ((DEMO, {"model.norm": "GROUP"}, 1), "did you mean 'group'?"),
        ((DEMO, {}, 0), "--seeds=0 must be from 1 to 10,000"),
        ((*BASE, ["model.norm"]), "--vary model.norm: write FIELD=A,B,..."),
        ((*BASE, ["model.norm=batch,"]), "write FIELD=A,B,..."),
        ((*BASE, ["optim.boundaries=(100,200"]), "write FIELD=A,B,..."),
        ((*BASE, ["model.nrom=batch,group"]), "did you mean 'model.norm'?"),
        ((*BASE, ["model.norm=batch", "model.norm=group"]), "model.norm is varied twice"),
        ((*BASE, ["optim.learning_rate=0.1,0.10"]), "two arms of the sweep are the same: learning_rate=0.1 seed=0 and"),
        (("base:demo", {}, 2, ["seed=0,1"]), "--seeds=2: base:demo or --vary has the seeds already"),
        ((*BASE, ["data.path=a.npz,b.npz"]), "two arms differ in config.data.path alone, a.npz and b.npz"),
    ],
)
def test_a_bad_sweep_fails_before_any_arm(arguments, message):
    with pytest.raises(UserError) as caught:
        sweep.expand(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[{'model.depth': 8}, {'model.depth': 9}]", r"config\.model\.depth=9 is not 6n\+2"),
        ("[{1: 8}]", r"config\.1 is not a field"),
        ("None", r"sweep\(\) returns .*, not a dictionary for each arm"),
        ("[('model.depth', 8)]", r"sweep\(\) returns .*, not a dictionary for each arm"),
    ],
)
def test_a_bad_arm_of_a_file_is_found_before_the_first_one_starts(returned, message, tmp_path):
    text = f"from normres.configs.base import get_config\n\n\ndef sweep():\n    return {returned}\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        sweep.expand(str(tmp_path / "mine.py"), {}, 1)


def test_seeds_that_nothing_draws_from_are_refused():
    fixed = {"seeds.initialization": "0", "seeds.order": "0"}
    with pytest.raises(UserError, match=r"with config.seeds.initialization, config.seeds.order fixed, all seeds are"):
        sweep.expand("base:demo", fixed, 2, ["model.depth=8"])
    assert len(sweep.expand("base:demo", fixed, 2, ["data.augmentation=flip"])) == 2
    with pytest.raises(UserError, match=r"with config.seeds.order fixed, all seeds are the same run"):
        sweep.expand("base:demo", {"seeds.order": "0", "init_from": "runs/one"}, 2, ["model.depth=8"])


def test_a_fault_in_the_users_file_is_shown_with_its_place(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config(:\n")
    with pytest.raises(FaultInFile, match=r"broken\.py: SyntaxError"):
        configs.load(str(file))
    file.write_text("def get_config():\n    return {}['depth']\n")
    with pytest.raises(FaultInFile, match=r"broken\.py: KeyError: 'depth'") as caught:
        configs.load(str(file))
    assert "\n" not in str(caught.value)
    assert 'broken.py", line 2, in get_config' in caught.value.trace
    assert "config.py" not in caught.value.trace
    for ends in ("import sys\nsys.exit(3)\n", "def get_config():\n    raise SystemExit(3)\n"):
        file.write_text(ends)
        with pytest.raises(FaultInFile, match=r"broken\.py: SystemExit: 3"):
            configs.load(str(file))


def test_a_grid_may_set_what_the_config_alone_lacks():
    fields = {"model.norm": "group", "model.width": 12, "seed": "5"}  # the 8 groups of base.py do not divide 12
    arms = sweep.expand("base:demo", fields, 2, ["model.norm_groups=2,3"])
    assert [(arm.config.model.norm_groups, arm.config.seed) for arm in arms] == [(2, 5), (3, 5), (2, 6), (3, 6)]
    paths = sweep.expand("base:demo", {"data.source": "npz"}, 1, ["data.path=a.npz"])
    assert [arm.config.data.path for arm in paths] == ["a.npz"]
