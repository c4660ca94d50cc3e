"""A cell: one network, dtype and norm, the weights and the batch that every contender gets, and normres as one."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from normres.configs import base
from normres.data import Dataset
from normres.interop.networks import network_from_torch, network_to_torch
from normres.models.resnet import ResNet, ResNetConfig
from normres.runs import config as configs
from normres.runs import machine
from normres.training.networks import model_config
from normres.training.programs import Programs

DTYPES = ("float32", "bfloat16")
NORMS = ("batch", "group", "layer", "instance")
LEARNING_RATE = 0.1

# Of the step that is timed beside others', whose batch is ready-made.
FIELDS = {
    "model.norm_groups": 8,
    "optim.schedule": "constant",
    "optim.learning_rate": LEARNING_RATE,
    "optim.hold_from_depth": 0,
    "data.source": "synthetic",
    "data.preprocess": "none",
    "data.augmentation": "none",
}


class Cell(NamedTuple):
    """What is timed at once; `width` is of the first stage, `batch` counts examples."""

    depth: int
    dtype: str
    norm: str
    batch: int
    width: int

    def config(self, fields: Mapping[str, Any] = FIELDS) -> ConfigDict:
        """Returns the recipe he2015 with these fields and the cell's; a network that there is not is a UserError."""
        own = {"model.depth": self.depth, "model.width": self.width, "model.norm": self.norm}
        own |= {"train.batch_size": self.batch, "train.eval_batch_size": self.batch, "train.dtype": self.dtype}
        return configs.apply(base.get_config("he2015"), {**fields, **own})

    def model(self) -> ResNetConfig:
        """Returns the network's config, as on no device in particular."""
        return model_config(self.config(), 10, self.dtype)

    def spec(self) -> dict[str, Any]:
        """Returns what a contender must know besides weights and batch, as JSON."""
        optim, model = self.config().optim, self.model()
        return {
            **self._asdict(),
            **{key: optim[key] for key in ("learning_rate", "momentum", "weight_decay")},
            "blocks": list(model.blocks),
            "classes": model.classes,
            "groups": FIELDS["model.norm_groups"],
            "epsilon": model.norm_epsilon,
            "kept": model.norm_momentum,  # share of the old running average
        }


def arrays(cell: Cell) -> dict[str, np.ndarray]:
    """Returns "images", "labels" and "weights/NAME" in PyTorch's names and layout, the same at every call.

    Kernels are drawn as He et al. 2015 do; scales, biases and running statistics are no ones and zeros, under which
    a contender that forgets them would not show.  The last scale of each branch is small, or rounding errors would grow
    from block to block until the gradients of a deep network's first layers were nothing else.
    """
    model, random = cell.model(), np.random.default_rng(0)
    images = random.integers(0, 256, (cell.batch, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, cell.batch, np.int32)
    small = 1 / math.sqrt(sum(model.blocks))

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var"):
            drawn = random.uniform(0.5, 1.0, shape) * (small if path[-2].key == "norm2" else 1)
        elif name == "kernel":
            gain = 2 if len(shape) > 2 else 1  # a ReLU follows all but the classifier
            drawn = random.standard_normal(shape) * math.sqrt(gain / math.prod(shape[-4:-1]))
        else:
            drawn = 0.1 * random.standard_normal(shape)
        return drawn.astype(np.float32)

    shapes = jax.eval_shape(ResNet(model).init, jax.random.key(0), images[:1].astype(np.float32))
    weights = network_to_torch(jax.tree_util.tree_map_with_path(draw, shapes), model)
    return {"images": images, "labels": labels} | {f"weights/{key}": array for key, array in weights.items()}


def build(
    spec: dict[str, Any],
    weights: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    fields: Mapping[str, Any] | None = None,
) -> SimpleNamespace:
    """Makes the programs of a run with a cell's config and `fields`, whose network has the weights; see serve.Timed.

    They are of as many steps as a run lets them have.
    """
    cell = Cell(**{name: spec[name] for name in Cell._fields})
    config, devices = configs.apply(cell.config(), fields or {}), jax.devices()[:1]
    data = Dataset("cifar10", "random", images, labels, images, labels, tuple("abcdefghij"))
    run = Programs(config, data, cell.dtype, devices, ops=machine.operations(config.train.ops, devices)[0])
    variables = {"batch_stats": {}} | network_from_torch(weights, run.model)
    state = replace(run.initial_state(), **jax.device_put(variables, run.replicated, may_alias=False))
    machine.return_freed_memory()
    done = 0

    def train(count: int) -> float:
        nonlocal state, done
        if not done:
            run.compile()
            machine.return_freed_memory()
        until = done + count
        while done < until:
            steps = min(run.steps_per_program, until - done)
            state, metrics = run.train(state, done, steps)
            done += steps
        jax.block_until_ready(state)
        return float(metrics["loss"][steps - 1])

    def state_dict() -> dict[str, np.ndarray]:
        whole = run.together(state)
        return network_to_torch(jax.device_get({"params": whole.params, "batch_stats": whole.batch_stats}), run.model)

    return SimpleNamespace(train=train, state_dict=state_dict, most=run.steps_per_program)
