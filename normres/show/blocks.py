"""Which operations of a network form a block, and what a block's two paths are."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from normres.show.watch import Op

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
