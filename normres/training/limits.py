"""Configs that cannot run with these data and devices: a line names the fields, before memory is allocated."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from normres.data import Dataset
from normres.data.lazy import device_memory
from normres.errors import UserError


def refuse_data(config: ConfigDict, model: Any, dataset: Dataset, devices: int) -> None:
    """Raises UserError if the network does not suit the data or the devices; see refuse_large_state."""
    size = min(dataset.train_images.shape[1:3])
    if (cutout := config.data.cutout) > size:
        raise UserError(f"config.data.cutout={cutout} is larger than the images, which have {size} pixels a side")
    if model is None:
        return
    try:
        model.check_image(*dataset.train_images.shape[1:3])
    except ValueError as error:
        raise UserError(f"config.data.source={config.data.source!r}: {error}") from None
    batch = config.train.batch_size
    share = batch // devices
    if config.train.parallel == "pmap" and share % model.norm_spec.sub_batches:
        raise UserError(
            f"config.model.norm_sub_batches={model.norm_sub_batches} does not divide the {share} examples of "
            f"config.train.batch_size={batch} that config.train.parallel='pmap' gives each device"
        )


def refuse_large_batch(config: ConfigDict, examples: int) -> None:
    """Raises UserError if a batch has more images than there are training examples."""
    if (batch := config.train.batch_size) > examples:
        raise UserError(
            f"config.train.batch_size={batch} is larger than the training set of {examples:,} images, "
            f"config.data.source={config.data.source!r}"
        )


def refuse_large_state(config: ConfigDict, state: Any, data: Any, image_shape: tuple[int, ...], model: Any) -> None:
    """Raises UserError if state, `data` and the largest activation exceed a device's memory.

    `image_shape` is (H, W, C); `model` is None for a user's module, of whose activations nothing is known.
    """
    stages = model.stages if model else ()
    # Of a batch, the pixels as float32 and the largest activation as bfloat16.
    pixels = math.prod(image_shape[:2])
    example = 4 * math.prod(image_shape) + max((2 * channels * pixels // by**2 for channels, by in stages), default=0)
    field = max(("batch_size", "eval_batch_size"), key=lambda name: config.train[name])
    parts = {
        f"config.model.width={config.model.width}, config.model.depth={config.model.depth}: parameters": (
            size_of(state) + size_of(state.params)  # and their gradients
        ),
        f"config.data.source={config.data.source!r}: images of {image_shape[0]}x{image_shape[1]} pixels": size_of(data),
        f"config.train.{field}={config.train[field]}: activations": config.train[field] * example // jax.device_count(),
    }
    _refuse(parts, device_memory())


def refuse_large_program(config: ConfigDict, program: jax.stages.Compiled) -> None:
    """Raises UserError if the compiled training step takes more than a device's memory."""
    if needs := program.memory_analysis():
        model, batch = config.model, config.train.batch_size
        what = f"config.train.batch_size={batch}, config.model.depth={model.depth}, config.model.width={model.width}"
        held = needs.argument_size_in_bytes
        _refuse({f"{what}: activations": needs.temp_size_in_bytes, "parameters and images": held}, device_memory())


def _refuse(parts: dict[str, int], memory: int) -> None:
    """Raises UserError, naming the largest part, if the parts take more bytes than the memory has."""
    if (total := sum(parts.values())) > memory:
        what = max(parts, key=lambda name: parts[name])
        raise UserError(
            f"{what} take {parts[what] / 1e9:,.1f} GB, the run {total / 1e9:,.1f} GB or more; a device here has "
            f"{memory / 1e9:,.1f} GB"
        )


def size_of(tree: Any) -> int:
    """Returns the bytes of all arrays of a tree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
