"""What a config can hardly mean: said before a run starts, and kept in its record."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from normres.data.dataset import CLASSES
from normres.data.sources import SOURCES
from normres.models import BRANCHES, MODELS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, NetworkConfig
from normres.models.variants import Shortcut
from normres.norms import find_spec, reduction_axes
from normres.runs.fields import declared, flatten
from normres.training.networks import user_module
from normres.training.optim import holds

# The fields that make a recipe, or how their names begin.
OF_RECIPE: tuple[str, ...] = ("optim.", "train.steps", "train.batch_size", "data.preprocess", "data.augmentation")
OF_RECIPE += ("data.padding", "data.cutout", "data.mixup", "data.cutmix")

# Fields that some configs do not read: the field that decides, whether they are read, and their names.
READ_IF: list[tuple[str, Callable[[ConfigDict], Any], str]] = [
    ("model.norm", lambda c: find_spec(c.model.norm).groups > 1, "model.norm_groups"),
    ("model.norm", lambda c: find_spec(c.model.norm).sub_batches > 1, "model.norm_sub_batches"),
    ("model.norm", lambda c: find_spec(c.model.norm).reductions, "model.norm_epsilon"),
    ("model.norm", lambda c: find_spec(c.model.norm).running, "model.norm_average model.norm_momentum"),
    ("model.norm", lambda c: find_spec(c.model.norm).running, "model.norm_unbiased"),
    ("model.norm_average", lambda c: c.model.norm_average != "cumulative", "model.norm_momentum"),
    ("model.norm", lambda c: "scale" in find_spec(c.model.norm).affine, "model.zero_last_scale"),
    ("model.order", lambda c: "norm2" in ORDERS[c.model.order].branch(2), "model.zero_last_scale"),
    ("model.block", lambda c: c.model.block == "bottleneck", "model.stride_at"),
    ("model.shortcut", lambda c: _pads(SHORTCUTS[c.model.shortcut]), "model.padding"),
    ("model.shortcut", lambda c: SHORTCUTS[c.model.shortcut].gate, "model.gate_bias"),
    ("model.auxiliary", lambda c: c.model.auxiliary, "optim.auxiliary_weights optim.auxiliary_decay"),
    ("model.module", lambda c: not c.model.module, "train.ops optim.hold_from_depth"),
    ("optim.optimizer", lambda c: c.optim.optimizer.startswith("sgd"), "optim.nesterov"),
    ("optim.optimizer", lambda c: c.optim.optimizer == "adamw", "optim.beta2 optim.epsilon"),
    ("optim.momentum", lambda c: c.optim.momentum, "optim.nesterov"),
    ("optim.weight_decay", lambda c: c.optim.weight_decay, "optim.decay_norms"),
    ("optim.schedule", lambda c: c.optim.schedule == "step", "optim.boundaries optim.decay_factor"),
    ("optim.boundaries", lambda c: c.optim.boundaries, "optim.decay_factor"),
    ("optim.hold_from_depth", lambda c: holds(c) or c.model.module, "optim.hold_learning_rate optim.hold_until_error"),
    ("data.augmentation", lambda c: c.data.augmentation == "crop_flip", "data.padding"),
    ("data.augmentation", lambda c: "augmentation" in streams(c), "seeds.augmentation"),
    ("data.cutmix", lambda c: c.data.cutmix, "data.cutmix_probability"),
    ("data.corruptions", lambda c: c.data.corruptions, "data.corruption_seed"),
    ("data.label_noise", lambda c: c.data.label_noise, "data.label_noise_seed"),
    ("data.validation", lambda c: c.data.validation or c.data.fraction < 1 or c.data.per_class, "data.split_seed"),
    ("data.source", lambda c: "image_size" in SOURCES[c.data.source].reads, "data.image_size"),
    ("data.source", lambda c: "verify" in SOURCES[c.data.source].reads, "data.verify"),
    ("data.name", lambda c: c.data.source != "parquet" or c.data.name in CLASSES, "data.verify"),
    ("data.source", lambda c: c.data.source not in ("embedded", "synthetic", "photographs"), "data.path"),
    ("data.source", lambda c: "styles" in SOURCES[c.data.source].reads, "data.styles"),
    ("model.dropout", lambda c: "dropout" in streams(c), "seeds.dropout"),
    ("model.family", lambda c: MODELS[c.model.family].task == "stylization", "optim.style_weight"),
    ("model.family", lambda c: MODELS[c.model.family].task == "classification", "optim.loss optim.label_smoothing"),
    ("train.batch_size", lambda c: c.train.batch_size > 1, "data.mixup data.cutmix"),
    ("train.parallel", lambda c: c.train.parallel == "pmap", "train.sync_batch_norm"),
    ("model.norm", lambda c: c.model.module or find_spec(c.model.norm).running, "train.sync_batch_norm"),
]


def streams(config: ConfigDict) -> set[str]:
    """Returns which of the random streams `config.seeds` the training draws from; a module may draw from `dropout`."""
    data, model = config.data, config.model
    augments = data.augmentation != "none" or data.cutout or data.mixup or data.cutmix
    drops = model.module or model.dropout or model.stochastic_depth or SHORTCUTS[model.shortcut].dropout
    begins = not config.init_from  # though a classifier of other classes begins anew
    chosen = {"initialization": begins, "order": True, "augmentation": augments, "dropout": drops}
    return {name for name, draws in chosen.items() if draws}


def _pads(shortcut: Shortcut) -> bool:
    """Returns whether a shortcut meets a larger number of channels by zeros."""
    return shortcut.add and shortcut.project == "never"


def of(config: ConfigDict, image_size: int = 0) -> list[str]:
    """Returns a sentence for each trap of a config; `image_size`, where the data have been read, is in pixels.

    Before, a user's module is not looked at: importing it may take devices.
    """
    size = image_size or (0 if config.data.source in ("auto", "npz") else config.data.image_size)
    if config.model.module:
        network = [*_module(config)] if image_size else []
    else:
        network = [*_norm(config, size), *_branches(config)]
    return [*_unread(config), *network, *_optimization(config), *_recipe(config)]


def _unread(config: ConfigDict) -> Iterator[str]:
    """Settings that have no effect, where they differ from base.py's."""
    values, model = flatten(config), config.model
    by_network = f"model.module={model.module!r}" if model.module else f"model.family={model.family!r}"
    read_by_network = {"family", "module"}
    if not model.module:
        read_by_network |= MODELS[model.family].config.__dataclass_fields__.keys()
        read_by_network |= {"unroll"} if "unrolled" in read_by_network else set()
    for name, field in declared().items():
        if values[name] in (field.value, _in_recipe(config, name)):
            continue
        section, _, key = name.rpartition(".")
        if section == "model" and key not in read_by_network:
            yield f"config.{name}={values[name]!r} has no effect: config.{by_network} does not read it"
        elif not (section == "model" and model.module):
            for by, is_read, names in READ_IF:
                if name in names.split() and not is_read(config):
                    yield f"config.{name}={values[name]!r} has no effect with config.{by}={values[by]!r}"
    if model.module and model.family != "resnet":
        yield f"config.model.family={model.family!r} has no effect: config.model.module={model.module!r}"


def _module(config: ConfigDict) -> Iterator[str]:
    """What a run expects of a user's module that the module does not take."""
    train, reference = config.train, f"config.model.module={config.model.module!r}"
    merged = train.parallel == "pmap" and train.sync_batch_norm
    fields = user_module(config.model.module).__dataclass_fields__ if merged or train.dtype == "bfloat16" else {}
    if train.dtype == "bfloat16" and "dtype" not in fields:
        yield f"config.train.dtype='bfloat16' has no effect: {reference} has no field `dtype`"
    if merged and "axis_name" not in fields:
        yield f"config.train.sync_batch_norm=True has no effect: {reference} has no field `axis_name`"


def _norm(config: ConfigDict, image_size: int) -> Iterator[str]:
    """Norms that are another norm, or nothing."""
    network, name = MODELS[config.model.family].configured(config.model), config.model.norm
    spec, grouped, parted = network.norm_spec, name == "group", find_spec(name).sub_batches > 1
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
    if image_size and _single_element(network, image_size, config.train.batch_size):
        yield (
            f"config.model.norm={name!r}: from images of {image_size} pixels, some norms average over a "
            "single element, and what they return does not depend on their input"
        )
    if name in ("batch", "ghost_batch") and config.train.batch_size == spec.sub_batches:
        yield (
            f"config.train.batch_size={config.train.batch_size}: {name} norm averages over one image in training, "
            "as instance norm does, and over running averages in evaluation"
        )
    scale = getattr(network, "residual_scale", "none")
    if not spec.reductions and scale == "none" and config.model.weights == "plain" and network.depth > 20:
        yield f"config.model.norm={name!r} with nothing in its place: a network this deep hardly trains"


def _branches(config: ConfigDict) -> Iterator[str]:
    """Residual branches from which no gradient comes."""
    model = config.model
    if model.family != "resnet":
        return
    plain, scale, weights = not SHORTCUTS[model.shortcut].add, model.residual_scale, model.weights
    words = ORDERS[model.order].branch(len(BRANCHES[model.block].kernels))
    norms = [word for word in words if word.startswith("norm")]
    last = norms[-1] if len(norms) == len(BRANCHES[model.block].kernels) else ""
    spec = find_spec(model.norm)
    zero_scale = model.zero_last_scale and last and "scale" in spec.affine
    cut = f"{last} relu" in " ".join(words) and not spec.activation
    fixup = RESIDUAL_SCALES[scale].fixup
    zeros = f"config.model.zero_last_scale=True and config.model.residual_scale={scale!r}"
    for name, starts_at_zero in (("zero_last_scale=True", zero_scale), (f"residual_scale={scale!r}", scale != "none")):
        if plain and starts_at_zero:
            yield (
                f"config.model.{name} without a shortcut: branches that start at zero pass nothing on, and the "
                "network cannot learn"
            )
    if zero_scale and cut:
        yield (
            f"config.model.zero_last_scale=True with config.model.order={model.order!r}: a ReLU follows the scale that "
            "starts at zero, and the branch never gets a gradient"
        )
    if zero_scale and scale != "none":
        yield f"{zeros}: two factors that start at zero have no gradient"
    if fixup and weights not in ("plain", "l2"):
        yield f"config.model.weights={weights!r} undoes the small start of config.model.residual_scale={scale!r}"
    if fixup and (weights == "l2" or model.order == "relu_before_addition"):
        yield (
            f"config.model.residual_scale={scale!r} with config.model.weights={weights!r} and config.model.order="
            f"{model.order!r}: the branch's last kernel starts at zero and gets no gradient"
        )
    if plain and model.stochastic_depth:
        yield (
            f"config.model.stochastic_depth={model.stochastic_depth} without a shortcut: where a block is left out, "
            "nothing of the image is passed on"
        )


def _single_element(network: NetworkConfig, image_size: int, batch_size: int) -> bool:
    """Returns whether all means that some norm subtracts are those of a single element: the element itself."""
    spec = network.norm_spec
    for channels, stride in network.stages:
        side = -(-image_size // stride)
        shape = (batch_size // spec.sub_batches, side, side, channels // spec.groups)
        counts = (math.prod(shape[axis] for axis in reduction_axes(over, ndim=4)) for over in spec.reductions)
        if spec.center and spec.reductions and all(count == 1 for count in counts):
            return True
    return False


def _optimization(config: ConfigDict) -> Iterator[str]:
    optim, steps, every = config.optim, config.train.steps, config.train.eval_every
    boundaries = optim.boundaries if optim.schedule == "step" else ()
    if optim.learning_rate == 0:
        yield "config.optim.learning_rate=0.0: nothing is learned"
    if optim.schedule == "step" and not boundaries:
        yield "config.optim.schedule='step' without config.optim.boundaries is the schedule 'constant'"
    if holds(config) and (optim.hold_learning_rate == 0 or optim.hold_until_error == 0):
        held = f"config.optim.hold_learning_rate={optim.hold_learning_rate}"
        yield f"{held} until config.optim.hold_until_error={optim.hold_until_error}: that is never reached"
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
        if name.startswith(OF_RECIPE) and not declared()[name].how and value != (meant := _in_recipe(config, name)):
            edited.append(f"{name}={value!r} ({meant!r})")
    if edited:
        yield f"config.recipe={config.recipe!r} is edited: {', '.join(edited)}"
