"""A network's operations in the order in which they run, as words: what table and picture both read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normres import norms
from normres.models.resnet import STEM
from normres.models.variants import BRANCHES, LAYOUTS, ORDERS, RESIDUAL_SCALES, SHORTCUTS, ResNetConfig

Kind = Literal["conv", "norm", "relu", "pool", "dropout", "scale", "gate", "pad", "dense"]

OWN = "own nonlinearity"  # of a norm that brings one in place of the ReLU after it


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
      kind: which.
      text: a few words with its sizes; channels are those of the first stage.
      where_changed: whether it runs only in blocks that change the shape of their input.
    """

    kind: Kind
    text: str
    where_changed: bool = False


@dataclass(frozen=True)
class Drawn:
    """A block: after(shortcut(x) + branch(lead(x))).

    Attributes:
      lead: what precedes the first convolution; the network's first block leaves it out.
      branch: the rest, up to the addition.
      shortcut: what stands on it; empty if it is the identity.  None: there is no shortcut and no addition.
      projection: whether the shortcut's convolution reads the output of `lead` rather than the block's input.
      after: what follows the addition.
    """

    lead: tuple[Step, ...]
    branch: tuple[Step, ...]
    shortcut: tuple[Step, ...] | None
    projection: bool
    after: tuple[Step, ...]


def norm_name(config: ResNetConfig) -> str:
    """Returns "batch norm", "norm over NHC", "no norm", ..."""
    if config.norm == "none":
        return "no norm"
    name = config.norm.replace("_", " ")
    if config.norm not in norms.TABLE:
        return f"norm over {name}"
    return name if "norm" in name else f"{name} norm"


def stem(config: ResNetConfig) -> tuple[Step, ...]:
    """Returns the stem's operations."""
    layout = LAYOUTS[config.layout]
    first = _conv(layout.stem_kernel, config.stem_width or config.width, layout.stem_stride)
    pool = [Step("pool", "3×3 max pool / 2")] if layout.pool else []
    return (*_carry_out(config, STEM, {"conv1": first}), *pool)


def head(config: ResNetConfig) -> tuple[Step, ...]:
    """Returns what follows the last block."""
    words = _carry_out(config, ORDERS[config.order].head.split(), {})
    return (*words, Step("pool", "global average"), Step("dense", "fully connected"))


def block(config: ResNetConfig) -> Drawn:
    """Returns the block, with the channels of the first stage; compare resnet.Block."""
    order, kernels = ORDERS[config.order], BRANCHES[config.block].kernels
    features = config.features(0)
    words = order.branch(len(kernels))
    if config.dropout:
        words.insert(words.index(f"conv{len(kernels)}"), "dropout")
    lead = words.index("conv1")
    convolutions = {}
    for number, (size, channels) in enumerate(zip(kernels, features, strict=True), start=1):
        groups = config.cardinality if size > 1 and number > 1 else 1
        convolutions[f"conv{number}"] = _conv(size, channels, groups=groups)
    branch = [*_carry_out(config, words[lead:], convolutions)]
    if config.squeeze:
        branch.append(Step("gate", f"squeeze and excitation, {config.squeeze}"))
    scale = RESIDUAL_SCALES[config.residual_scale]
    if scale.initial is not None:
        branch.append(Step("scale", f"× learned, from {scale.initial:g}"))
    if config.stochastic_depth:
        branch.append(Step("dropout", f"stochastic depth, {config.stochastic_depth:g}"))
    shortcut = SHORTCUTS[config.shortcut]
    side: list[Step] = []
    if shortcut.project == "never":
        side.append(Step("pad", "subsample, pad zeros", where_changed=True))
    else:
        needed = shortcut.project == "where needed"
        side.append(Step("conv", f"1×1 conv, {features[-1]}", where_changed=needed))
        normalized = [word for word in words if word != "relu"][-1].startswith("norm")
        if normalized and config.norm != "none":
            side.append(Step("norm", norm_name(config), where_changed=needed))
    if shortcut.gate:
        side.append(Step("gate", "× (1 − g(x))"))
    if shortcut.dropout:
        side.append(Step("dropout", f"dropout {shortcut.dropout:g}"))
    if shortcut.factor != 1:
        side.append(Step("scale", f"× {shortcut.factor:g}"))
    if shortcut.add and shortcut.gate == "exclusive":
        branch.append(Step("gate", "× g(x)"))
    if shortcut.add and shortcut.branch_factor != 1:
        branch.append(Step("scale", f"× {shortcut.branch_factor:g}"))
    return Drawn(
        lead=_carry_out(config, words[:lead], convolutions),
        branch=tuple(branch),
        shortcut=tuple(side) if shortcut.add else None,
        projection=shortcut.project != "never" and lead > 0,
        after=_carry_out(config, order.after.split(), {}),
    )


def notes(config: ResNetConfig) -> list[str]:
    """Returns what boxes in a row do not say, a sentence each."""
    drawn, kernels = block(config), BRANCHES[config.block].kernels
    found = []
    if drawn.lead:
        found.append(f"the first block of all leaves out {line(drawn.lead)}, in which the stem ends")
    bearer = BRANCHES[config.block].strides(2, config.stride_at).index(2)
    found.append(f"later stages start with stride 2, in the first {kernels[bearer]}×{kernels[bearer]} conv")
    if any(step.kind == "gate" for step in drawn.shortcut or ()):
        found.append("g(x): 1×1 conv with bias, sigmoid")
    if config.weights != "plain":
        found.append(f"kernels are {config.weights.replace('_', ' ')}")
    if RESIDUAL_SCALES[config.residual_scale].fixup:
        found.append("Fixup: learned scalars are added around each conv")
    if config.auxiliary:
        stages = ", ".join(map(str, config.auxiliary))
        found.append(f"a classifier of its own after stage {stages}")
    return found


def line(steps: Sequence[Step]) -> str:
    """Returns the steps in a few words: 3×3 conv, norm, ReLU."""
    words = {"norm": lambda text: "norm", "conv": lambda text: text.split(",")[0]}
    return ", ".join(words.get(step.kind, str)(step.text) for step in steps)


def _conv(size: int, channels: int, stride: int = 1, groups: int = 1) -> Step:
    step = f" / {stride}" if stride > 1 else ""
    grouped = f", {groups} groups" if groups > 1 else ""
    return Step("conv", f"{size}×{size} conv, {channels}{step}{grouped}")


def _carry_out(config: ResNetConfig, words: Sequence[str], convolutions: dict[str, Step]) -> tuple[Step, ...]:
    """Returns the steps of `words`, as the network carries them out."""
    activates = bool(config.norm_spec.activation)
    steps = []
    for word, before in zip(words, ["", *words], strict=False):
        match word.rstrip("0123456789"):
            case "relu":
                own = activates and before.startswith("norm")
                steps.append(Step("relu", OWN if own else "ReLU"))
            case "norm" if config.norm != "none":
                steps.append(Step("norm", norm_name(config)))
            case "conv":
                steps.append(convolutions[word])
            case "dropout":
                steps.append(Step("dropout", f"dropout {config.dropout:g}"))
    return tuple(steps)
