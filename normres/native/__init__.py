"""C++ code for the CPU: compiled when it is first needed, kept in the user's cache directory, and brought to XLA.

Where it cannot be had, the same functions are XLA's.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax

from normres.deferred import BACKWARD_TARGET, FORWARD_TARGET
from normres.errors import UserError
from normres.launch import machine
from normres.merging import STATISTICS_BACKWARD_TARGET, STATISTICS_TARGET

WHEN = ("never", "always", "auto")

SOURCES = Path(__file__).parent

# The processor's features that the code uses, and the compiler's options for them.
FEATURES = {"avx512f": "-mavx512f", "avx512bw": "-mavx512bw", "avx512vl": "-mavx512vl", "avx512_bf16": "-mavx512bf16"}
OPTIONS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-w", "-mfma", "-mbmi2", *FEATURES.values())


# What XLA calls, and its name in the code.
TARGETS = {
    FORWARD_TARGET: "ConvolutionForward",
    BACKWARD_TARGET: "ConvolutionBackward",
    STATISTICS_TARGET: "StatisticsForward",
    STATISTICS_BACKWARD_TARGET: "StatisticsBackward",
}


def used(when: str, devices: Sequence[Any]) -> bool:
    """Returns whether a program on `devices` computes by this code, which is loaded then; `when` is one of WHEN.

    "auto": on one CPU, as the compiler does not know how to divide a call among devices, and not on those with
    matrix units, which may be faster at XLA's form.

    Raises:
      UserError: "always", and it cannot be had or `devices` are not one CPU.
    """
    if when == "never":
        return False
    why_not = "it is for programs on one CPU" if len(devices) > 1 or devices[0].platform != "cpu" else ""
    if when == "auto" and (why_not or "amx_bf16" in machine.cpu_features()):
        return False
    why_not = why_not or load()
    if why_not and when == "always":
        raise UserError(f"config.model.native='always' is not possible: {why_not}; auto does without it")
    return not why_not


@cache
def load() -> str:
    """Compiles the code if it is not in the cache, and registers it with XLA; returns why that cannot be, or ""."""
    if missing := [feature for feature in FEATURES if feature not in machine.cpu_features()]:
        return f"the processor has no {missing[0]}"
    try:
        library = ctypes.CDLL(str(compiled()))
    except OSError as error:
        return str(error)
    for target, name in TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return ""


def compiled() -> Path:
    """Returns the shared library, from the cache or compiled.

    Raises:
      OSError: there is no compiler, it fails, or there is no place to write.
    """
    compiler, *own = shlex.split(os.environ.get("CXX") or "c++")  # such as "ccache g++"
    if shutil.which(compiler) is None:
        raise OSError(f"there is no C++ compiler ({compiler})")
    sources = sorted(SOURCES.glob("*.cc"))
    text = b"".join(file.read_bytes() for file in [*sorted(SOURCES.glob("*.h")), *sources])
    command = [compiler, *own, *OPTIONS, "-I", jax.ffi.include_dir()]
    key = hashlib.sha256(text + repr((command, jax.lib.__version__)).encode()).hexdigest()[:12]
    found = machine.cache_directory() / f"native-{key}.so"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        # Written beside it and renamed, as other processes may be doing the same.
        with tempfile.TemporaryDirectory(dir=found.parent) as folder:
            built = Path(folder) / found.name
            done = subprocess.run([*command, *map(str, sources), "-o", str(built)], capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                raise OSError(f"{compiler} fails: {said[0] if said else f'exit status {done.returncode}'}")
            built.replace(found)
    return found
