"""What a config can hardly mean: said before a run starts, and kept in its record."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from normres.models import MODELS, ORDERS, SHORTCUTS, NetworkConfig
from normres.norms import find_spec, reduction_axes
from normres.runs.fields import declared, flatten

# The fields that make a recipe, or how their names begin.
OF_RECIPE: tuple[str, ...] = ("optim.", "train.steps", "train.batch_size", "data.preprocess", "data.augmentation")
OF_RECIPE += ("data.padding", "data.cutout", "data.mixup", "data.cutmix")

# Fields that some configs do not read: the field that decides, for which of its values they are read, and their names.
READ_IF: list[tuple[str, Callable[[Any], Any], str]] = [
    ("model.norm", lambda norm: find_spec(norm).groups > 1, "model.norm_groups"),
    ("model.norm", lambda norm: find_spec(norm).sub_batches > 1, "model.norm_sub_batches"),
    ("model.norm", lambda norm: find_spec(norm).running, "model.norm_average model.norm_momentum model.norm_unbiased"),
    ("model.norm", lambda norm: "scale" in find_spec(norm).affine, "model.zero_last_scale"),
    ("model.order", lambda order: "norm2" in ORDERS[order].branch(2), "model.zero_last_scale"),
    ("model.block", lambda block: block == "bottleneck", "model.inner_width model.stride_at"),
    ("model.shortcut", lambda shortcut: SHORTCUTS[shortcut].project != "always", "model.padding"),
    ("model.shortcut", lambda shortcut: SHORTCUTS[shortcut].gate, "model.gate_bias"),
    ("model.auxiliary", bool, "optim.auxiliary_weights optim.auxiliary_decay"),
    ("optim.optimizer", lambda optimizer: optimizer.startswith("sgd"), "optim.nesterov"),
    ("optim.optimizer", lambda optimizer: optimizer == "adamw", "optim.beta2 optim.epsilon"),
    ("optim.schedule", lambda schedule: schedule == "step", "optim.boundaries optim.decay_factor"),
    ("optim.hold_from_depth", bool, "optim.hold_learning_rate optim.hold_until_error"),
    ("data.augmentation", lambda augmentation: augmentation == "crop_flip", "data.padding"),
    ("data.cutmix", bool, "data.cutmix_probability"),
    ("data.corruptions", bool, "data.corruption_seed"),
    ("data.label_noise", bool, "data.label_noise_seed"),
    ("data.source", lambda source: source not in ("embedded", "binary", "python", "npz"), "data.image_size"),
    ("data.source", lambda source: source not in ("embedded", "synthetic", "photographs"), "data.path"),
    ("data.source", lambda source: source == "photographs", "data.styles"),
    ("model.family", lambda family: MODELS[family].task == "stylization", "optim.style_weight"),
    ("model.family", lambda family: MODELS[family].task == "classification", "optim.loss optim.label_smoothing"),
    ("train.parallel", lambda parallel: parallel == "pmap", "train.sync_batch_norm"),
]


def of(config: ConfigDict) -> list[str]:
    """Returns a sentence for each trap of a config."""
    return [*_unread(config), *_norm(config), *_optimization(config), *_recipe(config)]


def _unread(config: ConfigDict) -> Iterator[str]:
    """Settings that have no effect, where they differ from base.py's."""
    values, model = flatten(config), config.model
    by_network = f"model.module={model.module!r}" if model.module else f"model.family={model.family!r}"
    read_by_network = {"family", "module", "unroll"}
    if not model.module:
        read_by_network |= MODELS[model.family].config.__dataclass_fields__.keys()
    for name, field in declared().items():
        if values[name] in (field.value, _in_recipe(config, name)):
            continue
        section, _, key = name.rpartition(".")
        if section == "model" and key not in read_by_network:
            yield f"config.{name}={values[name]!r} has no effect: config.{by_network} does not read it"
        elif not (section == "model" and model.module):
            for by, is_read, names in READ_IF:
                if name in names.split() and not is_read(values[by]):
                    yield f"config.{name}={values[name]!r} has no effect with config.{by}={values[by]!r}"
    if model.module and model.family != "resnet":
        yield f"config.model.family={model.family!r} has no effect: config.model.module={model.module!r}"


def _norm(config: ConfigDict) -> Iterator[str]:
    """Norms that are another norm, or nothing."""
    if config.model.module:
        return
    network, name = MODELS[config.model.family].configured(config.model), config.model.norm
    spec, grouped, parted = network.norm_spec, find_spec(name).groups > 1, find_spec(name).sub_batches > 1
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
    if config.model.family != "resnet":
        return
    scale = config.model.residual_scale
    if not spec.reductions and scale == "none" and config.model.weights == "plain" and network.depth > 20:
        yield "config.model.norm='none' with nothing in its place: a network this deep hardly trains"
    if config.model.shortcut == "none" and scale != "none":
        yield (
            f"config.model.residual_scale={scale!r} without a shortcut: branches that start at zero pass nothing on, "
            "and the network cannot learn"
        )


def _single_element(network: NetworkConfig, image_size: int, batch_size: int) -> bool:
    """Returns whether some norm subtracts the mean of a single element: the element itself."""
    spec = network.norm_spec
    for channels, stride in network.stages:
        side = -(-image_size // stride)
        shape = (batch_size // spec.sub_batches, side, side, channels // spec.groups)
        counts = (math.prod(shape[axis] for axis in reduction_axes(over, ndim=4)) for over in spec.reductions)
        if spec.center and 1 in counts:
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
    edited = []
    for name, value in flatten(config).items():
        if name.startswith(OF_RECIPE) and value != (meant := _in_recipe(config, name)):
            edited.append(f"{name}={value!r} ({meant!r})")
    if edited:
        yield f"config.recipe={config.recipe!r} is edited: {', '.join(edited)}"
