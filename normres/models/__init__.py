"""Networks: one block in which depth, order, shortcut, branch and norm are values; and a plain stack, VGG."""

from typing import Any, NamedTuple

from normres.models.network import Network, NetworkConfig
from normres.models.resnet import Block, ResNet
from normres.models.variants import BRANCHES, LAYOUTS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig
from normres.models.vgg import VGG, VGGConfig

__all__ = [
    "BRANCHES",
    "LAYOUTS",
    "MODELS",
    "ORDERS",
    "RESIDUAL_SCALES",
    "SHORTCUTS",
    "VGG",
    "Block",
    "Network",
    "NetworkConfig",
    "ResNet",
    "ResNetConfig",
    "VGGConfig",
]


class Family(NamedTuple):
    """A family of networks: its config, whose fields are the family's fields of config.model, and its Flax module."""

    config: type[NetworkConfig]
    module: type[Network]

    def configured(self, fields: Any, **others: Any) -> NetworkConfig:
        """Returns the family's config of those of `fields` that it has.

        Raises:
          ValueError: there is no such network; the message begins with the name of a field.
        """
        own = {name: fields[name] for name in self.config.__dataclass_fields__ if name in fields}
        return self.config(**{**own, **others}).check()


# To add a family, add a row.  Fields that it has and no other are declared in configs/base.py.
MODELS: dict[str, Family] = {"resnet": Family(ResNetConfig, ResNet), "vgg": Family(VGGConfig, VGG)}
