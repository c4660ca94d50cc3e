"""Settings that a config does not read: they would be varied without an effect."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from normres.data.dataset import CLASSES
from normres.data.sources import SOURCES
from normres.models import MODELS, ORDERS, SHORTCUTS
from normres.norms import find_spec
from normres.runs.fields import declared, flatten
from normres.training.optim import holds

RANDOM = {"color_cast", "gaussian_noise"}  # corruptions that draw

# The field that decides whether others are read, whether they are, and their names.
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
    ("model.shortcut", lambda c: SHORTCUTS[c.model.shortcut].add, "model.padding"),
    ("model.shortcut", lambda c: SHORTCUTS[c.model.shortcut].project == "never", "model.padding"),
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
    ("data.cutmix_probability", lambda c: c.data.cutmix_probability, "data.cutmix"),
    ("data.corruptions", lambda c: RANDOM.intersection(c.data.corruptions), "data.corruption_seed"),
    ("data.label_noise", lambda c: c.data.label_noise, "data.label_noise_seed"),
    ("data.validation", lambda c: c.data.validation or c.data.fraction < 1 or c.data.per_class, "data.split_seed"),
    ("data.source", lambda c: "image_size" in SOURCES[c.data.source].reads, "data.image_size"),
    ("data.source", lambda c: "verify" in SOURCES[c.data.source].reads, "data.verify"),
    ("data.name", lambda c: c.data.source != "parquet" or c.data.name in CLASSES, "data.verify"),
    ("data.source", lambda c: c.data.source not in ("embedded", "synthetic", "photographs"), "data.path"),
    ("data.source", lambda c: "styles" in SOURCES[c.data.source].reads, "data.styles"),
    ("model.dropout", lambda c: "dropout" in streams(c), "seeds.dropout"),
    ("model.family", lambda c: _task(c) == "stylization", "optim.style_weight"),
    ("model.family", lambda c: _task(c) == "classification", "optim.loss optim.label_smoothing"),
    ("data.styles", lambda c: c.model.condition != "label" or len(c.data.styles) > 1, "model.condition"),
    ("train.batch_size", lambda c: c.train.batch_size > 1, "data.mixup data.cutmix"),
    ("train.parallel", lambda c: c.train.parallel == "pmap", "train.sync_batch_norm"),
    ("model.norm", lambda c: c.model.module or find_spec(c.model.norm).running, "train.sync_batch_norm"),
    ("model.norm", lambda c: c.model.module or find_spec(c.model.norm).sub_batches == 1, "train.sync_batch_norm"),
    ("seeds.order", lambda c: any(c.seeds[stream] < 0 for stream in streams(c)), "seed"),
]


def streams(config: ConfigDict) -> set[str]:
    """Returns which of the random streams `config.seeds` the training draws from; a module may draw from `dropout`."""
    data, model = config.data, config.model
    augments = data.augmentation != "none" or data.cutout or data.mixup or data.cutmix
    drops = model.module or model.dropout or model.stochastic_depth or SHORTCUTS[model.shortcut].dropout
    begins = not config.init_from  # though a classifier of other classes begins anew
    chosen = {"initialization": begins, "order": True, "augmentation": augments, "dropout": drops}
    return {name for name, draws in chosen.items() if draws}


def _task(config: ConfigDict) -> str:
    """Returns the task of the network; a user's module classifies."""
    return "classification" if config.model.module else MODELS[config.model.family].task


def of(config: ConfigDict) -> Iterator[str]:
    """Yields a sentence for each setting without an effect, where it is neither base.py's nor the recipe's."""
    values, model = flatten(config), config.model
    by_network = f"model.module={model.module!r}" if model.module else f"model.family={model.family!r}"
    read_by_network = {"family", "module"}
    if not model.module:
        read_by_network |= MODELS[model.family].config.__dataclass_fields__.keys()
        read_by_network |= {"unroll"} if "unrolled" in read_by_network else set()
    for name, field in declared().items():
        if values[name] in (field.value, in_recipe(config, name)):
            continue
        section, _, key = name.rpartition(".")
        if section == "model" and key not in read_by_network:
            yield f"config.{name}={values[name]!r} has no effect: config.{by_network} does not read it"
        elif not (section == "model" and model.module):
            for by, is_read, names in READ_IF:
                if name in names.split() and not is_read(config):
                    yield f"config.{name}={values[name]!r} has no effect with config.{by}={values[by]!r}"
    if model.module and model.family != "resnet":
        yield f"config.model.family={model.family!r} has no effect: config.model.module={model.module!r} replaces it"


def in_recipe(config: ConfigDict, name: str) -> Any:
    """Returns the value of a field in the config's recipe."""
    from normres.configs import base

    return base.RECIPES.get(config.recipe, {}).get(name, declared()[name].value)
