"""What a config can hardly mean: said before a run starts, and kept in its record."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from normres import norms
from normres.models import MODELS, SHORTCUTS, NetworkConfig
from normres.norms import reduction_axes
from normres.runs.fields import declared, flatten

# The fields that make a recipe, or how their names begin.
OF_RECIPE = (
    "optim.",
    "train.steps",
    "train.batch_size",
    "data.preprocess",
    "data.augmentation",
    "data.padding",
    "data.cutout",
    "data.mixup",
    "data.cutmix",
)

Condition = Callable[[ConfigDict], bool]


def _is(field: str, *values: Any) -> Condition:
    return lambda config: flatten(config)[field] in values


def _spec(config: ConfigDict) -> norms.NormSpec:
    return norms.find_spec(config.model.norm, max(config.model.norm_groups, 2), config.model.norm_sub_batches)


# Fields that some configs do not read: the field that decides, and when they are read.
READ_IF: dict[str, tuple[str, Condition]] = {
    "model.norm_groups": ("model.norm", lambda config: _spec(config).groups > 1),
    "model.norm_sub_batches": ("model.norm", lambda config: norms.find_spec(config.model.norm).sub_batches > 1),
    "model.norm_average": ("model.norm", lambda config: _spec(config).running),
    "model.norm_momentum": ("model.norm", lambda config: _spec(config).running),
    "model.norm_unbiased": ("model.norm", lambda config: _spec(config).running),
    "model.inner_width": ("model.block", _is("model.block", "bottleneck")),
    "model.padding": ("model.shortcut", lambda config: SHORTCUTS[config.model.shortcut].project != "always"),
    "model.gate_bias": ("model.shortcut", lambda config: bool(SHORTCUTS[config.model.shortcut].gate)),
    "model.stride_at": ("model.block", _is("model.block", "bottleneck")),
    "model.zero_last_scale": ("model.norm", lambda config: "scale" in _spec(config).affine),
    "optim.auxiliary_weights": ("model.auxiliary", lambda config: bool(config.model.auxiliary)),
    "optim.auxiliary_decay": ("model.auxiliary", lambda config: bool(config.model.auxiliary)),
    "optim.nesterov": ("optim.optimizer", lambda config: config.optim.optimizer.startswith("sgd")),
    "optim.beta2": ("optim.optimizer", _is("optim.optimizer", "adamw")),
    "optim.epsilon": ("optim.optimizer", _is("optim.optimizer", "adamw")),
    "optim.boundaries": ("optim.schedule", _is("optim.schedule", "step")),
    "optim.decay_factor": ("optim.schedule", _is("optim.schedule", "step")),
    "optim.hold_learning_rate": ("optim.hold_from_depth", lambda config: config.optim.hold_from_depth > 0),
    "optim.hold_until_error": ("optim.hold_from_depth", lambda config: config.optim.hold_from_depth > 0),
    "data.padding": ("data.augmentation", _is("data.augmentation", "crop_flip")),
    "data.cutmix_probability": ("data.cutmix", lambda config: config.data.cutmix > 0),
    "data.corruption_seed": ("data.corruptions", lambda config: bool(config.data.corruptions)),
    "data.label_noise_seed": ("data.label_noise", lambda config: config.data.label_noise > 0),
    "data.image_size": ("data.source", _is("data.source", "folder", "tfds", "parquet", "synthetic", "auto")),
    "data.path": ("data.source", lambda config: config.data.source not in ("embedded", "synthetic")),
    "train.sync_batch_norm": ("train.parallel", _is("train.parallel", "pmap")),
}


def of(config: ConfigDict) -> list[str]:
    """Returns a sentence for each trap of a config."""
    return [*_unread(config), *_norm(config), *_optimization(config), *_recipe(config)]


def _unread(config: ConfigDict) -> Iterator[str]:
    """Settings that have no effect, where they differ from base.py's."""
    values, model = flatten(config), config.model
    for name, field in declared().items():
        if values[name] in (field.value, _in_recipe(config, name)):
            continue
        section, _, key = name.rpartition(".")
        if section == "model" and key not in ("family", "module", "unroll") and _unread_by_network(model, key):
            by = f"model.module={model.module!r}" if model.module else f"model.family={model.family!r}"
            yield f"config.{name}={values[name]!r} has no effect: config.{by} does not read it"
        elif name in READ_IF and not (section == "model" and model.module):
            by, condition = READ_IF[name]
            if not condition(config):
                yield f"config.{name}={values[name]!r} has no effect with config.{by}={values[by]!r}"
    if model.module and model.family != "resnet":
        yield f"config.model.family={model.family!r} has no effect: config.model.module={model.module!r}"


def _unread_by_network(model: ConfigDict, key: str) -> bool:
    return bool(model.module) or key not in MODELS[model.family].config.__dataclass_fields__


def _norm(config: ConfigDict) -> Iterator[str]:
    """Norms that are another norm, or nothing."""
    if config.model.module:
        return
    network = MODELS[config.model.family].configured(config.model)
    spec, name = network.norm_spec, config.model.norm
    grouped, parted = _spec(config).groups > 1, norms.find_spec(name).sub_batches > 1
    if grouped and spec.groups == 1:
        yield f"config.model.norm_groups=1: {name} norm with one group has no groups"
    if parted and config.model.norm_sub_batches == 1:
        yield f"config.model.norm_sub_batches=1: {name} with one sub-batch is batch norm"
    single = sorted({channels for channels, _ in network.stages if channels == spec.groups})
    if grouped and spec.groups > 1 and single:
        yield (
            f"config.model.norm_groups={spec.groups}: where the network has {single[0]} channels, each group is one "
            "channel, and a group norm with one channel a group is an instance norm"
        )
    if _single_element(network, config.data.image_size, config.train.batch_size):
        yield (
            f"config.model.norm={name!r}: from images of {config.data.image_size} pixels, some norms average over a "
            "single element, and what they return does not depend on their input"
        )
    bare = not spec.reductions and config.model.residual_scale == "none" and config.model.weights == "plain"
    if config.model.family == "resnet" and bare and network.depth > 20:
        yield "config.model.norm='none' with nothing in its place: a network this deep hardly trains"
    plain = config.model.family == "resnet" and config.model.shortcut == "none"
    if plain and config.model.residual_scale != "none":
        yield (
            f"config.model.residual_scale={config.model.residual_scale!r} without a shortcut: branches that start at "
            "zero pass nothing on, and the network cannot learn"
        )


def _single_element(network: NetworkConfig, image_size: int, batch_size: int) -> bool:
    """Returns whether some norm subtracts the mean of a single element: the element itself."""
    spec = network.norm_spec
    for channels, stride in network.stages:
        side = -(-image_size // stride)
        shape = (batch_size // spec.sub_batches, side, side, channels // spec.groups)
        for over in spec.reductions:
            count = math.prod(shape[axis] for axis in reduction_axes(over, ndim=4))
            if spec.center and count == 1:
                return True
    return False


def _optimization(config: ConfigDict) -> Iterator[str]:
    optim, steps, every = config.optim, config.train.steps, config.train.eval_every
    boundaries = optim.boundaries if optim.schedule == "step" else ()
    if optim.learning_rate == 0:
        yield "config.optim.learning_rate=0.0: nothing is learned"
    if late := [step for step in boundaries if step >= steps]:
        yield f"config.optim.boundaries={boundaries}: {late[0]} is not reached in config.train.steps={steps}"
    if any(step < optim.warmup_steps for step in boundaries):
        warmup = f"config.optim.warmup_steps={optim.warmup_steps}"
        yield f"config.optim.boundaries={boundaries}: the first lies within {warmup}"
    if every > steps:
        yield f"config.train.eval_every={every} lies beyond config.train.steps={steps}: no curve of the test error"


def _in_recipe(config: ConfigDict, name: str) -> Any:
    """Returns the value of a field in the config's recipe."""
    from normres.configs import base

    return base.RECIPES.get(config.recipe, {}).get(name, declared()[name].value)


def _recipe(config: ConfigDict) -> Iterator[str]:
    """Fields in which the config is not the recipe that it names."""
    edited = [
        f"{name}={value!r} ({_in_recipe(config, name)!r})"
        for name, value in flatten(config).items()
        if name.startswith(OF_RECIPE) and value != _in_recipe(config, name)
    ]
    if edited:
        yield f"config.recipe={config.recipe!r} is edited: {', '.join(edited)}"
