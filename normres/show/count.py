"""What a network's parts cost: shapes, parameters, multiply-adds and activations, counted on the network itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import flax.linen as nn
import jax

from normres.show.blocks import Block, block, block_keys
from normres.show.watch import Op, Record, watch


@dataclass(frozen=True)
class Part:
    """The stem, a stage or the classifier.

    Attributes:
      name: "stem", "stage 1", ..., "classifier".
      blocks: number of blocks; 0 for stem and classifier.
      output: (height, width, channels) of its output for one image; (classes,) of the classifier's.
      single: the operations on the way to the logits that are in no block.
      norm: the last norm; None if there is none.
      parameters: learned scalars.
      multiply_adds: of convolutions and dense layers, forward, for one image.  Norms, ReLUs, additions and pooling are
        left out, as the papers do, and so is the arithmetic on kernels, which is done once per batch.
      kept_bytes: arrays made in this part that the backward pass needs, for one image.  It is what automatic
        differentiation keeps, to which a compiler may add its workspace, and of which it may compute some anew.
    """

    name: str
    blocks: int
    output: tuple[int, ...]
    single: tuple[Op, ...]
    norm: Op | None
    parameters: int
    multiply_adds: int
    kept_bytes: int


@dataclass(frozen=True)
class Counts:
    """A network.

    Attributes:
      image: (height, width, channels).
      parts: in the order in which an image passes them.
      blocks: each kind of block once, the most frequent first.
      depth: convolutions and dense layers from the image to the logits, along the blocks' branches.
    """

    image: tuple[int, ...]
    parts: tuple[Part, ...]
    blocks: tuple[Block, ...]
    depth: int

    @property
    def parameters(self) -> int:
        """Learned scalars."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """Forward, for one image; see Part."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def kept_bytes(self) -> int:
        """Activations that the backward pass needs, for one image; see Part."""
        return sum(part.kept_bytes for part in self.parts)


def count(network: nn.Module, image_shape: Sequence[int] = (32, 32, 3)) -> Counts:
    """Returns what a network consists of and costs.

    Args:
      network: a Flax module, images_NHWC -> logits.  If it has a field or an argument `train`, that is True.
      image_shape: (H, W, C).
    """
    record = watch(network, image_shape)
    ops, keys = record.ops, block_keys(record)
    live = record.ancestors(record.output)
    members: dict[object, list[int]] = {}
    for number in sorted(live):
        members.setdefault(keys[number], []).append(number)
    single = members.pop(None, [])
    blocks = {key: block(record, numbers) for key, numbers in members.items()}
    names = _names(record, keys, live, members)
    parameters = dict.fromkeys(names, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(record.params):
        module = tuple(entry.key for entry in path[:-1])
        first = next((i for i, op in enumerate(ops) if op.path[: len(module)] == module), 0)
        parameters[names[first]] += leaf.size
    parts = []
    for name in dict.fromkeys(names):
        inside = [i for i in range(len(ops)) if names[i] == name]
        own = [key for key, numbers in members.items() if names[numbers[0]] == name]
        way = [i for i in inside if i in live]
        norms = [ops[i] for i in way if ops[i].kind == "norm"]
        part = Part(
            name=name,
            blocks=sum(blocks[key].times for key in own),
            output=record.shape(way[-1]),
            single=tuple(ops[i] for i in way if i in single),
            norm=norms[-1] if norms else None,
            parameters=parameters[name],
            multiply_adds=sum(ops[i].multiply_adds * ops[i].times for i in inside),
            kept_bytes=sum(size for i, size in record.kept if names[max(i, 0)] == name),
        )
        parts.append(part)
    kinds: dict[str, Block] = {}
    for each in blocks.values():
        known = kinds.get(each.line)
        kinds[each.line] = replace(known, times=known.times + each.times) if known else each
    on_branches = [(op, each.times) for each in blocks.values() for op in (*each.lead, *each.branch, *each.after)]
    way = [*on_branches, *((ops[i], ops[i].times) for i in single)]
    depth = sum(times for op, times in way if op.kind in ("conv", "dense"))
    return Counts(record.image, tuple(parts), tuple(sorted(kinds.values(), key=lambda kind: -kind.times)), depth)


def _names(record: Record, keys: Sequence[object], live: set[int], members: dict[object, list[int]]) -> list[str]:
    """Returns the name of the part of each operation.

    A stage is the blocks with outputs of one shape, with what stands between and the pooling that follows; stem and
    classifier are what stands before the first block and after the last.  What is not on the way to the logits, such
    as an auxiliary classifier, belongs to the part that it follows.
    """
    last = max((number for numbers in members.values() for number in numbers), default=-1)
    name, stage, shape, names = "stem", 0, (), list[str]()
    for number, op in enumerate(record.ops):
        if keys[number] in members:
            output = record.ops[members[keys[number]][-1]].shape
            if output != shape:
                stage, shape = stage + 1, output
            name = f"stage {stage}"
        elif number in live and number > last and op.kind != "pool":
            name = "classifier"
        names.append(name)
    return names
