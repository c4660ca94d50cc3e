"""A network that gives an image the style of a picture: convolutions down, residual blocks, convolutions up.

Johnson, Alahi, Fei-Fei 2016, arXiv 1603.08155; Ulyanov, Vedaldi, Lempitsky 2016, arXiv 1607.08022.  The norms decide
how it learns a style; their scale and bias may say which style:

    condition   scale and bias of each norm                             paper
    none        two vectors: the network knows one style                Ulyanov, Vedaldi, Lempitsky 2016
    label       two vectors for each style: conditional instance norm   Dumoulin, Shlens, Kudlur 2017, arXiv 1610.07629
    picture     std and mean of the style image, same layer: AdaIN      Huang, Belongie 2017, arXiv 1703.06868
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres import norms
from normres.models.network import Network, NetworkConfig

CONDITIONS = ("none", "label", "picture")
OUTSIDE_BLOCKS = 6  # convolutions: three before the residual blocks, three after them


@dataclass(frozen=True)
class StylizerConfig(NetworkConfig):
    """Everything that determines the network.

    Attributes:
      depth: convolutions, 2n + 6 for n residual blocks; 16 in the papers.
      width: channels of the first convolution, 32 in the papers.
      classes: styles.
      condition: what scale and bias of the norms depend on.
    """

    depth: int = 16
    condition: str = "none"
    choices: ClassVar = NetworkConfig.choices | {"condition": CONDITIONS}

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """See NetworkConfig."""
        return tuple((multiple * self.width, multiple) for multiple in (1, 2, 4))

    def check_image(self, height: int, width: int) -> None:
        """Raises ValueError if there is no such network, or for images whose sides the strides do not divide."""
        self.check()
        if height % 4 or width % 4:
            raise ValueError(f"images of {height}x{width}: both sides must be multiples of 4, the product of strides")

    def check(self) -> Self:
        """See NetworkConfig."""
        if self.depth < OUTSIDE_BLOCKS + 2 or self.depth % 2:
            near = max(OUTSIDE_BLOCKS + 2, self.depth + self.depth % 2)
            raise ValueError(f"depth={self.depth} is not 2n + 6 for n residual blocks; did you mean {near}?")
        if self.condition != "none" and self.norm_spec.affine != ("scale", "bias"):
            raise ValueError(f"condition={self.condition!r}: {self.norm!r} does not have both scale and bias")
        return super().check()


class Stylizer(Network):
    """The network, (images_NHWC, labels_N, styles_NHWC) -> images_NHWC, all images from 0 to 1.

    A label is the number of an example's style, and `styles_NHWC` are the style's pictures.  Without them (init,
    shapes) an example has style 0 and is its own picture.
    """

    config: StylizerConfig

    @nn.compact
    def __call__(
        self, images_NHWC: jax.Array, labels_N: jax.Array | None = None, styles_NHWC: jax.Array | None = None
    ) -> jax.Array:
        """Returns images in at least float32, of the shape of images_NHWC; see check_image."""
        config, width = self.config, self.config.width
        config.check_image(*images_NHWC.shape[1:3])
        labels_N = jnp.zeros(images_NHWC.shape[:1], jnp.int32) if labels_N is None else labels_N
        x = images_NHWC.astype(config.dtype)
        if config.condition == "picture":
            # The pictures go through the network beside the images, and each norm takes its scale and bias from them.
            styles = x if styles_NHWC is None else styles_NHWC.astype(config.dtype)
            x = jnp.concatenate([x, styles])

        def layer(name: str, x: jax.Array, features: int, **options: Any) -> jax.Array:
            activation = options.pop("activation", "relu")
            x = self.conv(f"{name}_conv", features, **options)(x)
            return self.normalized(f"{name}_norm", x, labels_N, activation)

        x = layer("down1", x, width, kernel_size=9)
        x = layer("down2", x, 2 * width, stride=2)
        x = layer("down3", x, 4 * width, stride=2)
        for number in range(1, (config.depth - OUTSIDE_BLOCKS) // 2 + 1):
            inside = layer(f"block{number}_1", x, 4 * width)
            x = self.ops.add(x, layer(f"block{number}_2", inside, 4 * width, activation="identity"))
        # Unlike a transposed convolution, enlarging and convolving draws no checkerboard (Odena, Dumoulin, Olah 2016).
        x = layer("up1", twice_as_large(x), 2 * width)
        x = layer("up2", twice_as_large(x), width)
        x = x[: images_NHWC.shape[0]]
        x = self.conv("up3_conv", images_NHWC.shape[-1], kernel_size=9)(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        bias = self.param("up3_bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return jax.nn.sigmoid(x + bias[None, None, None])

    def normalized(self, name: str, x: jax.Array, labels_N: jax.Array, activation: str) -> jax.Array:
        """Returns activation(norm(x)), with a scale and a bias as the config's condition says."""
        match self.config.condition:
            case "label":
                shape = (self.config.classes, x.shape[-1])
                tables = {
                    "scale": self.param(f"{name}_scales", nn.initializers.ones, shape, jnp.float32),
                    "bias": self.param(f"{name}_biases", nn.initializers.zeros, shape, jnp.float32),
                }
                affine = {part: table[labels_N][:, None, None] for part, table in tables.items()}
                return self.norm(name)(x, activation=activation, affine=affine)
            case "picture":
                x, styles = jnp.split(x, 2)
                reduced = norms.reduction_axes("S", x.ndim)
                mean, var, _ = norms.moments(styles, reduced)
                affine = {"scale": jnp.sqrt(var + self.config.norm_epsilon), "bias": mean}
                y = self.norm(name)(x, activation=activation, affine=affine)
                return jnp.concatenate([y, self.ops.activation(styles, activation)])
            case _:
                return self.norm(name)(x, activation=activation)


def twice_as_large(x_NHWC: jax.Array) -> jax.Array:
    """Returns images of twice the height and width, each pixel four times."""
    return x_NHWC.repeat(2, axis=1).repeat(2, axis=2)
