"""What all families of networks have in common: how they normalize, and modules that carry it out."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres import norms
from normres.errors import nearest
from normres.layers import PLAIN, Conv, Norm, Ops
from normres.norms.kernels import TABLE as KERNELS


@dataclass(frozen=True)
class NetworkConfig:
    """The fields that every family has.

    Attributes:
      depth: layers, as the family's papers count.
      width: channels of the first stage.
      classes: number of logits.
      norm: a row of norms.TABLE, axes such as "NHC", or a NormSpec.
      norm_groups: channel groups of a grouped norm; must divide every normalized width.
      norm_sub_batches: parts of the batch, for ghost batch norm; must divide it.
      norm_epsilon: see NormSpec.
      norm_average, norm_momentum, norm_unbiased: see norms.Average.
      weights: a row of kernels.TABLE.
      dtype: of activations; parameters, statistics and logits are float32.
      axis_name: device axis over which batch statistics are merged (pmap).
    """

    depth: int = 20
    width: int = 16
    classes: int = 10
    norm: str | norms.NormSpec = "batch"
    norm_groups: int = 8
    norm_sub_batches: int = 4
    norm_epsilon: float = 1e-5
    norm_average: Any = "exponential"
    norm_momentum: float = 0.9
    norm_unbiased: bool = False
    weights: str = "plain"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    last_pool: ClassVar = 1  # the stride of what follows the last stage
    choices: ClassVar[dict[str, Collection[str]]] = {"norm_average": norms.KINDS, "weights": KERNELS}

    @property
    def norm_spec(self) -> norms.NormSpec:
        """The norm with its groups, sub-batches and epsilon; a NormSpec has its own."""
        if isinstance(self.norm, norms.NormSpec):
            return self.norm
        return norms.find_spec(self.norm, self.norm_groups, self.norm_sub_batches, self.norm_epsilon)

    @property
    def widths(self) -> dict[str, int]:
        """The fields that are numbers of channels; every other number of channels is a multiple of one of them."""
        return {"width": self.width}

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(channels, total stride) of each array that is normalized."""
        return ((self.width, 1),)

    def check_image(self, height: int, width: int) -> None:
        """Raises ValueError if there is no such network, or for images smaller than the product of its strides."""
        self.check()
        stride = self.last_pool * max(stride for _, stride in self.stages)
        if min(height, width) < stride:
            raise ValueError(f"images of {height}x{width} are too small: this network divides each side by {stride}")

    def check(self) -> Self:
        """Returns itself if there is such a network.

        Raises:
          ValueError: there is none; the message begins with the name of a field.
        """
        for name, known in self.choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}={value!r} does not exist; {nearest(value, known)}")
        spec = self.norm_spec
        for over in spec.reductions:
            try:
                norms.reduction_axes(over, ndim=4)
            except ValueError as error:
                raise ValueError(f"norm: {error}") from None
        if spec.groups > 1:
            for name, channels in self.widths.items():
                must_divide("norm_groups", spec.groups, name, channels)
        return self


def must_divide(name: str, value: int, of: str, size: int) -> None:
    """Raises ValueError, with the nearest divisor, unless `value` divides `size`."""
    if size % value:
        divisors = [number for number in range(1, size + 1) if size % number == 0]
        near = min(divisors, key=lambda number: abs(number - value))
        choices = ", ".join(map(str, divisors))
        raise ValueError(
            f"{name}={value} does not divide config.model.{of}={size}; did you mean {near}? choices: {choices}"
        )


class Network(nn.Module):
    """A network or a part of one, which normalizes as its config says.

    Attributes:
      config: everything that determines the network.
      train: whether norms use the batch's statistics and update their averages, and dropout is on.
      ops: the operations, see layers.Ops.
    """

    config: Any
    train: bool = False
    ops: Ops = PLAIN

    def norm(self, name: str, **options: Any) -> Norm:
        """Returns the norm that the config asks for."""
        config = self.config
        return Norm(
            config.norm_spec,
            average=norms.Average(config.norm_average, config.norm_momentum, unbiased=config.norm_unbiased),
            use_running_average=not self.train,
            axis_name=config.axis_name,
            ops=self.ops,
            name=name,
            **options,
        )

    def conv(self, name: str, features: int, **options: Any) -> Conv:
        """Returns the convolution that the config asks for."""
        options |= {"weights": self.config.weights, "dtype": self.config.dtype}
        return Conv(features, train=self.train, ops=self.ops, name=name, **options)

    def note(self, collection: str, name: str, value: jax.Array) -> None:
        """Stores a value in a mutable collection, except at initialization, when it would become a variable."""
        if not self.is_initializing():
            self.sow(collection, name, jnp.asarray(value))

    def pooled(self, x: jax.Array) -> jax.Array:
        """Averages over space, (N, H, W, C) -> (N, C), in at least float32."""
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
