"""Configs and sweeps: overrides are typed, mistakes are named with the nearest choice, ids depend on content alone."""

import json
from pathlib import Path

import pytest

from configs import base
from normres.errors import UserError
from normres.runs import config as configs
from normres.runs import sweep

DEMO = "configs/degradation.py:demo"


def test_overrides_take_the_type_of_the_field():
    changed = configs.apply(
        base.get_config(),
        {
            "model.depth": "56",
            "optim.learning_rate": "1",
            "optim.nesterov": "true",
            "optim.boundaries": "100,200",
            "data.path": "12",
            "train.steps": "1_000",
        },
    )
    assert changed.model.depth == 56
    assert isinstance(changed.optim.learning_rate, float)
    assert changed.optim.nesterov is True
    assert changed.optim.boundaries == (100, 200)
    assert (changed.data.path, changed.train.steps) == ("12", 1_000)


def test_a_recipe_override_sets_its_row_before_the_others():
    changed = configs.apply(base.get_config(), {"train.steps": "10", "recipe": "demo"})
    assert (changed.recipe, changed.optim.schedule, changed.train.steps) == ("demo", "cosine", 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.dept": "3"}, "config.model.dept is not a field; did you mean 'model.depth'?"),
        ({"depth": "3"}, "config.depth is not a field; "),
        ({"model.depth": "18"}, "config.model.depth=18 is not 6n+2 (8, 14, 20, ...); the nearest: 14 or 20"),
        ({"model.depth": "deep"}, "config.model.depth='deep' is not an integer"),
        ({"model.depth": "20.0"}, "config.model.depth='20.0' is not an integer"),
        ({"model.norm": "layrenorm"}, "config.model.norm='layrenorm' does not exist; did you mean 'layer'?"),
        ({"model.norm": "bacth"}, "did you mean 'batch'? choices: batch, extended_batch, instance, layer, group, rms"),
        ({"model.shortcut": "a"}, "config.model.shortcut='a' does not exist"),
        ({"model.order": "prae"}, "did you mean 'pre'?"),
        ({"model.remat": True}, "config.model.remat=True does not exist; choices: nothing, elementwise, block, auto"),
        (
            {"model.norm": "group", "model.norm_groups": "3"},
            "config.model.norm_groups=3 does not divide config.model.width=16; did you mean 2? choices: 1, 2, 4, 8, 16",
        ),
        ({"model.norm": "NX"}, "config.model.norm='NX' does not exist;"),
        ({"model.norm": "ND"}, "config.model.norm: over='ND': an array of 4 axes has no 'D'"),
        ({"model.norm": "NSH"}, "config.model.norm: over='NSH' names an axis twice"),
        (
            {"model.norm": "NHC", "model.norm_groups": "3"},
            "config.model.norm_groups=3 does not divide config.model.width=16; did you mean 2?",
        ),
        (
            {"model.norm": "ghost_batch", "model.norm_sub_batches": "3"},
            "config.model.norm_sub_batches=3 does not divide config.train.batch_size=128",
        ),
        (
            {"model.block": "bottleneck", "model.depth": "56", "model.cardinality": "3"},
            "config.model.cardinality=3 does not divide config.model.width=16; did you mean 2? choices: 1, 2, 4, 8, 16",
        ),
        ({"model.cardinality": "4"}, "config.model.cardinality=4 needs config.model.block='bottleneck'"),
        ({"model.block": "bottleneck", "model.depth": "50"}, "config.model.depth=50 is not 9n+2 (11, 20, 29, ...)"),
        ({"model.layout": "imagenet", "model.depth": "50"}, "imagenet networks of basic blocks; choices: 18, 34"),
        ({"model.auxiliary": "1,3"}, "config.model.auxiliary=(1, 3): there is no inner stage 3; choices: 1, 2"),
        (
            {"model.auxiliary": "1,2", "optim.auxiliary_weights": "0.1,0.2,0.3"},
            "config.optim.auxiliary_weights=(0.1, 0.2, 0.3): write one weight, or one for each of the 2 stages",
        ),
        ({"optim.auxiliary_weights": "-1.0"}, "none below 0"),
        ({"model.shortcut": "exclusive"}, "did you mean 'exclusive_gate'?"),
        ({"model.stochastic_depth": "1"}, "config.model.stochastic_depth=1.0 is a probability and must be below 1"),
        (
            {"model.norm": "group", "model.stem_width": "12"},
            "model.norm_groups=8 does not divide config.model.stem_width",
        ),
        ({"seeds.order": "-2"}, "config.seeds.order=-2 must be at least -1"),
        ({"seed.order": "1"}, "did you mean 'seeds.order'?"),
        ({"model.weights": "standardised"}, "did you mean 'standardized'?"),
        ({"model.residual_scale": "skip_init"}, "did you mean 'skipinit'?"),
        ({"model.norm_average": "mean"}, "choices: exponential, debiased, cumulative"),
        ({"train.dtype": "flaot32"}, "did you mean 'float32'? choices: auto, float32, bfloat16"),
        ({"train.steps": "0"}, "config.train.steps=0 must be at least 1"),
        ({"optim.momentum": "1.5"}, "config.optim.momentum=1.5 must lie between 0 and 1"),
        ({"optim.learning_rate": "nan"}, "config.optim.learning_rate=nan must be at least 0"),
        ({"optim.nesterov": "yes"}, "config.optim.nesterov='yes' is not true or false"),
        ({"optim.boundaries": "200,100"}, "config.optim.boundaries=(200, 100) must increase"),
        ({"data.source": "binnary"}, "did you mean 'binary'?"),
        ({"data.source": "binary"}, "config.data.path is empty"),
        ({"recipe": "he2014"}, "did you mean 'he2015'?"),
        ({"model": "3"}, "config.model is not a field"),
    ],
)
def test_a_mistake_is_one_line_that_names_field_and_choice(override, message):
    with pytest.raises(UserError) as caught:
        configs.apply(base.get_config(), override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_field_of_base_has_a_comment_that_says_unit_or_reason():
    text = Path("configs/base.py").read_text()
    lines = [line for line in text.splitlines() if line.strip().startswith("config.")]
    bare = [line for line in lines if "#" not in line and "ConfigDict()" not in line and ".lock()" not in line]
    obvious = {"learning_rate", "momentum", "nesterov"}
    assert {line.split("=")[0].strip().split(".")[-1] for line in bare} == obvious


def test_the_digest_depends_on_content_alone():
    one = base.get_config()
    same = json.loads(json.dumps(configs.to_dict(one), sort_keys=True))
    assert configs.digest(one) == configs.digest(dict(reversed(same.items())))
    assert configs.digest(one) != configs.digest(configs.apply(one, {"seed": 1}))


def test_a_sweep_expands_to_stable_names():
    arms = sweep.expand(DEMO, {}, seeds=2)
    assert len(arms) == 12
    assert arms[0].run_id == f"shortcut=none,depth=8,seed=0-{configs.digest(arms[0].config)}"
    assert [arm.run_id for arm in arms] == [arm.run_id for arm in sweep.expand(DEMO, {}, seeds=2)]
    assert arms[6].config.seed == 1
    # A changed base never meets the old runs.
    other = sweep.expand(DEMO, {"optim.learning_rate": "0.2"}, seeds=1)
    assert not {arm.run_id for arm in arms} & {arm.run_id for arm in other}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("configs/degradation.py:dmeo", {}, 1), "did you mean 'demo'?"),
        (("configs/degradatoin.py", {}, 1), "no such file; did you mean 'configs/degradation.py'?"),
        (("configs/base.py", {}, 1), "defines no sweep()"),
        ((DEMO, {"model.depth": "20"}, 1), "config.model.depth is what the sweep varies"),
        ((DEMO, {"model.norm": "goup"}, 1), "did you mean 'group'?"),
        ((DEMO, {}, 0), "--seeds=0 must be at least 1"),
    ],
)
def test_a_bad_sweep_fails_before_any_arm(arguments, message):
    with pytest.raises(UserError, match=r".") as caught:
        sweep.expand(*arguments)
    assert message in str(caught.value)


def test_a_bad_arm_is_found_before_the_first_one_starts(tmp_path):
    folder = tmp_path / "configs_of_mine"
    folder.mkdir()
    file = folder / "mine.py"
    file.write_text(
        "from configs import base\n"
        "def get_config():\n    return base.get_config('demo')\n"
        "def sweep():\n    return [{'model.depth': 8}, {'model.depth': 9}]\n"
    )
    with pytest.raises(UserError, match="depth=9 is not 6n"):
        sweep.expand(str(file), {}, 1)
    file.write_text(file.read_text().replace("9}", "8}"))
    with pytest.raises(UserError, match="two arms of the sweep are the same"):
        sweep.expand(str(file), {}, 1)


def test_a_broken_config_file_is_one_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config(:\n")
    with pytest.raises(UserError, match=r"broken\.py: SyntaxError") as caught:
        configs.load(str(file))
    assert "\n" not in str(caught.value)
