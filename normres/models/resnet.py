"""Residual and plain networks for images, in which depth, branch, order, shortcut and norm are values.

One block serves them all:  x_(l+1) = f(h(x_l) + F(x_l)), He, Zhang, Ren, Sun 2016, equations 1 and 2.  So two configs
differ only in what is studied: a plain network and one with shortcut A, of one depth, have the same
parameter tree and, from one seed, the same initial values.  The values are rows of the tables in variants.py,
norms/table.py and norms/kernels.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.layers.ops import CONVOLVED
from normres.models.network import Network
from normres.models.variants import BRANCHES, LAYOUTS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig
from normres.norms.moments import STATISTICS

# So few blocks after a stage's first are always unrolled: a loop would not compile faster, and would copy what the
# backward pass needs.
MAX_UNROLLED = 2


class WordRunner(Network):
    """A block or a network: it carries out the words of an Order, such as "conv norm relu"."""

    config: ResNetConfig

    def run(
        self,
        x: jax.Array,
        words: Sequence[str],
        convolutions: Mapping[str, dict[str, Any]] | None = None,
        prefix: str = "",
    ) -> jax.Array:
        """Carries out `words` on x (N, H, W, C) from left to right, each under the name prefix + word.

        `convolutions` has the arguments of each convolution, by its word.
        """
        # Fixup adds a scalar before each convolution of a branch, and after each norm but the branch's last, whose
        # scalar is branch_bias.
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup and prefix != "after_"
        last = f"norm{len(BRANCHES[self.config.block].kernels)}"
        before = ""
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


class Block(WordRunner):
    """The block: x -> f(h(x) + F(x)), (N, H, W, I) -> (N, ceil(H / stride), ceil(W / stride), features[-1]).

    Attributes:
      features: output channels of each convolution of the branch F.
      stride: of the branch and of the shortcut h.
      first: whether this is the network's first block, whose leading norm and ReLU the stem has carried out.
    """

    features: tuple[int, ...] = (16, 16)
    stride: int = 1
    first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, survival: jax.Array | float | None = None) -> jax.Array:
        """Returns the block's output; `survival` is the probability with which the branch takes part in training."""
        order, shortcut = ORDERS[self.config.order], SHORTCUTS[self.config.shortcut]
        words = order.branch(len(self.features))
        if self.config.dropout:
            words.insert(words.index(f"conv{len(self.features)}"), "dropout")
        # The words before conv1 run alone: a projection shortcut reads their result too.
        lead = words.index("conv1")
        activated = x if self.first else self.run(x, words[:lead])
        branch = self.run(activated, words[lead:], self.convolutions())
        branch = self.end_of_branch(branch, survival)
        self.note("intermediates", "branch", branch)
        total = branch
        if shortcut.add:
            side = self.shortcut(x, activated, words)
            side, branch = self.weighted(x, side, branch)
            self.note("intermediates", "shortcut", side)
            total = self.ops.add(side, branch)
        self.note("intermediates", "sum", total)
        # Other Ops than PLAIN delay the sum until an activation is called, so "identity" is called if none follows.
        return self.run(total, order.after.split() or ["identity"], prefix="after_")

    def convolutions(self) -> dict[str, dict[str, Any]]:
        """Returns the arguments of the branch's convolutions; Fixup shrinks their initial kernels."""
        config, branch = self.config, BRANCHES[self.config.block]
        strides = branch.strides(self.stride, config.stride_at)
        arguments = {}
        for index, size in enumerate(branch.kernels):
            own: dict[str, Any] = {"features": self.features[index], "kernel_size": size, "stride": strides[index]}
            own["groups"] = config.cardinality if size > 1 and index > 0 else 1
            if RESIDUAL_SCALES[config.residual_scale].fixup:
                m, total = len(branch.kernels), sum(config.blocks)
                scale = 2.0 * total ** (-2 / (2 * m - 2))  # of the variance: the std times total^(-1 / (2m - 2))
                shrunk = nn.initializers.variance_scaling(scale, "fan_in", "normal")
                own["kernel_init"] = shrunk if index < m - 1 else nn.initializers.zeros
            arguments[f"conv{index + 1}"] = own
        return arguments

    def end_of_branch(self, branch: jax.Array, survival: jax.Array | float | None) -> jax.Array:
        """Applies squeeze-and-excitation, the residual scale and stochastic depth, where the config has them."""
        config, scale = self.config, RESIDUAL_SCALES[self.config.residual_scale]
        if config.squeeze:
            # Hu, Shen, Sun 2017, arXiv 1709.01507.
            channels = branch.shape[-1]
            pooled = jnp.mean(branch.astype(jnp.float32), axis=(1, 2), keepdims=True)
            hidden = nn.relu(nn.Dense(max(channels // config.squeeze, 1), name="squeeze")(pooled))
            branch = branch * nn.sigmoid(nn.Dense(channels, name="excite")(hidden)).astype(branch.dtype)
        if scale.initial is not None:
            initial = nn.initializers.constant(scale.initial)
            branch = branch * self.param("branch_scale", initial, (1,) * branch.ndim, jnp.float32).astype(branch.dtype)
        branch = self.add_scalar(branch, "branch_bias") if scale.fixup else branch
        if survival is None:
            return branch
        # Huang et al. 2016, arXiv 1603.09382: in or out in training, weighted by the probability in evaluation.
        share = jnp.asarray(survival)
        if self.train:
            share = jax.random.bernoulli(self.make_rng("dropout"), survival).astype(jnp.float32)
        return branch * share.astype(branch.dtype)

    def shortcut(self, x: jax.Array, activated: jax.Array, words: list[str]) -> jax.Array:
        """Returns h(x) in the branch's shape: projected, or strided and with channels of zeros.

        A projection reads the activated input.  A norm follows it (He 2015) if the last of the branch's `words`, ReLUs
        aside, is a norm.
        """
        features, project = self.features[-1], SHORTCUTS[self.config.shortcut].project
        changes = self.stride > 1 or x.shape[-1] != features
        if project == "always" or (project == "where needed" and changes):
            side = self.conv("shortcut_conv", features, kernel_size=1, stride=self.stride)(activated)
            normalized = [word for word in words if word != "relu"][-1].startswith("norm")
            return self.norm("shortcut_norm")(side) if normalized else side
        side = x[:, :: self.stride, :: self.stride]
        zeros = features - side.shape[-1]
        before = zeros // 2 if self.config.padding == "both" else 0
        return jnp.pad(side, ((0, 0), (0, 0), (0, 0), (before, zeros - before)))

    def weighted(self, x: jax.Array, side: jax.Array, branch: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the two summands, h(x) and F(x), scaled or gated by the block's input x."""
        config, shortcut = self.config, SHORTCUTS[self.config.shortcut]
        if shortcut.gate:
            bias = nn.initializers.constant(config.gate_bias)
            gate = nn.Dense(branch.shape[-1], bias_init=bias, name="gate")(x[:, :: self.stride, :: self.stride])
            gate = nn.sigmoid(gate).astype(side.dtype)
            side = side * (1 - gate)
            branch = branch * gate if shortcut.gate == "exclusive" else branch
        if shortcut.dropout:
            side = nn.Dropout(shortcut.dropout, deterministic=not self.train, name="shortcut_dropout")(side)
        return side * shortcut.factor, branch * shortcut.branch_factor


class ResNet(WordRunner):
    """The network: stem, stages, global average, classifier."""

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Returns logits_NK in at least float32 for images_NHWC of any floating dtype.

        It stores the stem, both paths of each block and the pooled features in "intermediates" (scanned stages with a
        leading axis of depth), and auxiliary logits in "auxiliary", where these collections are mutable.

        Raises:
          ValueError: images smaller than the product of the strides.
        """
        config, layout = self.config, LAYOUTS[self.config.layout]
        config.check_image(*images_NHWC.shape[1:3])
        stem = {
            "features": config.stem_width or config.width,
            "kernel_size": layout.stem_kernel,
            "stride": layout.stem_stride,
        }
        x = self.run(images_NHWC.astype(config.dtype), ["conv1", "norm1", "relu"], {"conv1": stem}, prefix="stem_")
        if layout.pool:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        self.note("intermediates", "stem", x)
        for stage in range(len(config.blocks)):
            x = self.stage(x, stage)
            if stage + 1 in config.auxiliary:
                self.note("auxiliary", f"stage{stage + 1}", self.classify(x, f"auxiliary{stage + 1}"))
        x = self.run(x, ORDERS[config.order].head.split(), prefix="head_")
        return self.classify(x, "classifier")

    def stage(self, x: jax.Array, stage: int) -> jax.Array:
        """Runs a stage's blocks; all but the first are one nn.scan, compiled once, unless they are unrolled."""
        config, blocks = self.config, self.config.blocks[stage]
        options: dict[str, Any] = {
            "config": config,
            "train": self.train,
            "ops": self.ops,
            "features": config.features(stage),
        }
        # Linear decay: block l of L, from 1, takes part with probability 1 - l / L * stochastic_depth.
        done, total = sum(config.blocks[:stage]), sum(config.blocks)
        survival = [1 - (done + i + 1) / total * config.stochastic_depth for i in range(blocks)]
        at_random = config.stochastic_depth > 0
        first = rematerialized(config, looped=False)(
            **options, stride=1 if stage == 0 else 2, first=stage == 0, name=f"stage{stage + 1}_first"
        )
        x = first(x, survival[0] if at_random else None)
        if blocks > 1:
            unrolled = unrolls(config, stage)
            rest = nn.scan(
                lambda block, x, survival: (block(x, survival), None),
                variable_axes={"params": 0, "batch_stats": 0, "moments": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=blocks - 1,
                unroll=blocks - 1 if unrolled else 1,
            )
            each = jnp.asarray(survival[1:], jnp.float32) if at_random else None
            block = rematerialized(config, looped=not unrolled)(**options, name=f"stage{stage + 1}_rest")
            x, _ = rest(block, x, each)
        return x

    def classify(self, x: jax.Array, name: str) -> jax.Array:
        """Averages over space and returns logits in at least float32."""
        x = self.pooled(x)
        if name == "classifier":
            self.note("intermediates", "pooled", x)
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup
        initial = nn.initializers.zeros if fixup else nn.initializers.lecun_normal()
        return nn.Dense(self.config.classes, kernel_init=initial, name=name)(x)


def unrolls(config: ResNetConfig, stage: int) -> bool:
    """Returns whether the blocks after the first of `stage`, counted from 0, are compiled one by one."""
    return config.unrolled or config.blocks[stage] - 1 <= MAX_UNROLLED


class Remat(NamedTuple):
    """What the backward pass of a block keeps; it computes the rest anew (Chen et al. 2016, arXiv 1604.06174)."""

    convolutions: bool = False  # their outputs
    statistics: bool = False  # the norms' sums
    everywhere: bool = True  # else in scanned blocks only: a loop writes and reads what it keeps


REMAT: dict[str, Remat | None] = {
    "nothing": None,
    "elementwise": Remat(convolutions=True, statistics=True),
    "loops": Remat(convolutions=True, statistics=True, everywhere=False),
    "block": Remat(),
    "block_in_loops": Remat(statistics=True, everywhere=False),
}


def rematerialized(config: ResNetConfig, looped: bool) -> type[Block]:
    """Returns Block, rematerialized as config.remat says; `looped`: whether it runs in nn.scan.

    Raises:
      ValueError: `config.remat` is no row of REMAT.
    """
    if config.remat not in REMAT:
        raise ValueError(f"remat={config.remat!r} does not exist; choices: {', '.join(REMAT)}")
    remat = REMAT[config.remat]
    if remat is None or not (remat.everywhere or looped):
        return Block
    if remat.convolutions and (config.dropout or SHORTCUTS[config.shortcut].dropout):
        return Block  # drawing the masks once more takes longer than keeping them
    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(*[STATISTICS] * remat.statistics, *[CONVOLVED] * remat.convolutions)
    if remat.convolutions:
        policy = policies.save_from_both_policies(policy, policies.dots_saveable)
    # Outside a loop XLA would merge the recomputation with the first computation (prevent_cse).
    recomputed: type[Block] = nn.remat(Block, prevent_cse=not looped, policy=policy)
    return recomputed
