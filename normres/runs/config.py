"""Configs: load a file, apply overrides, reject what cannot run, and name a config by its content."""

import ast
import hashlib
import json
from typing import Any, get_args, get_type_hints

from ml_collections import ConfigDict

from normres import norms
from normres.data import augment, corruptions, lazy, preprocess, sources, splits
from normres.errors import UserError, nearest
from normres.models import variants
from normres.norms import kernels as weights
from normres.runs import machine
from normres.runs.config_files import load_module
from normres.runs.recipes import apply_recipe
from normres.training import optim

CHOICES: dict[str, tuple[str, ...]] = {
    "model.shortcut": tuple(variants.SHORTCUTS),
    "model.layout": tuple(variants.LAYOUTS),
    "model.block": tuple(variants.BRANCHES),
    "model.stride_at": ("first", "3x3"),
    "model.padding": ("end", "both"),
    "model.order": tuple(variants.ORDERS),
    "model.remat": (*variants.REMAT, "auto"),
    "model.unroll": ("never", "always", "auto"),
    "model.norm_average": get_args(get_type_hints(norms.Average)["kind"]),
    "model.weights": tuple(weights.TABLE),
    "model.residual_scale": tuple(variants.RESIDUAL_SCALES),
    "data.source": tuple(sources.SOURCES),
    "data.stream": lazy.STREAM,
    "data.evaluate_on": splits.EVALUATE_ON,
    "data.preprocess": preprocess.KINDS,
    "data.augmentation": tuple(augment.AUGMENTATIONS),
    "data.padding": tuple(augment.PADDINGS),
    "optim.schedule": tuple(optim.SCHEDULES),
    "optim.auxiliary_decay": ("linear", "none"),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "train.parallel": ("jit", "pmap"),
    "train.ops": machine.OPS,
}

# Fields that are lists of names, and the names.
NAMES: dict[str, tuple[str, ...]] = {"data.corruptions": tuple(corruptions.CORRUPTIONS)}

# Smallest value allowed, by field.
MINIMUM: dict[str, float] = {
    "seed": 0,
    "seeds.initialization": -1,
    "seeds.order": -1,
    "seeds.augmentation": -1,
    "seeds.dropout": -1,
    "model.width": 1,
    "model.inner_width": 0,
    "model.stem_width": 0,
    "model.cardinality": 1,
    "model.squeeze": 0,
    "model.dropout": 0,
    "model.stochastic_depth": 0,
    "optim.clip_factor": 0,
    "data.cutout": 0,
    "data.mixup": 0,
    "data.cutmix": 0,
    "data.corruption_seed": 0,
    "model.norm_groups": 1,
    "model.norm_sub_batches": 1,
    "model.norm_epsilon": 0,
    "optim.learning_rate": 0,
    "optim.weight_decay": 0,
    "optim.warmup_steps": 0,
    "optim.hold_from_depth": 0,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.eval_batch_size": 1,
    "train.seeds_per_program": 1,
    "train.steps_per_program": 0,
    "train.log_every": 1,
    "train.eval_every": 1,
    "train.checkpoint_every": 1,
}


def load(path_and_argument: str, overrides: dict[str, Any] | None = None) -> ConfigDict:
    """Loads `FILE.py` or `FILE.py:ARGUMENT` through its `get_config([ARGUMENT])`, applies overrides, validates.

    Raises:
      UserError: no such file, no such field, or a value that cannot run.
    """
    path, _, argument = path_and_argument.partition(":")
    module = load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: defines no get_config()")
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}".splitlines()[0]) from error
    return apply(config, overrides or {})


def load_sweep(path_and_argument: str) -> list[dict[str, Any]]:
    """Returns the arms of the config file's `sweep([ARGUMENT])`: one dictionary of overrides per arm."""
    path, _, argument = path_and_argument.partition(":")
    module = load_module(path)
    if not hasattr(module, "sweep"):
        raise UserError(f"{path}: defines no sweep(); `normres train` runs a single config")
    return list(module.sweep(argument) if argument else module.sweep())


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the config flattened: `{"model.depth": 20, ...}`."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        flat |= fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value}
    return flat


def apply(config: ConfigDict, overrides: dict[str, Any]) -> ConfigDict:
    """Returns a validated copy of `config` with `overrides` (`{"model.depth": 56}` or strings) applied.

    `recipe` is applied first, so that the other overrides are changes to the recipe.
    """
    config = config.copy_and_resolve_references()
    config.unlock()
    known = fields(config)
    for name in sorted(overrides, key=lambda name: name != "recipe"):
        if name not in known:
            raise UserError(f"config.{name} is not a field; {nearest(name, known)}")
        value = _coerce(name, overrides[name], known[name])
        if name == "recipe":
            apply_recipe(config, value)
        else:
            section, _, key = name.rpartition(".")
            (config[section] if section else config)[key] = value
    validate(config)
    config.lock()
    return config


def _coerce(name: str, value: Any, current: Any) -> Any:
    """Converts a command-line string, or checks a Python value, to the type of the field's current value."""
    kind = type(current)
    try:
        if kind is str:
            if isinstance(value, str):
                return value
        elif kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False}[str(value).lower()]
        elif name in NAMES:
            parts = value.strip("() ").split(",") if isinstance(value, str) else value
            return tuple(dict.fromkeys(text for part in parts if (text := part.strip(" '\""))))
        elif kind is tuple:
            parsed = ast.literal_eval(value) if isinstance(value, str) else value
            number = float if any(isinstance(item, float) for item in current) else int
            return tuple(number(item) for item in (parsed if isinstance(parsed, tuple | list) else (parsed,)))
        elif kind is int and not isinstance(value, bool | float):
            return int(str(value).replace("_", ""))
        elif kind is float and not isinstance(value, bool):
            return float(value)
    except (ValueError, KeyError, SyntaxError, TypeError, AttributeError):
        pass
    if name in NAMES:
        raise UserError(f"config.{name}={value!r} is not a list of names; choices: {', '.join(NAMES[name])}")
    if name in CHOICES:
        raise UserError(f"config.{name}={value!r} does not exist; {nearest(str(value), CHOICES[name])}")
    wanted = {bool: "true or false", tuple: "integers, such as 100,200", int: "an integer", float: "a number"}
    raise UserError(f"config.{name}={value!r} is not {wanted.get(kind, 'a text')}")


def validate(config: ConfigDict) -> None:
    """Raises UserError, naming the field and the nearest valid choice, if the config cannot run."""
    flat = fields(config)
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            raise UserError(f"config.{name}={flat[name]!r} does not exist; {nearest(flat[name], choices)}")
    for name, choices in NAMES.items():
        if wrong := [text for text in flat[name] if text not in choices]:
            raise UserError(f"config.{name}: {wrong[0]!r} does not exist; {nearest(wrong[0], choices)}")
    for name, least in MINIMUM.items():
        if not flat[name] >= least:
            raise UserError(f"config.{name}={flat[name]} must be at least {least}")
    for name in ("optim.momentum", "model.norm_momentum", "optim.hold_until_error", "data.cutmix_probability"):
        if not 0 <= flat[name] <= 1:
            raise UserError(f"config.{name}={flat[name]} must lie between 0 and 1")
    if list(config.optim.boundaries) != sorted(set(config.optim.boundaries)):
        raise UserError(f"config.optim.boundaries={config.optim.boundaries} must increase")
    _validate_model(config)
    data = config.data
    if data.mixup and data.cutmix:
        raise UserError(
            f"config.data.cutmix={data.cutmix} and config.data.mixup={data.mixup} exclude each other; set one to 0"
        )
    if data.cutout > data.image_size:
        raise UserError(f"config.data.cutout={data.cutout} must be at most config.data.image_size={data.image_size}")
    try:
        sources.check(data.name, data.source, data.path, data.image_size, data.stream)
        splits.check(**{name: data[name] for name in splits.FIELDS})
    except UserError as error:
        raise UserError(f"config.{error}") from None


def _validate_model(config: ConfigDict) -> None:
    """Raises UserError if there is no such network, or not for the config's batches."""
    model = config.model
    try:
        stages = len(variants.stage_blocks(model.layout, model.block, model.depth))
    except ValueError as error:
        raise UserError(f"config.model.depth={model.depth} {error}") from None
    for name in ("dropout", "stochastic_depth"):
        if not model[name] < 1:
            raise UserError(f"config.model.{name}={model[name]} is a probability and must be below 1")
    if wrong := [stage for stage in model.auxiliary if not 1 <= stage < stages]:
        inner = ", ".join(map(str, range(1, stages)))
        raise UserError(
            f"config.model.auxiliary={model.auxiliary}: there is no inner stage {wrong[0]}; choices: {inner}"
        )
    weights_given = config.optim.auxiliary_weights
    if len(weights_given) not in (1, len(model.auxiliary)) or min(weights_given) < 0:
        raise UserError(
            f"config.optim.auxiliary_weights={weights_given}: write one weight, or one for each of the "
            f"{len(model.auxiliary)} stages of config.model.auxiliary, none below 0"
        )
    kernels = variants.BRANCHES[model.block].kernels
    if model.cardinality > 1 and not any(size > 1 for size in kernels[1:-1]):
        raise UserError(f"config.model.cardinality={model.cardinality} needs config.model.block='bottleneck'")
    _must_divide("model.cardinality", model.cardinality, "inner_width" if model.inner_width else "width", model)
    try:
        spec = norms.find_spec(model.norm, model.norm_groups, model.norm_sub_batches)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from None
    try:
        for over in spec.reductions:
            norms.reduction_axes(over, ndim=4)
    except ValueError as error:
        raise UserError(f"config.model.norm: {error}") from None
    if spec.sub_batches > 1 and config.train.batch_size % model.norm_sub_batches:
        raise UserError(
            f"config.model.norm_sub_batches={model.norm_sub_batches} does not divide "
            f"config.train.batch_size={config.train.batch_size}"
        )
    if spec.groups > 1:
        for width in ("width", "inner_width", "stem_width"):
            _must_divide("model.norm_groups", model.norm_groups, width, model)


def _must_divide(name: str, value: int, width: str, model: ConfigDict) -> None:
    """Raises UserError, with the nearest divisor, unless `value` divides the model's `width`."""
    if model[width] % value:
        divisors = [g for g in range(1, model[width] + 1) if model[width] % g == 0]
        near = min(divisors, key=lambda g: abs(g - value))
        raise UserError(
            f"config.{name}={value} does not divide config.model.{width}={model[width]}; "
            f"did you mean {near}? choices: {', '.join(map(str, divisors))}"
        )


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def digest(config: ConfigDict | dict[str, Any]) -> str:
    """Returns 8 hexadecimal digits that depend on the config's content only, not on its order."""
    plain = to_dict(config) if isinstance(config, ConfigDict) else config
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
