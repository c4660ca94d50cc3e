"""Everything that exists only to be fast on a CPU.  This file is the room's one door; the folder may be deleted.

The operations of `operations` have the signatures of layers.PLAIN and, within rounding, its numbers.  They are for
training: reverse mode works; forward mode (jax.jvp) does not, nor shard_map that checks replication.

jax is not imported before `flags.prepare` has set its flags.
"""

from collections.abc import Sequence
from typing import Any

from normres.cpu import flags as flags


def operations(devices: Sequence[Any]) -> tuple[Any, str]:
    """Returns the operations (layers.Ops) that are fast on `devices`, which are CPUs, and what they are, in words.

    On one CPU with AVX-512 BF16 and without matrix units (AMX), convolutions are C++ code, compiled when it is first
    needed; the compiler does not know how to divide a call among devices, and AMX is faster at XLA's form.
    """
    from normres.cpu import native
    from normres.cpu.ops import NATIVE, XLA

    if len(devices) > 1:
        return XLA, "XLA (several devices)"
    if "amx_bf16" in native.cpu_features():
        return XLA, "XLA (matrix units)"
    missing = native.load()
    return (XLA, f"XLA ({missing})") if missing else (NATIVE, "C++ convolutions")
