"""Residual and plain networks for images, in which depth, branch, order, shortcut and norm are values.

One block serves them all, so two configs differ in the thing that is studied and in nothing else: a plain and a
residual network of one depth have the same parameter tree and, from one seed, the same initial values.  The values
are rows of the tables in variants.py, norms.py and weights.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.activation import fork, relu_of_sum
from normres.conv import CONVOLVED
from normres.deferred import Pending
from normres.moments import STATISTICS
from normres.operations import Operations
from normres.variants import BRANCHES, LAYOUTS, ORDERS, REMAT, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig, Shortcut

__all__ = ["Block", "ResNet", "ResNetConfig", "count_parameters"]

STEM = ["conv1", "norm1", "relu"]

# Blocks after a stage's first that are compiled one by one all the same: a loop over so few costs a tenth of the step
# in copies of what the backward pass needs, and compiling them takes no longer.
SHORT = 2


class Block(Operations):
    """The block: x -> after(shortcut(x) + branch(x)), (N, H, W, I) -> (N, H / stride, W / stride, features[-1]).

    Attributes:
      features: output channels of each convolution of the branch.
      stride: of the branch and of the shortcut.
      first: whether this is the network's first block, whose leading norm and ReLU the stem has carried out.
    """

    features: tuple[int, ...] = (16, 16)
    stride: int = 1
    first: bool = False

    @nn.compact
    def __call__(self, x: Any, survival: jax.Array | float | None = None) -> Any:
        """Returns the block's output, an array or Pending, of such an input.

        `survival` is the probability with which the branch takes part in training.
        """
        config = self.config
        order, shortcut = ORDERS[config.order], SHORTCUTS[config.shortcut]
        words = order.branch(len(self.features))
        if config.dropout:
            words.insert(words.index(f"conv{len(self.features)}"), "dropout")
        lead, convolutions = words.index("conv1"), self._convolutions()
        needed = self.stride > 1 or (x.x if isinstance(x, Pending) else x).shape[-1] != self.features[-1]
        projects = shortcut.project == "always" or (shortcut.project == "where needed" and needed)
        if isinstance(x, Pending):
            # Of a block that ends in one pass, as this one does.  The convolution says what it made of its input.
            measured = "norm1" in self.deferred(words, convolutions, to_be_continued=True)
            first: Any = self.convolve(x, "conv1", convolutions["conv1"], measured, keep=shortcut.add)
            added = self._on_the_side(first.activated, projects, words) if shortcut.add else None
            return self.carry_out(first, [*words[1:], "relu"], convolutions, side=added, to_be_continued=True)
        side = x
        if shortcut.add and not projects:
            x, side = fork(x)
        # What precedes the first convolution is split off, because a projection reads the activated input too.
        activated = x if self.first else self.carry_out(x, words[:lead], convolutions)
        if shortcut.add and projects:
            activated, side = fork(activated)
        if self.ends_in_one_pass():
            added = self._on_the_side(side, projects, words) if shortcut.add else None
            return self.carry_out(activated, [*words[lead:], "relu"], convolutions, side=added, to_be_continued=True)
        branch = self._end_of_branch(self.carry_out(activated, words[lead:], convolutions))
        if survival is not None:
            branch = branch * self._takes_part(survival).astype(branch.dtype)
        self.note("intermediates", "branch", branch)
        total, after = branch, order.after.split()
        if shortcut.add:
            side = self._on_the_side(side, projects, words)
            side, branch = self._weighted(shortcut, x, side, branch)
            self.note("intermediates", "shortcut", side)
            total = branch + side
        self.note("intermediates", "sum", total)
        if shortcut.add and after == ["relu"]:
            return relu_of_sum(branch, side)
        return self.carry_out(total, after, convolutions, prefix="after_")

    def _convolutions(self) -> dict[str, dict[str, Any]]:
        """Returns the arguments of the branch's convolutions; Fixup shrinks their initial kernels."""
        config, branch = self.config, BRANCHES[self.config.block]
        strides = branch.strides(self.stride, config.stride_at)
        arguments = {}
        for index, size in enumerate(branch.kernels):
            own: dict[str, Any] = {"features": self.features[index], "kernel_size": size, "stride": strides[index]}
            own["groups"] = config.cardinality if size > 1 and index > 0 else 1
            if RESIDUAL_SCALES[config.residual_scale].fixup:
                scale = 2.0 * sum(config.blocks) ** (-1 / (len(branch.kernels) - 1))
                shrunk = nn.initializers.variance_scaling(scale, "fan_in", "normal")
                own["kernel_init"] = shrunk if index < len(branch.kernels) - 1 else nn.initializers.zeros
            arguments[f"conv{index + 1}"] = own
        return arguments

    def _end_of_branch(self, branch: jax.Array) -> jax.Array:
        """Applies squeeze-and-excitation and the residual scale, where the config has them."""
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
        return self.add_scalar(branch, "branch_bias") if scale.fixup else branch

    def _takes_part(self, survival: jax.Array | float) -> jax.Array:
        """Returns 1 or 0 in training, the probability in evaluation (Huang et al. 2016, arXiv 1603.09382)."""
        if not self.train:
            return jnp.asarray(survival)
        return jax.random.bernoulli(self.make_rng("dropout"), survival).astype(jnp.float32)

    def _on_the_side(self, side: jax.Array, projects: bool, words: list[str]) -> jax.Array:
        """Returns the shortcut's output in the branch's shape: projected, or strided and with channels of zeros."""
        features = self.features[-1]
        if projects:
            side = self.conv("shortcut_conv", features, kernel_size=1, stride=self.stride)(side)
            # Normalized like the branch it is added to (He 2015); a pre-activation branch ends in a convolution.
            normalized = [word for word in words if word != "relu"][-1].startswith("norm")
            return self.norm("shortcut_norm")(side) if normalized else side
        side = side[:, :: self.stride, :: self.stride]
        zeros = features - side.shape[-1]
        before = zeros // 2 if self.config.padding == "both" else 0
        return jnp.pad(side, ((0, 0), (0, 0), (0, 0), (before, zeros - before)))

    def _weighted(
        self, shortcut: Shortcut, x: jax.Array, side: jax.Array, branch: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the two summands: the shortcut's output and the branch, scaled or gated by the block's input x."""
        config, features = self.config, branch.shape[-1]
        if shortcut.gate:
            bias = nn.initializers.constant(config.gate_bias)
            gate = nn.sigmoid(nn.Dense(features, bias_init=bias, name="gate")(x[:, :: self.stride, :: self.stride]))
            gate = gate.astype(side.dtype)
            side = side * (1 - gate)
            branch = branch * gate if shortcut.gate == "exclusive" else branch
        if shortcut.dropout:
            side = nn.Dropout(shortcut.dropout, deterministic=not self.train, name="shortcut_dropout")(side)
        return side * shortcut.factor, branch * shortcut.branch_factor


class ResNet(Operations):
    """The network: stem, stages, global average, classifier."""

    @nn.compact
    def __call__(self, images_NHWC: jax.Array) -> jax.Array:
        """Returns logits_NK in at least float32 for images_NHWC of any floating dtype.

        With the collection "intermediates" mutable, it stores there what the blocks' two paths, the stem and the
        pooled features hold (scanned stages with a leading axis of depth), and auxiliary logits in "auxiliary".

        Raises:
          ValueError: images smaller than the product of the strides.
        """
        config, layout = self.config, LAYOUTS[self.config.layout]
        strides = layout.stem_stride * (2 if layout.pool else 1) * 2 ** (layout.stages - 1)
        if min(images_NHWC.shape[1:3]) < strides:
            height, width = images_NHWC.shape[1:3]
            raise ValueError(f"images of {height}x{width} are too small: the strides of this network make {strides}")
        stem = {
            "features": config.stem_width or config.width,
            "kernel_size": layout.stem_kernel,
            "stride": layout.stem_stride,
        }
        continued = self.ends_in_one_pass() and not layout.pool
        images = images_NHWC.astype(config.dtype)
        x: Any = self.carry_out(images, STEM, {"conv1": stem}, prefix="stem_", to_be_continued=continued)
        if layout.pool:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        self.note("intermediates", "stem", x)
        done = 0
        for stage, blocks in enumerate(config.blocks):
            x = self._stage(x, stage, blocks, done)
            done += blocks
            if stage + 1 in config.auxiliary:
                self.note("auxiliary", f"stage{stage + 1}", self._classify(x, f"auxiliary{stage + 1}"))
        x = self.carry_out(x, ORDERS[config.order].head.split(), {}, prefix="head_")
        return self._classify(x, "classifier")

    def _stage(self, x: Any, stage: int, blocks: int, done: int) -> Any:
        """Runs a stage's blocks; unless unrolled all but the first are compiled as one, whatever the depth."""
        config = self.config
        options: dict[str, Any] = {"config": config, "train": self.train, "features": config.features(stage)}
        # Linear decay: block l of L, from 1, takes part with probability 1 - l / L * stochastic_depth.
        survival = [1 - (done + i + 1) / sum(config.blocks) * config.stochastic_depth for i in range(blocks)]
        at_random = config.stochastic_depth > 0
        unrolled = config.unrolled or blocks - 1 <= SHORT
        first = _recomputing(config, looped=False)(
            **options, stride=1 if stage == 0 else 2, first=stage == 0, name=f"stage{stage + 1}_first"
        )
        x = first(x, survival[0] if at_random else None)
        if blocks > 1:
            block = _recomputing(config, looped=not unrolled)
            rest = nn.scan(
                lambda block, x, survival: (block(x, survival), None),
                variable_axes={"params": 0, "batch_stats": 0, "moments": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=blocks - 1,
                unroll=blocks - 1 if unrolled else 1,
            )
            each = jnp.asarray(survival[1:], jnp.float32) if at_random else None
            x, _ = rest(block(**options, name=f"stage{stage + 1}_rest"), x, each)
        return x

    def _classify(self, x: Any, name: str) -> jax.Array:
        """Averages over space and returns logits in at least float32."""
        x = x.value() if isinstance(x, Pending) else x
        x = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
        if name == "classifier":
            self.note("intermediates", "pooled", x)
        fixup = RESIDUAL_SCALES[self.config.residual_scale].fixup
        initial = nn.initializers.zeros if fixup else nn.initializers.lecun_normal()
        return nn.Dense(self.config.classes, kernel_init=initial, name=name)(x)


def _recomputing(config: ResNetConfig, looped: bool) -> type[Block]:
    """Returns Block, which in its backward pass computes anew what the config says, in a loop over blocks or not.

    Raises:
      ValueError: `config.remat` is none of REMAT.
    """
    policies = jax.checkpoint_policies
    match config.remat:
        case "nothing":
            return Block
        case "elementwise":
            if config.dropout or SHORTCUTS[config.shortcut].dropout:
                return Block  # drawing the masks once more takes longer than keeping them
            named = policies.save_only_these_names(CONVOLVED, STATISTICS)
            policy = policies.save_from_both_policies(named, policies.dots_saveable)
        case "block":
            policy = None
        case other:
            raise ValueError(f"remat={other!r} does not exist; choices: {', '.join(REMAT)}")
    # The compiler would merge what is computed anew with what was computed before, but not across loops.
    found: type[Block] = nn.remat(Block, prevent_cse=not looped, policy=policy)
    return found


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
