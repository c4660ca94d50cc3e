"""What a network's parts cost: shapes, parameters and multiply-adds, counted on the network itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import flax.linen as nn
import jax

from normres.show.blocks import Block, ancestors, block, block_keys
from normres.show.watch import Op, watch


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
