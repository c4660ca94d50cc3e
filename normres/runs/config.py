"""Configs: load a file, apply the command line's values, and refuse what cannot run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from normres import files
from normres.data import sources, splits
from normres.errors import UserError, nearest
from normres.models import MODELS
from normres.runs.fields import declared, flatten, recipe_of_command, shown, typed

# What style transfer needs.
OF_STYLE: dict[str, Any] = {"data.name": "photographs", "data.preprocess": "none", "data.corruptions": ()}
OF_STYLE |= dict.fromkeys(("data.mixup", "data.cutmix", "data.label_noise"), 0.0) | {"optim.hold_from_depth": 0}
MOST_UNROLLED = 600  # blocks, those of ResNet-1202; compiling them takes minutes


def load(name_and_argument: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Loads a config file through its `get_config([ARGUMENT])`, applies overrides and validates.

    Args:
      name_and_argument: a name in configs/ or a path, and the argument, such as "degradation:demo" or "mine.py".
      overrides: values by dotted names, strings or Python's.  "recipe" replaces the recipe that the file names; the
        file's own lines stay.

    Raises:
      UserError: no such file, no such field, or a value that cannot run.
    """
    overrides = dict(overrides or {})
    config = _as_written(name_and_argument, overrides.pop("recipe", ""))
    return apply(config, overrides)


def first_seed(name_and_argument: str, overrides: Mapping[str, Any]) -> int:
    """Returns the seed of a config that need not be one that can run, as a sweep may set what it lacks."""
    config = _as_written(name_and_argument, overrides.get("recipe", ""))
    return int(typed("seed", overrides.get("seed", config.get("seed", 0))))


def _as_written(name_and_argument: str, recipe: str) -> ConfigDict:
    """Returns what a config file's get_config() returns, with the command line's recipe if that is not ""."""
    name, _, argument = name_and_argument.partition(":")
    module = files.load(name, "configs")
    token = recipe_of_command.set(recipe)
    try:
        config = _call(module, name, "get_config", argument)
    finally:
        recipe_of_command.reset(token)
    if not isinstance(config, ConfigDict):
        raise UserError(f"{name}: get_config() returns {shown(config)}, not the config of base.get_config()")
    return config


def load_sweep(name_and_argument: str) -> list[dict[str, Any]] | None:
    """Returns what the config file's `sweep([ARGUMENT])` returns, one dictionary of overrides per arm; None without."""
    name, _, argument = name_and_argument.partition(":")
    module = files.load(name, "configs")
    if not hasattr(module, "sweep"):
        return None
    arms = _call(module, name, "sweep", argument)
    listed = list(arms) if isinstance(arms, Iterable) else [arms]
    if not all(isinstance(arm, Mapping) for arm in listed):
        raise UserError(f"{name}: sweep() returns {shown(arms)}, not a dictionary for each arm")
    return listed


def _call(module: ModuleType, name: str, function: str, argument: str) -> Any:
    """Calls a function of a config file; what fails there is shown with the place."""
    if not hasattr(module, function):
        raise UserError(f"{name}: defines no {function}()")
    try:
        return getattr(module, function)(*filter(None, [argument]))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise files.fault(Path(str(module.__file__)), error) from error


def apply(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a validated copy of `config` with `overrides` ({"model.depth": 56}, or strings) applied."""
    config = config.copy_and_resolve_references()
    values = flatten(config)
    for name, value in overrides.items():
        if name == "recipe" and value != config.recipe:
            raise UserError("config.recipe cannot be changed after the config file was read; use --config.recipe=NAME")
        if name not in values:
            raise UserError(f"config.{shown(str(name))[1:-1]} is not a field; {nearest(str(name), values)}")
    own = {name: typed(name, value) for name, value in {**values, **overrides}.items() if name in declared()}
    with config.ignore_type():
        config.update_from_flattened_dict(own)
    validate(config)
    config.lock()
    return config


def validate(config: ConfigDict) -> None:
    """Raises UserError, naming the field and the nearest valid choice, if the config cannot run."""
    values = flatten(config)
    for name, field in declared().items():
        if name not in values:
            raise UserError(f"config.{name} is missing; begin with configs/base.py")
        if fault := field.fault(values[name]):
            raise UserError(f"config.{name}={shown(values[name])} {fault}")
    for name in values:
        if name not in declared():
            raise UserError(f"config.{name} is not a field; {nearest(name, declared())}")
    for name in ("optim.boundaries", "model.auxiliary"):
        if list(values[name]) != sorted(set(values[name])):
            raise UserError(f"config.{name}={values[name]} must increase")
    if (warmup := config.optim.warmup_steps) >= (steps := config.train.steps):
        raise UserError(f"config.optim.warmup_steps={warmup} must be less than config.train.steps={steps}")
    data = config.data
    if data.mixup and data.cutmix:
        both = f"config.data.cutmix={data.cutmix} and config.data.mixup={data.mixup}"
        raise UserError(f"{both} exclude each other; set one")
    if data.cutout > data.image_size and data.source not in ("auto", "npz"):  # of which the files say the size
        raise UserError(f"config.data.cutout={data.cutout} must be at most config.data.image_size={data.image_size}")
    try:
        sources.check(data.name, data.source, data.path, data.image_size, data.stream)
        splits.check(data)
    except UserError as error:
        raise UserError(f"config.{error}") from None
    _validate_task(config)
    _validate_model(config)


def _validate_task(config: ConfigDict) -> None:
    """Raises UserError if the network's task and the data or the training do not go together."""
    family, source = config.model.family, config.data.source
    if config.model.module or MODELS[family].task == "classification":
        if source == "photographs":
            raise UserError("config.data.source='photographs' has no classes; it is for config.model.family='stylizer'")
        return
    if source != "photographs":
        raise UserError(f"config.data.source={source!r}: config.model.family={family!r} needs 'photographs'")
    if not config.data.styles:
        raise UserError(f"config.data.styles names no style; choices: {', '.join(declared()['data.styles'].names())}")
    values = flatten(config)
    for name, value in OF_STYLE.items():
        if values[name] != value:
            raise UserError(f"config.{name}={values[name]!r} must be {value!r} with config.model.family={family!r}")
    if "best" in config.train.keep:
        raise UserError(f"config.train.keep={config.train.keep}: config.model.family={family!r} has no test error")


def _validate_model(config: ConfigDict) -> None:
    """Raises UserError if there is no such network, or not for the config's batches."""
    model, size, batch = config.model, config.data.image_size, config.train.batch_size
    if config.train.probe_every and (model.module or model.family != "resnet"):
        other = f"model.module={model.module!r}" if model.module else f"model.family={model.family!r}"
        raise UserError(f"config.train.probe_every={config.train.probe_every}: only ResNets have probes, not {other}")
    if model.module:
        if not model.module.partition(":")[2]:
            raise UserError(f"config.model.module={model.module!r} names no class; write FILE.py:NAME")
        return
    try:
        network: Any = MODELS[model.family].configured(model)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from None
    try:
        network.check_image(size, size)
    except ValueError as error:
        raise UserError(f"config.data.image_size={size}: {error}") from None
    if model.unroll == "always" and (blocks := sum(getattr(network, "blocks", ()))) > MOST_UNROLLED:
        too_many = f"config.model.depth={model.depth} has {blocks:,}; choices: never, auto"
        raise UserError(f"config.model.unroll='always' is for at most {MOST_UNROLLED} blocks; {too_many}")
    if network.norm_spec.sub_batches > 1 and batch % (parts := model.norm_sub_batches):
        raise UserError(f"config.model.norm_sub_batches={parts} does not divide config.train.batch_size={batch}")
    weights, stages = config.optim.auxiliary_weights, len(model.auxiliary)
    if len(weights) not in (1, stages):
        wanted = f"one weight, or one for each of the {stages} stages of config.model.auxiliary"
        raise UserError(f"config.optim.auxiliary_weights={weights}: write {wanted}")


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))
