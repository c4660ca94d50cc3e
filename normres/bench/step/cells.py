"""A cell: one network, dtype and norm, the weights and the batch that every contender gets, and what a step costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from normres.bench.compile import random_data
from normres.data import Dataset
from normres.errors import UserError
from normres.interop.networks import network_to_torch
from normres.models.resnet import ResNet, ResNetConfig
from normres.models.variants import stage_blocks
from normres.runs import config as configs
from normres.show.count import count
from normres.training.programs import model_config

DEPTHS = (20, 56, 110)
DTYPES = ("float32", "bfloat16")
NORMS = ("batch", "group", "layer", "instance")
GROUPS = 8  # of group norm
LEARNING_RATE = 0.1
PARAMETER_PASSES = 4  # read the parameters and the momentum, write both


@dataclass(frozen=True)
class Cell:
    """What is timed at once; `width` is of the first stage, `batch` counts examples."""

    depth: int
    dtype: str
    norm: str
    batch: int
    width: int

    @property
    def title(self) -> str:
        """For people."""
        return f"ResNet-{self.depth}, {self.dtype}, {self.norm} norm"

    def config(self) -> ConfigDict:
        """Returns the config of a run with this step.

        Raises:
          UserError: there is no such network.
        """
        return configs.apply(
            base.get_config("he2015"),
            {
                "model.depth": self.depth,
                "model.width": self.width,
                "model.norm": self.norm,
                "model.norm_groups": GROUPS,
                "train.batch_size": self.batch,
                "train.eval_batch_size": self.batch,
                "train.dtype": self.dtype,
                "optim.schedule": "constant",
                "optim.learning_rate": LEARNING_RATE,
                "optim.hold_from_depth": 0,
                "data.source": "synthetic",
                "data.preprocess": "none",
                "data.augmentation": "none",
            },
        )

    def data(self) -> Dataset:
        """Returns one batch as a whole data set, so that every step sees the same examples."""
        return random_data(self.batch)

    def model(self) -> ResNetConfig:
        """Returns the network's config, as on no device in particular."""
        return model_config(self.config(), len(self.data().class_names), self.dtype)

    def spec(self) -> dict[str, Any]:
        """Returns what a contender must know besides weights and batch, as JSON."""
        config, model = self.config(), self.model()
        return {
            "depth": self.depth,
            "dtype": self.dtype,
            "norm": self.norm,
            "batch": self.batch,
            "width": self.width,
            "blocks": list(model.blocks),
            "classes": model.classes,
            "groups": GROUPS,
            "epsilon": model.norm_epsilon,
            "kept": model.norm_momentum,  # share of the old running average
            "learning_rate": config.optim.learning_rate,
            "momentum": config.optim.momentum,
            "weight_decay": config.optim.weight_decay,
        }


def chosen_cells(
    depths: Sequence[int], dtypes: Sequence[str], norms: Sequence[str] | None, batch: int, width: int
) -> list[Cell]:
    """Returns the cells; without `norms`, batch norm at every depth and the other norms at the first one only.

    Raises:
      UserError: an option names a network that there is not.
    """
    for name, number in (("batch", batch), ("width", width)):
        if number < 1:
            raise UserError(f"--{name}={number} must be at least 1")
    for depth in depths:
        try:
            stage_blocks("cifar", "basic", depth)
        except ValueError as error:
            raise UserError(f"--depths={','.join(map(str, depths))}: {depth} {error}") from None
    pairs = [(norm, depth) for norm in norms or NORMS for depth in depths]
    if norms is None:
        pairs = [(norm, depth) for norm, depth in pairs if norm == "batch" or depth == depths[0]]
    if width % GROUPS and any(norm == "group" for norm, _ in pairs):
        raise UserError(f"--width={width}: group norm has {GROUPS} groups, which must divide it; or choose --norms")
    return [Cell(depth, dtype, norm, batch, width) for norm, depth in pairs for dtype in dtypes]


def arrays(cell: Cell) -> dict[str, np.ndarray]:
    """Returns "images", "labels" and "weights/NAME" in PyTorch's names and layout, the same at every call.

    Kernels are drawn as He et al. 2015 do; scales, biases and running statistics are no ones and zeros, under which
    a contender that forgets them would not show.  The last scale of each branch is small, or rounding errors would grow
    from block to block until the gradients of a deep network's first layers were nothing else.
    """
    model, data = cell.model(), cell.data()
    small = 1 / math.sqrt(sum(model.blocks))
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        match path[-1].key:
            case "kernel":
                fan_in = math.prod(leaf.shape[-4:-1]) if len(leaf.shape) > 2 else leaf.shape[0]
                gain = 2 if len(leaf.shape) > 2 else 1  # a ReLU follows all but the classifier
                drawn = random.standard_normal(leaf.shape) * math.sqrt(gain / fan_in)
            case "scale" | "var":
                drawn = random.uniform(0.5, 1.0, leaf.shape)
                drawn *= small if path[-2].key == "norm2" else 1
            case _:
                drawn = 0.1 * random.standard_normal(leaf.shape)
        return drawn.astype(np.float32)

    shapes = jax.eval_shape(ResNet(model).init, jax.random.key(0), data.train_images[:1].astype(np.float32))
    weights = network_to_torch(jax.tree_util.tree_map_with_path(draw, shapes), model)
    named = {f"weights/{name}": array for name, array in weights.items()}
    return {"images": np.asarray(data.train_images), "labels": data.train_labels, **named}


@dataclass(frozen=True)
class Work:
    """What a step costs at least, whoever computes it.

    Attributes:
      multiply_adds: of convolutions and the classifier: forward, and twice as many backward.
      bytes: moved if only this counts: what the backward pass needs of the activations, written once and read once,
        and parameters and momentum, read once and written once.
    """

    multiply_adds: int
    bytes: int


def work(cell: Cell) -> Work:
    """Counts on the network itself, by the methods of `normres show`."""
    counts = count(ResNet(cell.model()))
    return Work(
        3 * cell.batch * counts.multiply_adds,
        2 * cell.batch * counts.kept_bytes + 4 * PARAMETER_PASSES * counts.parameters,
    )
