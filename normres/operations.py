"""The words of an Order carried out: what networks and blocks are made of, and which norms wait for a convolution."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres import norms
from normres.activation import relu
from normres.deferred import SIZES, Convolved, Pending
from normres.layers import Conv, Norm
from normres.variants import BRANCHES, ORDERS, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig


class Operations(nn.Module):
    """A network or block that carries out an Order's words."""

    config: ResNetConfig
    train: bool = False

    def norm(self, name: str, activate: bool = False, **options: Any) -> Norm:
        """Returns the norm that the config asks for."""
        config = self.config
        return Norm(
            norms.find_spec(config.norm),
            groups=config.norm_groups,
            sub_batches=config.norm_sub_batches,
            epsilon=config.norm_epsilon,
            average=norms.Average(config.norm_average, config.norm_momentum, unbiased=config.norm_unbiased),
            use_running_average=not self.train,
            activate=activate,
            axis_name=config.axis_name,
            name=name,
            **options,
        )

    def conv(self, name: str, features: int, **options: Any) -> Conv:
        """Returns the convolution that the config asks for."""
        config = self.config
        options |= {"weights": config.weights, "native": config.native, "dtype": config.dtype}
        return Conv(features, train=self.train, name=name, **options)

    def carry_out(
        self,
        x: Any,
        words: list[str],
        convolutions: dict[str, dict[str, Any]],
        prefix: str = "",
        side: jax.Array | None = None,
        to_be_continued: bool = False,
    ) -> Any:
        """Runs `words` on x, each under the name prefix + word; `convolutions` has their arguments.

        Norms between convolutions are left to the next of them where deferred.convolve is used (`config.native`), and
        so is the last one if it is `to_be_continued`: it then returns Pending, else an array.

        Args:
          x: an array, Pending, or Convolved.
          side: added to the output of the branch's last norm.
        """
        left = self.deferred(words, convolutions, to_be_continued, begun=isinstance(x, Convolved))
        activates = bool(norms.find_spec(self.config.norm).activation)
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup and not prefix.startswith("after_")
        last = f"norm{len(BRANCHES[self.config.block].kernels)}"
        for word, before, after in zip(words, ["", *words], [*words[1:], ""], strict=False):
            name = prefix + word
            x = x.y if isinstance(x, Convolved) and word not in left else x
            match word.rstrip("0123456789"):
                case "relu":
                    # The norm before has applied it, or a nonlinearity of its own that replaces it.
                    x = x if before.startswith("norm") and (activates or not fixup) else relu(x)
                case "norm":
                    zero = self.config.zero_last_scale and name == last
                    options: dict[str, Any] = {"scale_init": nn.initializers.zeros} if zero else {}
                    options["rectify"] = after == "relu" and not activates and not fixup
                    x = self.norm(name, activate=after == "relu", **options)(x, side=side if name == last else None)
                    x = self.add_scalar(x, f"{name}_bias") if fixup and after else x
                case "conv":
                    x = self.add_scalar(x, f"{name}_bias") if fixup and not prefix else x
                    x = self.convolve(x, name, convolutions[word], measured=after in left)
                case "dropout":
                    x = nn.Dropout(self.config.dropout, deterministic=not self.train, name=name)(x)
                case _:
                    raise ValueError(f"{word!r} is no operation; choices: conv, norm, relu, dropout")
        return x.y if isinstance(x, Convolved) else x

    def convolve(
        self, x: Any, name: str, arguments: dict[str, Any], measured: bool = False, keep: bool = False
    ) -> jax.Array | Convolved:
        """Returns Convolved, of what is pending or for a norm that is left to the next convolution, or an array."""
        # Where running averages are used, nobody needs the moments.
        spec = norms.find_spec(self.config.norm)
        x = Pending(x.astype(self.config.dtype)) if measured and isinstance(x, jax.Array) else x
        measured = measured and (self.train or not spec.running)
        found: jax.Array | Convolved = self.conv(name, **arguments)(x, measured=measured, keep=keep)
        return found

    def deferred(
        self, words: list[str], convolutions: dict[str, dict[str, Any]], to_be_continued: bool, begun: bool = False
    ) -> set[str]:
        """Returns the norms that are left to the next convolution: those that follow one and precede one.

        The words may be `to_be_continued` by a convolution, and one may have `begun` them.
        """
        config = self.config
        fixup = RESIDUAL_SCALES[config.residual_scale].fixup
        if not config.native or fixup or not norms.deferrable(norms.find_spec(config.norm)):
            return set()
        fused = {
            word
            for word, arguments in convolutions.items()
            if arguments["kernel_size"] in SIZES and arguments.get("groups", 1) == 1
        }
        bare = ["begun" if begun else "", *(word for word in words if word != "relu"), "continued"]
        fused |= {"begun"} | ({"continued"} if to_be_continued else set())
        return {
            word
            for before, word, after in zip(bare, bare[1:], bare[2:], strict=False)
            if word.startswith("norm") and before in fused and after in fused
        }

    def ends_in_one_pass(self) -> bool:
        """Returns whether a block's last norm, addition and ReLU follow each other and nobody asks what is between."""
        config, shortcut = self.config, SHORTCUTS[self.config.shortcut]
        scale, order = RESIDUAL_SCALES[config.residual_scale], ORDERS[config.order]
        weighted = shortcut.gate or shortcut.dropout or shortcut.factor != 1 or shortcut.branch_factor != 1
        between = weighted or config.squeeze or scale.initial is not None or config.stochastic_depth
        own_activation = norms.find_spec(config.norm).activation
        adjacent = order.branch(len(BRANCHES[config.block].kernels))[-1].startswith("norm") and order.after == "relu"
        return adjacent and not (between or own_activation or self.is_mutable_collection("intermediates"))

    def add_scalar(self, x: jax.Array, name: str) -> jax.Array:
        """Adds a learned scalar, at first 0."""
        return x + self.param(name, nn.initializers.zeros, (1,) * x.ndim, jnp.float32).astype(x.dtype)

    def note(self, collection: str, name: str, value: jax.Array) -> None:
        """Stores a value in a collection if that is mutable; at initialization it would end up among the variables."""
        if not self.is_initializing():
            self.sow(collection, name, value)
