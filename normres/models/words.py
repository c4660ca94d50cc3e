"""The words of an Order, such as "conv norm relu", carried out: what a block and a network have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.models.network import Network
from normres.models.variants import BRANCHES, RESIDUAL_SCALES, ResNetConfig


class Words(Network):
    """A block or a network that carries out words."""

    config: ResNetConfig

    def run(
        self,
        x: jax.Array,
        words: Sequence[str],
        convolutions: Mapping[str, dict[str, Any]] | None = None,
        prefix: str = "",
    ) -> jax.Array:
        """Carries out `words` on x from left to right, each under the name prefix + word.

        Args:
          x: (N, H, W, C).
          words: "conv", "norm" (with a number), "relu", "identity" or "dropout".
          convolutions: the arguments of each convolution, by its word.
          prefix: of the names of parameters.
        """
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup and prefix != "after_"
        last, before = f"norm{len(BRANCHES[self.config.block].kernels)}", ""
        for word, after in zip(words, [*words[1:], ""], strict=False):
            name = prefix + word
            match word.rstrip("0123456789"):
                case "conv":
                    x = self.add_scalar(x, f"{name}_bias") if fixup and not prefix else x
                    x = self.conv(name, **(convolutions or {})[word])(x)
                case "norm":
                    # A norm and the ReLU after it are one operation, as some norms bring their own; but Fixup adds a
                    # scalar between the two.
                    fused = "relu" if after == "relu" and not fixup else "identity"
                    zero = self.config.zero_last_scale and name == last
                    options: dict[str, Any] = {"scale_init": nn.initializers.zeros} if zero else {}
                    x = self.norm(name, **options)(x, activation=fused)
                    x = self.add_scalar(x, f"{name}_bias") if fixup and after else x
                case "relu":
                    applied = before.startswith("norm") and not fixup
                    x = x if applied else self.ops.activation(x, "relu")
                case "identity":
                    x = self.ops.activation(x, "identity")
                case "dropout":
                    x = nn.Dropout(self.config.dropout, deterministic=not self.train, name=name)(x)
                case _:
                    raise ValueError(f"{word!r} is no operation; choices: conv, norm, relu, identity, dropout")
            before = word
        return x

    def add_scalar(self, x: jax.Array, name: str) -> jax.Array:
        """Adds a learned scalar, at first 0."""
        return x + self.param(name, nn.initializers.zeros, (1,) * x.ndim, jnp.float32).astype(x.dtype)
