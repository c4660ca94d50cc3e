"""What a network's parts cost: shapes, parameters, multiply-adds and activations, counted on the network itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import flax.linen as nn
import jax

from normres.show.blocks import Block, ancestors, block, block_keys
from normres.show.watch import Op, watch


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
      layers: convolutions and dense layers between image and logits, along the blocks' branches.
      parameters, multiply_adds, kept_bytes: sums over the parts.
    """

    image: tuple[int, ...]
    parts: tuple[Part, ...]
    blocks: tuple[Block, ...]
    layers: int
    parameters: int
    multiply_adds: int
    kept_bytes: int


def count(network: nn.Module, image_shape: Sequence[int] = (32, 32, 3)) -> Counts:
    """Returns what a network consists of and costs.

    Args:
      network: a Flax module, images_NHWC -> logits.  If it has a field or an argument `train`, that is True.
      image_shape: (H, W, C).
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
    parameters = dict.fromkeys(names, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(record.params):
        module = tuple(entry.key for entry in path[:-1])
        first = next((i for i, op in enumerate(ops) if op.path[: len(module)] == module), 0)
        parameters[names[first]] += leaf.size
    parts = []
    for name in parameters:
        passed = [i for i in way if names[i] == name]
        part = Part(
            name=name,
            blocks=sum(blocks[key].times for key, numbers in members.items() if names[numbers[0]] == name),
            output=ops[passed[-1]].shape,
            single=tuple(ops[i] for i in passed if i in single),
            norm=next((ops[i] for i in reversed(passed) if ops[i].kind == "norm"), None),
            parameters=parameters[name],
            multiply_adds=sum(op.multiply_adds * op.times for op, own in zip(ops, names, strict=True) if own == name),
            kept_bytes=sum(size for i, size in record.kept if names[max(i, 0)] == name),
        )
        parts.append(part)
    kinds: dict[str, Block] = {}
    for each in blocks.values():
        known = kinds.setdefault(each.line, replace(each, times=0))
        kinds[each.line] = replace(known, times=known.times + each.times)
    on_branches = [op for each in blocks.values() for op in (*each.lead, *each.branch, *each.after)]
    layers = sum(op.times for op in (*on_branches, *(ops[i] for i in single)) if op.kind in ("conv", "dense"))
    sums = (sum(getattr(part, name) for part in parts) for name in ("parameters", "multiply_adds", "kept_bytes"))
    return Counts(
        record.image, tuple(parts), tuple(sorted(kinds.values(), key=lambda kind: -kind.times)), layers, *sums
    )


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
