"""The network of a config: of a family of this project, or a Flax module of the user's."""

import inspect
from dataclasses import MISSING, replace
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from normres import files
from normres.errors import UserError
from normres.layers import PLAIN, Ops
from normres.models import MODELS
from normres.training.platforms import NARROW, UNKNOWN, Platform

# Compiling unrolled blocks takes up to a third of a second more for each: about 350 steps of width 16 win it back
# (docs/accelerators.md).
UNROLLED_STEPS = 400  # a run has at least
UNROLLED_BLOCKS = 60  # a network has at most: beyond, the compiler's memory exceeds the step's


def of_run(config: ConfigDict, classes: int, dtype: str) -> dict[str, Any]:
    """Returns a network's fields that are not in config.model; `axis_name`: the device axis over which norms merge."""
    merged = config.train.parallel == "pmap" and config.train.sync_batch_norm
    return {"classes": classes, "dtype": jnp.dtype(dtype), "axis_name": "data" if merged else None}


def model_config(config: ConfigDict, classes: int, dtype: str, platform: Platform = UNKNOWN, ops: Ops = PLAIN) -> Any:
    """Returns the NetworkConfig of a run that trains on devices of `platform`, which says what "auto" is.

    Other ops than PLAIN choose what to keep.
    """
    fields = {**config.model}
    if fields["remat"] == "auto":
        of_plain = platform.remat_of_narrow if config.model.width <= NARROW else "loops"
        fields["remat"] = of_plain if ops is PLAIN else "nothing"
    model: Any = MODELS[config.model.family].configured(fields, **of_run(config, classes, dtype))
    if not hasattr(model, "unrolled"):
        return model
    long = config.train.steps >= UNROLLED_STEPS and sum(model.blocks) <= UNROLLED_BLOCKS
    unroll = config.model.unroll
    return replace(model, unrolled=unroll == "always" or (unroll == "auto" and platform.unrolls and long))


class UserNetwork(nn.Module):
    """A user's Flax module, (images_NHWC, train) -> logits_NK, with `train` as a field, as this project's have it."""

    module: nn.Module
    train: bool = False

    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Returns logits_NK."""
        return self.module(images_NHWC, train=self.train)


def build_network(
    config: ConfigDict, classes: int, dtype: str, platform: Platform = UNKNOWN, ops: Ops = PLAIN
) -> nn.Module:
    """Returns the network of a run, in evaluation mode; see model_config.

    Raises:
      UserError: the user's module does not exist, does not take `classes`, or `train` when it is called, or needs more.
    """
    if not config.model.module:
        model = model_config(config, classes, dtype, platform, ops)
        return MODELS[config.model.family].module(model, ops=platform.plain if ops is PLAIN else ops)
    wanted = user_module(config.model.module)
    fields = getattr(wanted, "__dataclass_fields__", {})
    if "classes" not in fields:
        raise UserError(f"config.model.module={config.model.module!r}: the module has no field `classes`")
    arguments = inspect.signature(wanted.__call__).parameters.values()
    if not any(argument.name == "train" or argument.kind is argument.VAR_KEYWORD for argument in arguments):
        raise UserError(f"config.model.module={config.model.module!r}: its __call__ has no argument `train`")
    known = of_run(config, classes, dtype)
    needed = [name for name, one in fields.items() if one.default is MISSING and one.default_factory is MISSING]
    if lacking := [name for name in needed if name not in known]:
        raise UserError(f"config.model.module={config.model.module!r}: its field {lacking[0]!r} needs a default value")
    return UserNetwork(wanted(**{name: value for name, value in known.items() if name in fields}))


def check_outputs(
    config: ConfigDict, network: nn.Module, variables: Any, image_shape: tuple[int, ...], classes: int
) -> None:
    """Raises UserError if a user's module has no float32 parameters or does not return logits_NK.

    `variables` may be shapes.
    """
    if not config.model.module:
        return
    reference = f"config.model.module={config.model.module!r}"
    parameters = jax.tree.leaves_with_path(variables["params"])
    if not parameters:
        raise UserError(f"{reference} has no parameters, so there is nothing to train")
    for path, leaf in parameters:
        if leaf.dtype != jnp.float32:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UserError(f"{reference}: its parameter {name} is {leaf.dtype}; parameters must be float32")
    images, key = jax.ShapeDtypeStruct((1, 2, *image_shape), jnp.float32), jax.random.key(0)
    for train in (False, True):
        call = partial(network.clone(train=train).apply, mutable=["batch_stats"], rngs={"dropout": key})
        # Of one device, on the axis over which norms may merge.
        (outputs, _) = jax.eval_shape(jax.vmap(call, (None, 0), axis_name="data"), variables, images)
        shape, dtype = getattr(outputs, "shape", None), getattr(outputs, "dtype", int)
        if shape != (1, 2, classes) or not jnp.issubdtype(dtype, jnp.floating):
            returned = f"an array {shape[1:]} of {dtype}" if shape is not None else f"a {type(outputs).__name__}"
            wanted = f"it must be logits {(2, classes)}, a number for each of the {classes} classes"
            when = "in training" if train else "in evaluation"
            raise UserError(f"{reference} returns {returned} for 2 images {when}; {wanted}")


@cache
def user_module(reference: str) -> type[nn.Module]:
    """Returns the class that FILE.py:NAME names; one object each, so that equal runs share compiled programs."""
    file, _, name = reference.rpartition(":")
    wanted = getattr(files.load(file), name, None)
    if not (isinstance(wanted, type) and issubclass(wanted, nn.Module)):
        raise UserError(f"config.model.module={reference!r}: {file} has no Flax module {name!r}")
    return wanted


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
