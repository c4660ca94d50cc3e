"""What a compiled program costs, read out of its text: kernels, bytes, collectives."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
SIZES |= {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8, "c128": 16}

# Instructions that neither start a kernel nor move anything.  What is asynchronous is counted at its start.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "opt-barrier", "after-all"),
    *("partition-id", "replica-id", "while", "conditional", "call", "async-start", "get-dimension-size", "domain"),
}
# A TPU's custom calls that do neither: room for a result, a promise, a view of neighbours as one array.
FREE_CALLS = re.compile('custom_call_target="(AllocateBuffer|AssumeGatherIndicesInBound|ConcatBitcast)"')
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# The attribute that names the computations which an instruction runs.
INNER = {"while": "body", "call": "to_apply", "conditional": "(?:branch_computations|true_computation)"}
INNER |= {"async-start": "calls"}
# Instructions that read of their first operand no more than they return.
SLICES = {"gather", "dynamic-slice", "slice"}

_ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")


@dataclass(frozen=True)
class Instruction:
    """An instruction: its name, its result's type, its kind, what it reads, and the rest of its line."""

    name: str
    type: str
    kind: str
    operands: tuple[str, ...]
    rest: str

    def names(self, attribute: str) -> list[str]:
        """Returns the computations that an attribute of the instruction names."""
        match = re.search(attribute + r"=(?:\{([^}]*)\}|(%?[\w.\-]+))", self.rest)
        return re.findall(r"[\w.\-]+", match[1] or match[2]) if match else []


Computations = dict[str, list[Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """Returns the computations of a program's text, and the name of the first one that runs."""
    computations: Computations = {}
    entry = ""
    inside: list[Instruction] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, kind_of_result, kind, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.partition("), ")[0]))
            inside.append(Instruction(name, kind_of_result, kind, operands, rest))
    return computations, entry


def size(type_text: str) -> float:
    """Returns the bytes of all arrays in a type, without padding."""
    return sum(
        SIZES[dtype] * math.prod(map(int, filter(None, sides.split(",")))) for dtype, sides in _ARRAY.findall(type_text)
    )


def _trips(computations: Computations, loop: Instruction) -> int:
    """Returns how often a loop turns: as the compiler notes it, or the one number that its condition compares with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = computations[loop.names("condition")[0]]
    constants = (each.rest.partition(")")[0] for each in condition if each.kind == "constant")
    numbers = [int(constant) for constant in constants if constant.isdecimal()]
    return numbers[0] if len(numbers) == 1 else 1


def _runs(computations: Computations, name: str, times: int = 1) -> Iterator[tuple[Instruction, int, dict[str, str]]]:
    """Yields every instruction that runs, how many times it does, and the types of its computation's values."""
    types = {each.name: each.type for each in computations[name]}
    for each in computations[name]:
        yield each, times, types
        trips = _trips(computations, each) if each.kind == "while" else 1
        for computation in each.names(INNER[each.kind]) if each.kind in INNER else ():
            yield from _runs(computations, computation, times * trips)


def _moved(computations: Computations, each: Instruction, types: dict[str, str]) -> float:
    """Returns the bytes that an instruction reads and writes.

    Of an array that it only looks up, the rows that it looks up; of an array that it changes in place, what it changes.
    """
    reads = {number: size(types.get(operand, "")) for number, operand in enumerate(each.operands)}
    written = size(each.type)
    # Of what is asynchronous, the type has the operands too.
    if each.type.startswith("((") or each.kind in ("copy-start", "all-gather-start", "collective-permute-start"):
        written -= sum(reads.values())
    if each.kind in SLICES:
        return 2 * written
    if each.kind == "dynamic-update-slice":
        return 2 * reads[1]
    called = each.names("calls") if each.kind in ("fusion", "fusion-start") else []
    if not called:
        return written + sum(reads.values())
    used, unwritten = _used(computations, called[0])
    return written - unwritten + sum(min(whole, used.get(number, whole)) for number, whole in reads.items())


def _used(computations: Computations, name: str) -> tuple[dict[int, float], float]:
    """Returns what a fused computation reads of each parameter (inf: all), and what of its results it leaves."""
    body = {inner.name: inner for inner in computations[name]}
    used: dict[int, float] = {}
    unwritten = 0.0

    def parameter(name: str) -> int | None:
        """Returns the number of the parameter that a value is, in whatever shape."""
        inner = body.get(name)
        while inner and inner.kind in ("bitcast", "copy", "reshape"):
            inner = body.get(inner.operands[0])
        return int(inner.rest.partition(")")[0]) if inner and inner.kind == "parameter" else None

    for inner in body.values():
        if inner.kind in ("parameter", "bitcast", "copy", "reshape"):
            continue
        fused: dict[int, float] = {}
        if inner.kind == "fusion":
            fused, less = _used(computations, inner.names("calls")[0])
            unwritten += less
        for place, operand in enumerate(inner.operands):
            if (number := parameter(operand)) is None:
                continue
            read = fused.get(place, math.inf)
            if inner.kind in SLICES and place == 0:
                read = size(inner.type)
            elif inner.kind == "dynamic-update-slice" and place == 0:
                read = 0.0
                unwritten += size(inner.type) - size(body[inner.operands[1]].type)
            used[number] = used.get(number, 0.0) + read
    return used, unwritten


def cost(compiled: Any) -> dict[str, Any]:
    """Returns what one run of a compiled program costs on one device.

    kernels: instructions that start one, a loop's as often as it turns.
    bytes: that they read and write, by the sizes of their arrays; of a lookup, the rows.
    collectives: how many of each kind.
    estimate_ms: the compiler's own, None where it has none; it counts a loop's body once.
    temporary_bytes, argument_bytes: memory.
    """
    computations, entry = parse(compiled.as_text())
    kernels, moved, collectives = 0, 0.0, Counter[str]()
    for each, times, types in _runs(computations, entry):
        if each.kind in FREE or each.kind.endswith("-done") or FREE_CALLS.search(each.rest):
            continue
        kernels += times
        moved += times * _moved(computations, each, types)
        if (kind := each.kind.removesuffix("-start")) in COLLECTIVES:
            collectives[kind] += times
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    seconds = analysis.get("optimal_seconds", 0)
    return {
        "kernels": kernels,
        "bytes": moved,
        "bytes_by_compiler": analysis.get("bytes accessed") or None,
        "collectives": dict(collectives),
        "estimate_ms": 1e3 * seconds if seconds > 0 else None,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
