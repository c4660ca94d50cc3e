"""What a network can vary in, as tables: where norm and ReLU stand, what the shortcut is, what a branch consists of.

A row is data, and `ResNetConfig` names rows; `resnet.py` has the one block that carries them out.
He, Zhang, Ren, Sun 2015, arXiv 1512.03385 (architectures, shortcuts A, B, C) and 2016, arXiv 1603.05027 (orders,
shortcuts).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from normres.models.network import NetworkConfig, must_divide


@dataclass(frozen=True)
class Order:
    """Where convolution, norm and ReLU stand, as words that are carried out from left to right.

    Attributes:
      unit: the words of one convolution, repeated for each of the branch.
      drop: number of words that are left out at the branch's end.
      after: what follows the addition.
      head: what follows the last block.
      title: what the papers call it.
    """

    unit: str
    drop: int = 0
    after: str = ""
    head: str = ""
    title: str = ""

    def branch(self, convolutions: int) -> list[str]:
        """Returns the branch's words; a convolution and a norm have numbers, which name their parameters."""
        words = []
        for number in range(1, convolutions + 1):
            words += [word if word == "relu" else f"{word}{number}" for word in self.unit.split()]
        return words[: len(words) - self.drop]


# He et al. 2016, figure 4 and table 2.  To add an order, add a row.
ORDERS: dict[str, Order] = {
    "post": Order("conv norm relu", drop=1, after="relu", title="original"),
    "norm_after_addition": Order("conv norm relu", drop=2, after="norm1 relu", title="norm after addition"),
    "relu_before_addition": Order("conv norm relu", title="ReLU before addition"),
    # The stem applies the first block's leading ReLU, so shortcut and branch both read its output.
    "relu_only_pre": Order("relu conv norm", head="relu", title="ReLU-only pre-activation"),
    "pre": Order("norm relu conv", head="norm1 relu", title="full pre-activation"),
}


@dataclass(frozen=True)
class Shortcut:
    """What runs beside the residual branch.

    Attributes:
      add: whether anything is added at all; without, the network is plain.
      project: the blocks whose shortcut is a 1x1 convolution: "never", "where needed" (the shape changes), "always".
        Where there is none, a changed shape is met by subsampling and channels of zeros.
      factor, branch_factor: constants on the two paths.
      gate: "exclusive": the branch times g(x) and the shortcut times 1 - g(x); "shortcut": only the latter; "": none.
        g is a 1x1 convolution with bias and a sigmoid.
      dropout: rate on the shortcut.
      title: what the papers call it.
    """

    add: bool = True
    project: str = "never"
    factor: float = 1.0
    branch_factor: float = 1.0
    gate: str = ""
    dropout: float = 0.0
    title: str = ""


# He et al. 2015, section 4.1, and 2016, table 1.  To add a shortcut, add a row.
SHORTCUTS: dict[str, Shortcut] = {
    "none": Shortcut(add=False, title="none (plain)"),
    "A": Shortcut(title="identity, zero padding (A)"),
    "B": Shortcut(project="where needed", title="projection where needed (B)"),
    "C": Shortcut(project="always", title="projection always (C), 1x1 convolution"),
    "constant": Shortcut(factor=0.5, title="constant 0.5 on the shortcut"),
    "constant_both": Shortcut(factor=0.5, branch_factor=0.5, title="constant 0.5 on shortcut and branch"),
    "exclusive_gate": Shortcut(gate="exclusive", title="exclusive gating"),
    "shortcut_gate": Shortcut(gate="shortcut", title="shortcut-only gating"),
    "dropout": Shortcut(dropout=0.5, title="dropout 0.5 on the shortcut"),
}


@dataclass(frozen=True)
class Branch:
    """The convolutions of a residual branch.

    Attributes:
      kernels: their sizes.
      expansion: output channels of the branch / width of the stage.
    """

    kernels: tuple[int, ...]
    expansion: int = 1

    def strides(self, stride: int, at: str) -> list[int]:
        """Returns each convolution's stride; `at` is "first", or "3x3" for the first that is larger than 1x1."""
        bearer = 0 if at == "first" else next(i for i, size in enumerate(self.kernels) if size > 1)
        return [stride if index == bearer else 1 for index in range(len(self.kernels))]


BRANCHES: dict[str, Branch] = {
    "basic": Branch((3, 3)),
    "bottleneck": Branch((1, 3, 1), expansion=4),
}


@dataclass(frozen=True)
class Layout:
    """Stem, stages, and the blocks of each depth.

    Attributes:
      stem_kernel, stem_stride: of the stem's convolution.
      pool: whether a 3x3 max pool of stride 2 follows the stem.
      stages: their number; each but the first halves the resolution and doubles the channels.
      counted: layers that the papers count besides the branches' convolutions.
      depths: the blocks of each stage by branch and depth, where there is no formula.
    """

    stem_kernel: int = 3
    stem_stride: int = 1
    pool: bool = False
    stages: int = 3
    counted: int = 2
    depths: tuple[tuple[str, int, tuple[int, ...]], ...] = ()


LAYOUTS: dict[str, Layout] = {
    "cifar": Layout(),
    # Zagoruyko, Komodakis 2016, arXiv 1605.07146 count convolutions: 6n, the stem and three projections.
    "wide": Layout(counted=4),
    "imagenet": Layout(
        stem_kernel=7,
        stem_stride=2,
        pool=True,
        stages=4,
        depths=(
            ("basic", 18, (2, 2, 2, 2)),
            ("basic", 34, (3, 4, 6, 3)),
            ("bottleneck", 50, (3, 4, 6, 3)),
            ("bottleneck", 101, (3, 4, 23, 3)),
            ("bottleneck", 152, (3, 8, 36, 3)),
        ),
    ),
}


def stage_blocks(layout: str, block: str, depth: int) -> tuple[int, ...]:
    """Returns the blocks of each stage of a network of `depth` layers with parameters.

    Raises:
      ValueError: there is no network of that depth; the message names the nearest that are.
    """
    row, branch = LAYOUTS[layout], BRANCHES[block]
    if row.depths:
        known = {d: blocks for kind, d, blocks in row.depths if kind == block}
        if depth in known:
            return known[depth]
        raise ValueError(f"is no depth of {layout} networks of {block} blocks; choices: {', '.join(map(str, known))}")
    per = row.stages * len(branch.kernels)
    n, rest = divmod(depth - row.counted, per)
    if n >= 1 and rest == 0:
        return (n,) * row.stages
    lower = max(n, 1) * per + row.counted
    near = str(lower) if n < 1 else f"{lower} or {lower + per}"
    first = ", ".join(str(k * per + row.counted) for k in (1, 2, 3))
    raise ValueError(f"is not {per}n+{row.counted} ({first}, ...); the nearest: {near}")


@dataclass(frozen=True)
class ResidualScale:
    """How the variance of a residual network stays bounded with depth without norms.

    Attributes:
      initial: of the learned scalar that multiplies the branch's end; None for no such scalar.
      fixup: Fixup's rules besides: a branch's last kernel and the classifier start at zero, its other kernels start
        L^(-1 / (2m - 2)) times as large (L blocks of m convolutions), and learned scalars are added before each
        convolution, after each norm, and at the branch's end.
      paper: where it is from.
    """

    initial: float | None = None
    fixup: bool = False
    paper: str = "–"


RESIDUAL_SCALES: dict[str, ResidualScale] = {
    "none": ResidualScale(),
    "skipinit": ResidualScale(initial=0.0, paper="De, Smith 2020, arXiv 2002.10444"),
    # The formula of SkipInit, proposed for any kind of branch.
    "rezero": ResidualScale(initial=0.0, paper="Bachlechner, Majumder, Mao, Cottrell, McAuley 2020, arXiv 2003.04887"),
    "fixup": ResidualScale(initial=1.0, fixup=True, paper="Zhang, Dauphin, Ma 2019, arXiv 1901.09321"),
}


@dataclass(frozen=True)
class ResNetConfig(NetworkConfig):
    """Everything that determines the network.

    Attributes:
      depth: layers, as the papers count them; see stage_blocks.
      width: channels of the first stage (before a bottleneck's expansion); they double at each later one.
      inner_width: channels of a branch's convolutions but the last, in the first stage; 0 = width.
      stem_width: channels of the stem; 0 = width.
      cardinality: groups of the branch's 3x3 convolutions after the first convolution (ResNeXt).
      squeeze: reduction ratio of squeeze-and-excitation; 0 = none.
      layout, block, shortcut, order, residual_scale: rows of LAYOUTS, BRANCHES, SHORTCUTS, ORDERS, RESIDUAL_SCALES.
      stride_at: "first" or "3x3": which convolution of a branch carries the stride.
      padding: "end" or "both": on which side shortcut A adds channels of zeros.
      gate_bias: initial bias of a gate.
      dropout: rate before a branch's last convolution (wide networks).
      stochastic_depth: probability that the last block's branch is left out in training (the paper's 1 - p_L); block
        l of L has l / L of it.  One draw per block and step (and device, with pmap).
      zero_last_scale: whether the scale of norm2 (basic) or norm3 (bottleneck) of each branch starts at zero.
      auxiliary: stages, from 1 and before the last, with a classifier of their own.
      remat: a row of resnet.REMAT.
      unrolled: compile every block on its own instead of one per stage: the same network, faster, compiled longer.
    """

    inner_width: int = 0
    stem_width: int = 0
    cardinality: int = 1
    squeeze: int = 0
    layout: str = "cifar"
    block: str = "basic"
    shortcut: str = "A"
    order: str = "post"
    stride_at: str = "3x3"
    padding: str = "end"
    gate_bias: float = -6.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    zero_last_scale: bool = False
    auxiliary: tuple[int, ...] = ()
    remat: str = "nothing"
    unrolled: bool = False
    residual_scale: str = "none"

    choices: ClassVar = NetworkConfig.choices | {
        **{"layout": LAYOUTS, "block": BRANCHES, "shortcut": SHORTCUTS, "order": ORDERS},
        **{"residual_scale": RESIDUAL_SCALES, "stride_at": ("first", "3x3"), "padding": ("end", "both")},
    }

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return stage_blocks(self.layout, self.block, self.depth)

    def features(self, stage: int) -> tuple[int, ...]:
        """Returns the output channels of each convolution of a branch in `stage`, counted from 0."""
        branch = BRANCHES[self.block]
        outer = self.width * branch.expansion * 2**stage
        inner = (self.inner_width or self.width) * 2**stage
        return (*[inner] * (len(branch.kernels) - 1), outer)

    @property
    def widths(self) -> dict[str, int]:
        """See NetworkConfig."""
        own = {"inner_width": self.inner_width, "stem_width": self.stem_width}
        return super().widths | {name: size for name, size in own.items() if size}

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """See NetworkConfig; the stem counts as one."""
        stem = LAYOUTS[self.layout].stem_stride
        first = stem * (2 if LAYOUTS[self.layout].pool else 1)
        of_blocks = [(size, first * 2**stage) for stage in range(len(self.blocks)) for size in self.features(stage)]
        return ((self.stem_width or self.width, stem), *of_blocks)

    def check(self) -> Self:
        """See NetworkConfig."""
        super().check()
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        try:
            stages = len(self.blocks)
        except ValueError as error:
            raise ValueError(f"depth={self.depth} {error}") from None
        if wrong := [stage for stage in self.auxiliary if not 1 <= stage < stages]:
            inner = ", ".join(map(str, range(1, stages)))
            raise ValueError(f"auxiliary={self.auxiliary}: there is no inner stage {wrong[0]}; choices: {inner}")
        if self.cardinality > 1 and not any(size > 1 for size in BRANCHES[self.block].kernels[1:-1]):
            raise ValueError(f"cardinality={self.cardinality} needs config.model.block='bottleneck'")
        shortcut, first = SHORTCUTS[self.shortcut], self.features(0)[-1]
        if shortcut.add and shortcut.project == "never" and self.stem_width > first:  # zeros cannot drop channels
            why = f"the channels of the first block: shortcut={self.shortcut!r} cannot remove channels; B and C can"
            raise ValueError(f"stem_width={self.stem_width} must be at most {first}, {why}")
        divided = "inner_width" if self.inner_width else "width"
        must_divide("cardinality", self.cardinality, divided, self.inner_width or self.width)
        return self
