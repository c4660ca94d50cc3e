"""Which operations of a network form a block, and what a block's two paths are."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from normres.show.watch import Op, Record


@dataclass(frozen=True)
class Block:
    """A block: after(shortcut(x) + branch(lead(x))).

    Attributes:
      lead: what both paths have in common at their start.
      branch: the rest, up to the addition; of a block without one, everything.
      joint: how the paths are put together: "+", "concatenate"; "" if there is one path only.
      shortcut: what stands on it; empty if it is the identity.
      after: what follows the addition.
      from_lead: whether the shortcut reads the output of `lead` rather than the block's input.
      times: how many such blocks the network has.
    """

    lead: tuple[Op, ...]
    branch: tuple[Op, ...]
    joint: str = ""
    shortcut: tuple[Op, ...] = ()
    after: tuple[Op, ...] = ()
    from_lead: bool = False
    times: int = 1

    @property
    def line(self) -> str:
        """Returns the block in a few words: "3×3 conv, norm, ReLU, 3×3 conv, norm, + identity, ReLU"."""
        words = [line((*self.lead, *self.branch))]
        if self.joint:
            side = line(self.shortcut) or "identity"
            side = f"({side})" if len(self.shortcut) > 1 else side
            place = f" of {line(self.lead)}" if self.from_lead and len(self.lead) == 1 else ""
            place = f" of ({line(self.lead)})" if self.from_lead and len(self.lead) > 1 else place
            words.append(f"{self.joint} {side}{place}")
        return ", ".join(filter(None, [*words, line(self.after)]))


def line(ops: Sequence[Op]) -> str:
    """Returns operations in a few words: "3×3 conv, norm, ReLU"."""
    short = {"conv": lambda text: text.split(",")[0], "norm": lambda text: f"norm{text.partition(' norm')[2]}"}
    return ", ".join(short.get(op.kind, str)(op.text) for op in ops)


def block_keys(record: Record) -> list[Hashable]:
    """Returns for each operation a key of the block that it belongs to; None for one that belongs to none.

    A block is the innermost module that adds two paths; elsewhere it is the outermost module with a convolution and
    something else.  In a network without such modules a block is a convolution with what follows, up to the next
    convolution, pooling or dense layer.
    """
    adding = {op.calls for op in record.ops if op.kind == "add" and len(op.calls) > 1}
    around = {call for calls in adding for call in calls[1:-1]}  # modules that contain such a module
    keys: list[Hashable] = [next((call for call in op.calls[1:] if call not in around), None) for op in record.ops]
    kinds: dict[Hashable, list[str]] = {}
    for key, op in zip(keys, record.ops, strict=True):
        kinds.setdefault(key, []).append(op.kind)
    blocks = {key for key, inside in kinds.items() if len(inside) > 1 and {"conv", "add"} & set(inside)} - {None}
    if blocks:
        return [key if key in blocks else None for key in keys]
    key, plain = None, list[Hashable]()
    for number, op in enumerate(record.ops):
        if op.kind in ("conv", "pool", "average", "dense", "pad"):
            key = number if op.kind == "conv" else None
        plain.append(key)
    return plain


def block(record: Record, numbers: Sequence[int]) -> Block:
    """Returns the block that consists of the operations of these numbers.

    The gate of a product (what ends in a sigmoid) becomes a part of the product's text.
    """
    inputs = {number: [i for i in record.ops[number].inputs if i in set(numbers)] for number in numbers}
    texts: dict[int, str] = {}
    for number in numbers:
        op = record.ops[number]
        gates = [i for i in op.inputs if i in inputs and record.ops[i].text in ("sigmoid", "tanh", "hard_sigmoid")]
        if op.kind == "gate" and gates and len(op.inputs) > 1:
            source = next(i for i in op.inputs if i != gates[0])
            own = _reached(gates[0], inputs) - (_reached(source, inputs) if source in inputs else set())
            texts[number] = f"{op.text} gate ({line([record.ops[i] for i in sorted(own)])})"
            inputs[number] = [i for i in inputs[number] if i != gates[0]]
    main = _reached(max(numbers), inputs)
    joints = [i for i in sorted(main) if record.ops[i].kind == "add" and len(record.ops[i].inputs) > 1]

    def ops(chosen: set[int]) -> tuple[Op, ...]:
        return tuple(replace(record.ops[i], text=texts.get(i, record.ops[i].text)) for i in sorted(chosen))

    if not joints:
        return Block((), ops(main), times=record.ops[numbers[0]].times)
    joint = joints[-1]
    ends = record.ops[joint].inputs
    first, second = (_reached(end, inputs) if end in inputs else set() for end in ends[:2])
    lead = first & second
    side, branch = sorted((first, second), key=len)
    end = ends[0] if side is first else ends[1]
    reads = [i for number in side - lead for i in record.ops[number].inputs] or [end]
    return Block(
        ops(lead),
        ops(branch - lead),
        record.ops[joint].text,
        ops(side - lead),
        ops(main - first - second - {joint}),
        from_lead=any(i in lead for i in reads),
        times=record.ops[joint].times,
    )


def _reached(end: int, inputs: dict[int, list[int]]) -> set[int]:
    """Returns the operations of a block that `end` depends on, and itself."""
    reached, todo = {end}, [end]
    while todo:
        new = set(inputs[todo.pop()]) - reached
        reached |= new
        todo += new
    return reached
