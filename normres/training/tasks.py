"""Tasks: the inputs of a network, and its losses.  A family of networks names its task."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from normres.layers import PLAIN, Ops
from normres.models import MODELS
from normres.training import perceptual
from normres.training.losses import LOSSES
from normres.training.metrics import METRICS

Losses = dict[str, jax.Array]


class Task(NamedTuple):
    """A task.

    Attributes:
      inputs: (images, labels, data) -> what the network is called with.
      losses: (config, ops, data, images, outputs, labels) -> losses (N,) by name; "loss" is what is minimized.
      names: of the losses; empty if the outputs are logits (METRICS apply).
      arrays: what the losses read of `data` besides the data set, by name.
    """

    inputs: Callable[..., tuple[jax.Array, ...]]
    losses: Callable[..., Losses]
    names: tuple[str, ...] = ()
    arrays: Callable[[], dict[str, Any]] = dict

    @property
    def has_classes(self) -> bool:
        """Whether outputs are logits, so that there are errors."""
        return not self.names

    @property
    def measured(self) -> list[str]:
        """The names of what is measured of examples."""
        return [*self.names] or [name for name, metric in METRICS.items() if metric.of == "examples"]


def loss_of(config: ConfigDict) -> Callable[..., jax.Array]:
    """Returns the config's loss, (logits_NK, labels_N) -> losses_N."""
    return partial(LOSSES[config.optim.loss], smoothing=config.optim.label_smoothing)


def _of_logits(config: ConfigDict, _ops: Ops, _data: Any, _images: Any, logits: jax.Array, labels: jax.Array) -> Losses:
    return {"loss": loss_of(config)(logits, labels)}


def _of_pictures(
    config: ConfigDict, ops: Ops, data: dict[str, Any], images: jax.Array, outputs: jax.Array, labels: jax.Array
) -> Losses:
    """Johnson, Alahi, Fei-Fei 2016: content loss + weight * style loss."""
    network = data["loss_network"]
    of_output, of_image, of_styles = (
        perceptual.features(network, pictures, ops) for pictures in (outputs, images, as_floats(data["styles"]))
    )
    content = perceptual.content_loss(of_output, of_image)
    style = perceptual.style_loss(of_output, of_styles, labels)
    return {"loss": content + config.optim.style_weight * style, "content_loss": content, "style_loss": style}


def as_floats(pictures: jax.Array) -> jax.Array:
    """Returns uint8 pictures as float32 from 0 to 1."""
    return pictures.astype("float32") / 255


TASKS: dict[str, Task] = {
    "classification": Task(lambda images, labels, data: (images,), _of_logits),
    "stylization": Task(
        lambda images, labels, data: (images, labels, as_floats(data["styles"])[labels]),
        _of_pictures,
        ("loss", "content_loss", "style_loss"),
        lambda: {"loss_network": perceptual.loss_network()},
    ),
}


def ops_of(network: Any) -> Ops:
    """Returns a network's operations; those of a user's own module are plain JAX."""
    return getattr(network, "ops", PLAIN)


def task_of(config: ConfigDict) -> Task:
    """Returns the task of the config's network; a user's own module classifies."""
    return TASKS["classification" if config.model.module else MODELS[config.model.family].task]
