"""VGG for small images: stacks of 3x3 convolutions, each with a norm and a ReLU, and a max pool after each stage.

Simonyan, Zisserman 2014, arXiv 1409.1556, table 1 (columns A, B, D, E).  Small images need no three dense layers: one
follows the average over space.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax

from normres.models.network import Network, NetworkConfig

# Convolutions of each stage.
DEPTHS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
MULTIPLES = (1, 2, 4, 8, 8)  # channels of each stage, in widths


@dataclass(frozen=True)
class VGGConfig(NetworkConfig):
    """Everything that determines the network.

    Attributes:
      depth: 11, 13, 16 or 19, as the paper counts, with the three dense layers.
      width: channels of the first stage, 64 in the paper.
      dropout: rate before the classifier.
    """

    dropout: float = 0.0
    last_pool: ClassVar = 2

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """See NetworkConfig."""
        return tuple((multiple * self.width, 2**stage) for stage, multiple in enumerate(MULTIPLES))

    def check(self) -> Self:
        """See NetworkConfig."""
        if self.depth not in DEPTHS:
            raise ValueError(f"depth={self.depth} is no depth of VGG; choices: {', '.join(map(str, DEPTHS))}")
        return super().check()


class VGG(Network):
    """The network: five stages, global average, classifier."""

    config: VGGConfig

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Returns logits_NK in at least float32 for images_NHWC of any floating dtype; see check_image."""
        config = self.config
        config.check_image(*images_NHWC.shape[1:3])
        x = images_NHWC.astype(config.dtype)
        for stage, (channels, _) in enumerate(config.stages):
            for number in range(1, DEPTHS[config.depth][stage] + 1):
                x = self.conv(f"stage{stage + 1}_conv{number}", channels)(x)
                x = self.norm(f"stage{stage + 1}_norm{number}")(x, activation="relu")
            self.note("intermediates", f"stage{stage + 1}", x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = self.pooled(x)
        self.note("intermediates", "pooled", x)
        x = nn.Dropout(config.dropout, deterministic=not self.train)(x)
        return nn.Dense(config.classes, name="classifier")(x)
