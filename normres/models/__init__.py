"""Networks: one block in which depth, order, shortcut, branch and norm are values."""

from normres.models.resnet import Block, ResNet, count_parameters
from normres.models.variants import ResNetConfig

__all__ = ["Block", "ResNet", "ResNetConfig", "count_parameters"]
