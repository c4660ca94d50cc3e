"""Configs: load a file, apply overrides, reject what cannot run, and name a config by its content."""

import ast
import hashlib
import json
from typing import Any, get_args, get_type_hints

from ml_collections import ConfigDict

from normres import norms, optim, variants, weights
from normres.config_files import load_module
from normres.data import sources
from normres.errors import UserError, nearest
from normres.recipes import apply_recipe

CHOICES: dict[str, tuple[str, ...]] = {
    "model.shortcut": tuple(variants.SHORTCUTS),
    "model.layout": tuple(variants.LAYOUTS),
    "model.block": tuple(variants.BRANCHES),
    "model.stride_at": ("first", "3x3"),
    "model.padding": ("end", "both"),
    "model.order": tuple(variants.ORDERS),
    "model.norm_average": get_args(get_type_hints(norms.Average)["kind"]),
    "model.weights": tuple(weights.TABLE),
    "model.residual_scale": tuple(variants.RESIDUAL_SCALES),
    "data.name": ("cifar10", "cifar100"),
    "data.source": tuple(sources.SOURCES),
    "data.augmentation": ("crop_flip", "none"),
    "data.subtract": ("pixel_mean", "channel_mean", "none"),
    "optim.schedule": tuple(optim.SCHEDULES),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "train.parallel": ("jit", "pmap"),
}

# Smallest value allowed, by field.
MINIMUM: dict[str, float] = {
    "seed": 0,
    "model.width": 1,
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
    except (KeyError, AttributeError) as error:
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
        elif kind is tuple:
            parsed = ast.literal_eval(value) if isinstance(value, str) else value
            return tuple(int(item) for item in (parsed if isinstance(parsed, tuple | list) else (parsed,)))
        elif kind is int and not isinstance(value, bool | float):
            return int(str(value).replace("_", ""))
        elif kind is float and not isinstance(value, bool):
            return float(value)
    except (ValueError, KeyError, SyntaxError, TypeError):
        pass
    wanted = {bool: "true or false", tuple: "integers, such as 100,200", int: "an integer", float: "a number"}
    raise UserError(f"config.{name}={value!r} is not {wanted.get(kind, 'a text')}")


def validate(config: ConfigDict) -> None:
    """Raises UserError, naming the field and the nearest valid choice, if the config cannot run."""
    flat = fields(config)
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            raise UserError(f"config.{name}={flat[name]!r} does not exist; {nearest(flat[name], choices)}")
    for name, least in MINIMUM.items():
        if not flat[name] >= least:
            raise UserError(f"config.{name}={flat[name]} must be at least {least}")
    for name in ("optim.momentum", "model.norm_momentum", "optim.hold_until_error"):
        if not 0 <= flat[name] <= 1:
            raise UserError(f"config.{name}={flat[name]} must lie between 0 and 1")
    if list(config.optim.boundaries) != sorted(set(config.optim.boundaries)):
        raise UserError(f"config.optim.boundaries={config.optim.boundaries} must increase")
    try:
        variants.stage_blocks(config.model.layout, config.model.block, config.model.depth)
    except ValueError as error:
        raise UserError(f"config.model.depth={config.model.depth} {error}") from None
    try:
        spec = norms.find_spec(config.model.norm)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from None
    try:
        for over in spec.reductions:
            norms.reduction_axes(over, ndim=4)
    except ValueError as error:
        raise UserError(f"config.model.norm: {error}") from None
    if spec.divided and config.train.batch_size % config.model.norm_sub_batches:
        raise UserError(
            f"config.model.norm_sub_batches={config.model.norm_sub_batches} does not divide "
            f"config.train.batch_size={config.train.batch_size}"
        )
    if spec.grouped and config.model.width % config.model.norm_groups:
        divisors = [g for g in range(1, config.model.width + 1) if config.model.width % g == 0]
        near = min(divisors, key=lambda g: abs(g - config.model.norm_groups))
        raise UserError(
            f"config.model.norm_groups={config.model.norm_groups} does not divide "
            f"config.model.width={config.model.width}; did you mean {near}? choices: {', '.join(map(str, divisors))}"
        )
    if config.data.source == "binary" and not config.data.path:
        raise UserError("config.data.path is empty; data.source='binary' needs the folder or tar.gz of official files")


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def digest(config: ConfigDict | dict[str, Any]) -> str:
    """Returns 8 hexadecimal digits that depend on the config's content only, not on its order."""
    plain = to_dict(config) if isinstance(config, ConfigDict) else config
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
