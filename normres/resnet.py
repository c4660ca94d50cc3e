"""Residual and plain networks for small images, in which depth, order, shortcut and norm are values.

One block serves them all, so two configs differ in the thing that is studied and in nothing else: a plain and a
residual network of one depth have the same parameter tree and, from one seed, the same initial values.

He, Zhang, Ren, Sun 2015, arXiv 1512.03385, section 4.2 (architecture, shortcuts A, B, C);
He, Zhang, Ren, Sun 2016, arXiv 1603.05027 (full pre-activation, and what its first and last block do).
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres import norms
from normres.layers import Conv, Norm

STAGES = 3


@dataclass(frozen=True)
class Order:
    """Where convolution, norm and ReLU stand, as words that are carried out from left to right.

    A word is its operation and a number, which names its parameters; `conv1` carries the block's stride.

    Attributes:
      branch: the residual branch.
      after: what follows the addition.
      head: what follows the last block.
    """

    branch: str
    after: str
    head: str


# To add an order, add a row.
ORDERS: dict[str, Order] = {
    "post": Order(branch="conv1 norm1 relu conv2 norm2", after="relu", head=""),
    # The first block's leading norm and ReLU are the stem's, which stand before its two paths split.
    "pre": Order(branch="norm1 relu conv1 norm2 relu conv2", after="", head="norm1 relu"),
}

STEM = "conv1 norm1 relu"


@dataclass(frozen=True)
class Shortcut:
    """What runs beside the residual branch.

    Attributes:
      add: whether anything is added at all; without, the network is plain.
      project: the blocks whose shortcut is a 1x1 convolution: "never", "where needed" (the shape changes), "always".
        Where there is none, a changed shape is met by subsampling and channels of zeros.
    """

    add: bool = True
    project: str = "never"


SHORTCUTS: dict[str, Shortcut] = {
    "none": Shortcut(add=False),
    "A": Shortcut(),
    "B": Shortcut(project="where needed"),
    "C": Shortcut(project="always"),
}


@dataclass(frozen=True)
class ResidualScale:
    """What keeps a residual network's variance from growing with depth where no norm does.

    Attributes:
      initial: of the learned scalar that multiplies the branch's end; None for no such scalar.
      fixup: Fixup's rules besides: of the branch's two kernels the first starts smaller by sqrt(blocks) and the last
        at zero, as does the classifier, and a learned scalar is added before each convolution and after the first, and
        at the branch's end.
      paper: where it is from.
    """

    initial: float | None = None
    fixup: bool = False
    paper: str = "–"


RESIDUAL_SCALES: dict[str, ResidualScale] = {
    "none": ResidualScale(),
    "skipinit": ResidualScale(initial=0.0, paper="De, Smith 2020, arXiv 2002.10444"),
    # The same formula as SkipInit's, found for any kind of branch.
    "rezero": ResidualScale(initial=0.0, paper="Bachlechner, Majumder, Mao, Cottrell, McAuley 2020, arXiv 2003.04887"),
    "fixup": ResidualScale(initial=1.0, fixup=True, paper="Zhang, Dauphin, Ma 2019, arXiv 1901.09321"),
}


def check_depth(depth: int) -> int:
    """Returns n, the blocks in each stage of a network of `depth` = 6n + 2 layers with parameters.

    Raises:
      ValueError: depth is not 6n + 2 with n at least 1; the message names the nearest that are.
    """
    n, rest = divmod(depth - 2, 2 * STAGES)
    if n >= 1 and rest == 0:
        return n
    lower = max(n, 1) * 2 * STAGES + 2
    near = str(lower) if n < 1 else f"{lower} or {lower + 2 * STAGES}"
    raise ValueError(f"is not 6n+2 (8, 14, 20, ...); the nearest: {near}")


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that determines the network.

    Attributes:
      depth: 6n + 2, counting convolutions on the main path and the classifier.
      width: channels of the first stage; they double at each of the two later ones.
      classes: number of logits.
      shortcut, order, weights, residual_scale: rows of SHORTCUTS, ORDERS, weights.TABLE, RESIDUAL_SCALES.
      norm: a row of norms.TABLE, or axes such as "NHC".
      norm_groups: channel groups of a grouped norm; must divide width.
      norm_sub_batches: parts of the batch, for ghost batch norm; must divide it.
      norm_epsilon: see layers.Norm.
      norm_average, norm_momentum, norm_unbiased: see norms.Average.
      dtype: of activations; parameters, statistics and logits are float32.
      axis_name: device axis over which batch statistics are merged (pmap).
    """

    depth: int = 20
    width: int = 16
    classes: int = 10
    shortcut: str = "A"
    order: str = "post"
    norm: str = "batch"
    norm_groups: int = 8
    norm_sub_batches: int = 4
    norm_epsilon: float = 1e-5
    norm_average: Any = "exponential"
    norm_momentum: float = 0.9
    norm_unbiased: bool = False
    weights: str = "plain"
    residual_scale: str = "none"
    dtype: Any = jnp.float32
    axis_name: str | None = None


class _Operations(nn.Module):
    """A network or block that carries out an Order's words."""

    config: ResNetConfig
    train: bool = False

    def norm(self, name: str, activate: bool = False) -> Norm:
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
        )

    def conv(self, name: str, features: int, **options: Any) -> Conv:
        """Returns the convolution that the config asks for."""
        config = self.config
        return Conv(features, weights=config.weights, train=self.train, dtype=config.dtype, name=name, **options)

    def carry_out(self, x: jax.Array, words: list[str], features: int, stride: int = 1, prefix: str = "") -> jax.Array:
        """Runs `words` on x, each under the name prefix + word."""
        activates = bool(norms.find_spec(self.config.norm).activation)
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup
        for word, before, after in zip(words, ["", *words], [*words[1:], ""], strict=False):
            match word.rstrip("0123456789"):
                case "relu":
                    # A norm that brings its own nonlinearity has replaced this one.
                    x = x if activates and before.startswith("norm") else nn.relu(x)
                case "norm":
                    x = self.norm(prefix + word, activate=after == "relu")(x)
                    x = self.add_scalar(x, f"{prefix}{word}_bias") if fixup and after else x
                case "conv":
                    x = self.add_scalar(x, f"{prefix}{word}_bias") if fixup and not prefix else x
                    x = self.conv(prefix + word, features, **self.of_conv(word, stride, prefix))(x)
                case _:
                    raise ValueError(f"{word!r} is no operation; choices: conv, norm, relu")
        return x

    def of_conv(self, word: str, stride: int, prefix: str) -> dict[str, Any]:
        """Returns stride and initial kernel of a convolution: `conv1` strides, and Fixup shrinks the branch's."""
        options: dict[str, Any] = {"stride": stride if word == "conv1" else 1}
        if RESIDUAL_SCALES[self.config.residual_scale].fixup and not prefix:
            blocks = STAGES * check_depth(self.config.depth)
            shrunk = nn.initializers.variance_scaling(2.0 / blocks, "fan_in", "normal")
            options["kernel_init"] = shrunk if word == "conv1" else nn.initializers.zeros
        return options

    def add_scalar(self, x: jax.Array, name: str) -> jax.Array:
        """Adds a learned scalar, at first 0."""
        return x + self.param(name, nn.initializers.zeros, (1,) * x.ndim, jnp.float32).astype(x.dtype)


class Block(_Operations):
    """The block: x -> after(shortcut(x) + branch(x)), (N, H, W, I) -> (N, H / stride, W / stride, features).

    Attributes:
      features: output channels.
      stride: of the first convolution and of the shortcut.
      first: whether this is the network's first block, whose leading norm and ReLU the stem has carried out.
    """

    features: int = 16
    stride: int = 1
    first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the block's output."""
        order = ORDERS[self.config.order]
        words = order.branch.split()
        lead = words.index("conv1")
        # What precedes the first convolution is split off, because a projection reads the activated input too.
        activated = x if self.first else self.carry_out(x, words[:lead], self.features)
        branch = self.carry_out(activated, words[lead:], self.features, self.stride)
        scale = RESIDUAL_SCALES[self.config.residual_scale]
        if scale.initial is not None:
            initial = nn.initializers.constant(scale.initial)
            factor = self.param("branch_scale", initial, (1,) * branch.ndim, jnp.float32)
            branch = branch * factor.astype(branch.dtype)
        if scale.fixup:
            branch = self.add_scalar(branch, "branch_bias")
        shortcut = SHORTCUTS[self.config.shortcut]
        if shortcut.add:
            branch = branch + self._shortcut(shortcut, x, activated, branch.shape)
        return self.carry_out(branch, order.after.split(), self.features, prefix="after_")

    def _shortcut(self, shortcut: Shortcut, x: jax.Array, activated: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        changed = x.shape != shape
        if shortcut.project == "always" or (shortcut.project == "where needed" and changed):
            projected = self.conv("shortcut_conv", self.features, kernel_size=1, stride=self.stride)(activated)
            # Normalized like the branch it is added to (He 2015); a pre-activation branch ends in a convolution.
            ends_in_norm = ORDERS[self.config.order].branch.split()[-1].startswith("norm")
            return self.norm("shortcut_norm")(projected) if ends_in_norm else projected
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))


class ResNet(_Operations):
    """The network: stem, three stages, global average, classifier."""

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Returns logits_NK in at least float32 for images_NHWC of any floating dtype."""
        config = self.config
        blocks = check_depth(config.depth)
        x = images_NHWC.astype(config.dtype)
        x = self.carry_out(x, STEM.split(), config.width, prefix="stem_")
        for stage in range(STAGES):
            features = config.width * 2**stage
            options = {"config": config, "train": self.train, "features": features}
            first = Block(**options, stride=1 if stage == 0 else 2, first=stage == 0, name=f"stage{stage + 1}_first")
            x = first(x)
            if blocks > 1:
                # One compiled block for the rest of the stage, whatever the depth.
                rest = nn.scan(
                    lambda block, x, _: (block(x), None),
                    variable_axes={"params": 0, "batch_stats": 0, "moments": 0},
                    split_rngs={"params": True},
                    length=blocks - 1,
                )
                x, _ = rest(Block(**options, name=f"stage{stage + 1}_rest"), x, None)
        x = self.carry_out(x, ORDERS[config.order].head.split(), x.shape[-1], prefix="head_")
        x = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
        fixup = RESIDUAL_SCALES[config.residual_scale].fixup
        initial = nn.initializers.zeros if fixup else nn.initializers.lecun_normal()
        return nn.Dense(config.classes, kernel_init=initial, name="classifier")(x)


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
