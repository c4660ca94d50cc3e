"""Networks: one block in which depth, order, shortcut, branch and norm are values; a plain stack, VGG; a stylizer."""

from typing import Any, NamedTuple

from normres.models.network import Network, NetworkConfig
from normres.models.resnet import Block, ResNet
from normres.models.stylizer import CONDITIONS, Stylizer, StylizerConfig
from normres.models.variants import BRANCHES, LAYOUTS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig
from normres.models.vgg import VGG, VGGConfig

__all__ = [
    "BRANCHES",
    "CONDITIONS",
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
    "Stylizer",
    "StylizerConfig",
    "VGGConfig",
]


class Family(NamedTuple):
    """A family of networks.

    Attributes:
      config: its fields are the family's fields of config.model.
      module: the Flax module.
      task: a row of training/tasks.py's TASKS.
    """

    config: type[NetworkConfig]
    module: type[Network]
    task: str = "classification"

    def configured(self, fields: Any, **others: Any) -> NetworkConfig:
        """Returns the family's config of those of `fields` that it has.

        Raises:
          ValueError: there is no such network; the message begins with the name of a field.
        """
        own = {name: fields[name] for name in self.config.__dataclass_fields__ if name in fields}
        return self.config(**{**own, **others}).check()


# To add a family, add a row.  Fields that it has and no other are declared in configs/base.py.
MODELS: dict[str, Family] = {
    "resnet": Family(ResNetConfig, ResNet),
    "vgg": Family(VGGConfig, VGG),
    "stylizer": Family(StylizerConfig, Stylizer, task="stylization"),
}
