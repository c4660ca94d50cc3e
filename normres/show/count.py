"""What a network consists of and what its parts cost: blocks, shapes, parameters and multiply-adds.

All of it is counted on the network itself.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import flax.linen as nn
import jax

from normres.show.watch import Op, watch

GATES = ("sigmoid", "hard_sigmoid", "tanh", "softmax")


@dataclass(frozen=True)
class Block:
    """A block: after(shortcut(x) + branch(lead(x)))."""

    times: int  # how many such blocks the network has
    lead: tuple[Op, ...]  # what both paths have in common at their start
    branch: tuple[Op, ...]  # the rest, up to the addition; of a block without one, everything
    joint: str = ""  # how the paths are put together: "+", "∥" (concatenated); "" if there is one path only
    shortcut: tuple[Op, ...] = ()  # what stands on it; empty if it is the identity
    after: tuple[Op, ...] = ()  # what follows the addition
    from_lead: bool = False  # whether the shortcut reads the output of `lead` rather than the block's input

    @property
    def line(self) -> str:
        """The block in a few words: "3×3 conv, norm, ReLU, 3×3 conv, norm, + identity, ReLU"."""
        side = f"{self.joint} {_group(self.shortcut)}" if self.joint else ""
        side += f" of {_group(self.lead)}" if self.from_lead else ""
        return ", ".join(filter(None, [line((*self.lead, *self.branch)), side, line(self.after)]))


@dataclass
class Part:
    """The stem, a stage or the classifier."""

    name: str  # "stem", "stage 1", ..., "classifier"
    blocks: int = 0  # of stem and classifier 0
    output: tuple[int, ...] = ()  # (height, width, channels) for one image; (classes,) of the classifier
    single: tuple[Op, ...] = ()  # the operations on the way to the logits that are in no block
    norm: Op | None = None  # the last norm
    parameters: int = 0  # learned scalars
    # Of convolutions and dense layers, forward, for one image.  Norms, ReLUs, additions and pooling are left out, as
    # the papers do, and so is the arithmetic on kernels, which is done once per batch.
    multiply_adds: int = 0


@dataclass(frozen=True)
class Counts:
    """A network."""

    image: tuple[int, ...]  # (height, width, channels)
    parts: tuple[Part, ...]  # in the order in which an image passes them
    blocks: tuple[Block, ...]  # each kind once, the most frequent first
    layers: int  # convolutions and dense layers between image and logits, along the blocks' branches

    @property
    def total(self) -> Part:
        """The sum of the parts."""
        costs = ("blocks", "parameters", "multiply_adds")
        return Part("sum", **{cost: sum(getattr(part, cost) for part in self.parts) for cost in costs})


def count(network: nn.Module, image_shape: Sequence[int] = (32, 32, 3)) -> Counts:
    """Returns what a Flax module, images (N, H, W, C) -> logits, consists of and costs.

    If it has a field or an argument `train`, that is True.
    """
    record = watch(network, image_shape)
    ops, keys = record.ops, block_keys(record.ops)
    inputs = {number: [i for i in op.inputs if i >= 0] for number, op in enumerate(ops)}
    way = sorted(ancestors([record.output], inputs))
    members: dict[object, list[int]] = {}
    for number in way:
        members.setdefault(keys[number], []).append(number)
    single = members.pop(None, [])
    blocks = {key: block(ops, numbers) for key, numbers in members.items()}
    names = _part_names(ops, keys, way, members)
    parts = {name: Part(name) for name in names}
    for number, (name, op) in enumerate(zip(names, ops, strict=True)):
        part = parts[name]
        part.multiply_adds += op.multiply_adds * op.times
        if number in way:
            part.output = op.shape
            part.norm = op if op.kind == "norm" else part.norm
            part.single += (op,) * (number in single)
    for path, leaf in jax.tree_util.tree_leaves_with_path(record.params):
        module = tuple(entry.key for entry in path[:-1])
        first = next((i for i, op in enumerate(ops) if op.call.path[: len(module)] == module), 0)
        parts[names[first]].parameters += leaf.size
    for key, numbers in members.items():
        parts[names[numbers[0]]].blocks += blocks[key].times
    frequencies: Counter[str] = Counter()
    for each in blocks.values():
        frequencies[each.line] += each.times
    examples = {each.line: each for each in reversed(blocks.values())}
    kinds = tuple(replace(examples[line], times=times) for line, times in frequencies.most_common())
    on_branches = [op for each in blocks.values() for op in (*each.lead, *each.branch, *each.after)]
    layers = sum(op.times for op in (*on_branches, *(ops[i] for i in single)) if op.kind in ("conv", "dense"))
    return Counts(tuple(image_shape), tuple(parts.values()), kinds, layers)


def _part_names(
    ops: Sequence[Op], keys: Sequence[object], way: Sequence[int], members: dict[object, list[int]]
) -> list[str]:
    """Returns the name of the part of each operation; `way` leads to the logits, `members` are the blocks' on it.

    A stage is the blocks with outputs of one shape, with what stands between and the pooling that follows; stem and
    classifier are what stands before the first block and after the last.  What is not on the way to the logits, such
    as an auxiliary classifier, belongs to the part that it follows.
    """
    last = max((numbers[-1] for numbers in members.values()), default=-1)
    name, stage, names = "stem", 0, list[str]()
    shape: tuple[int, ...] = ()
    for number, op in enumerate(ops):
        if keys[number] in members:
            output = ops[members[keys[number]][-1]].shape
            stage, shape = stage + (output != shape), output
            name = f"stage {stage}"
        elif number in way and number > last and op.kind != "pool":
            name = "classifier"
        names.append(name)
    return names


def line(ops: Sequence[Op]) -> str:
    """Returns operations in a few words: "3×3 conv, norm, ReLU"."""
    short = {"conv": lambda text: text.split(",")[0], "norm": lambda text: f"norm{text.partition(' norm')[2]}"}
    return ", ".join(short.get(op.kind, str)(op.text) for op in ops)


def _group(ops: Sequence[Op]) -> str:
    return f"({line(ops)})" if len(ops) > 1 else line(ops) or "identity"


def block_keys(ops: Sequence[Op]) -> list[Hashable]:
    """Returns for each operation a key of the block that it belongs to; None for one that belongs to none.

    A block is the innermost module that adds two paths; elsewhere it is the outermost module with several
    convolutions.  In a network without such modules a block is a convolution with what follows, up to the next
    convolution, pooling or dense layer.
    """
    outside = {call for op in ops if op.kind == "add" for call in op.calls[1:-1]}  # modules around those that add
    keys = [next((call for call in op.calls[1:] if call not in outside), None) for op in ops]
    kinds: dict[int | None, list[str]] = {}
    for key, op in zip(keys, ops, strict=True):
        kinds.setdefault(key, []).append(op.kind)
    blocks = {key for key, inside in kinds.items() if "add" in inside or inside.count("conv") > 1} - {None}
    if blocks:
        return [key if key in blocks else None for key in keys]
    key, plain = None, list[Hashable]()
    for number, op in enumerate(ops):
        if op.kind in ("conv", "pool", "average", "dense", "pad"):
            key = number if op.kind == "conv" else None
        plain.append(key)
    return plain


def block(ops: Sequence[Op], numbers: Sequence[int]) -> Block:
    """Returns the block that consists of the operations of these numbers.

    What computes the gate of a product (it ends in a sigmoid) becomes a part of the product's text.
    """
    inputs = {number: [i for i in ops[number].inputs if i in numbers] for number in numbers}
    texts = {}
    for number in numbers:
        gates = [i for i in inputs[number] if ops[number].kind == "gate" and ops[i].text in GATES]
        if gates and len(ops[number].inputs) > 1:
            inputs[number].remove(gates[0])
            computed = ancestors(gates, inputs) - ancestors(inputs[number], inputs)
            texts[number] = f"{ops[number].text} gate ({line([ops[i] for i in sorted(computed)])})"

    def chosen(some: set[int]) -> tuple[Op, ...]:
        return tuple(replace(ops[i], text=texts.get(i, ops[i].text)) for i in sorted(some))

    main, times = ancestors([max(numbers)], inputs), ops[numbers[0]].times
    joint = max((i for i in main if ops[i].kind == "add"), default=None)
    if joint is None:
        return Block(times, (), chosen(main))
    ends = [(ancestors({end} & set(numbers), inputs), end) for end in ops[joint].inputs[:2]]
    (side, end), (branch, _) = sorted(ends, key=lambda path: len(path[0]))
    lead = side & branch
    read = [i for number in side - lead for i in ops[number].inputs] or [end]
    after = chosen(main - side - branch - {joint})
    paths = chosen(lead), chosen(branch - lead), ops[joint].text, chosen(side - lead), after
    return Block(times, *paths, from_lead=bool(lead & set(read)))


def ancestors(ends: Sequence[int] | set[int], inputs: Mapping[int, Sequence[int]]) -> set[int]:
    """Returns the operations that `ends` depend on, and themselves; `inputs` are those of each operation."""
    reached, todo = set(ends), list(ends)
    while todo:
        new = set(inputs[todo.pop()]) - reached
        reached |= new
        todo += new
    return reached
