"""Flax modules that own parameters and running averages, and call pure functions.

`Norm` applies any row of the axis table, `Conv` any row of the kernel table.  The others are `flax.linen`'s modules
with the same arguments and variables, exact where Flax is not.
"""

from normres.layers.conv import Conv, he_normal
from normres.layers.linen import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from normres.layers.norm import Norm
from normres.layers.ops import PLAIN, Ops
from normres.layers.wrappers import SpectralNorm, WeightNorm

__all__ = [
    "PLAIN",
    "BatchNorm",
    "Conv",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "Ops",
    "RMSNorm",
    "SpectralNorm",
    "WeightNorm",
    "he_normal",
]
