"""What this CPU is good at, and the settings of XLA and malloc for a training process.  Nothing here imports jax."""

import ctypes
import gc
import hashlib
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path

# They send bfloat16 convolutions to the CPU's matrix units; other backends ignore them.
ONEDNN_FLAGS = ("--xla_cpu_use_onednn=true", "--xla_cpu_experimental_onednn_custom_call=true")

# With those two, float32 convolutions of 32 channels and more would still go to another, slower library.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"

# Huge pages (glibc 2.35 and later; older ones ignore this); and one arena for all threads, so that what the compiler's
# threads have freed is what the step takes: a fifth less memory at its peak.
MALLOC_TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Processor features with bfloat16 products: Intel from Sapphire Rapids or Cooper Lake, AMD from Zen 4.
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16")


def cpu_features() -> list[str]:
    """Returns the CPU's features in the kernel's words (Linux on x86-64; none elsewhere)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return next((line.split()[2:] for line in text.splitlines() if line.startswith("flags")), [])


def has_fast_bfloat16() -> bool:
    """Returns whether this CPU multiplies bfloat16 faster than float32."""
    return any(feature in cpu_features() for feature in BFLOAT16_FEATURES)


def prepare() -> None:
    """Sets up this process for training; call before jax is imported."""
    prepare_xla()
    keep_compiled_programs()


def prepare_xla() -> None:
    """Adds the XLA flags that help here to XLA_FLAGS; call before jax is imported.  What the user has set stays."""
    # A TPU's library is a separate build of XLA, which ends the process at a flag that it does not know.
    if not has_fast_bfloat16() or importlib.util.find_spec("libtpu"):
        return
    flags_before = os.environ.get("XLA_FLAGS", "")
    added = [flag for flag in ONEDNN_FLAGS if flag.split("=")[0] not in flags_before]
    if added == [*ONEDNN_FLAGS] and CONVOLUTION_FLAG.split("=")[0] not in flags_before:
        added.append(CONVOLUTION_FLAG)
    os.environ["XLA_FLAGS"] = " ".join([flags_before, *added]).strip()


def keep_compiled_programs() -> None:
    """Tells JAX to keep compiled programs in the user's cache directory, so that the next process need not compile.

    What the user has set stays: JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false for no cache.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory()))
    # XLA cannot write programs that call oneDNN; those are compiled anew, which is no reason to say so at every run.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry", UserWarning)


def cache_directory() -> Path:
    """Returns the directory of what is compiled for this kind of processor, which may not exist yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # JAX's key does not tell processors apart, whose programs must not meet in a home directory that several share.
    kind = hashlib.sha256(" ".join([platform.machine(), *cpu_features()]).encode()).hexdigest()[:8]
    return cache / "normres" / kind


def restart_with_huge_pages() -> None:
    """Starts this process anew with MALLOC_TUNABLES, once; call first of all, from a command alone.

    A training step on the CPU would take its hundreds of megabytes anew from the system each time, 4 kB at a time,
    which is a fifth of a ResNet-20 step.  glibc reads its tunables when a process begins.  Does nothing where the user
    tunes malloc, where there is no glibc, or where the system gives no huge pages.
    """
    if os.environ.get("GLIBC_TUNABLES") or platform.libc_ver()[0] != "glibc":
        return
    try:
        if "[never]" in HUGE_PAGES.read_text():
            return
    except OSError:
        return
    os.environ["GLIBC_TUNABLES"] = MALLOC_TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def return_freed_memory() -> None:
    """Gives the system what Python and malloc hold of freed memory (of malloc's on glibc alone); call after compiling.

    Tracing and compiling leave a hundred megabytes behind, which would stay this process's beside what a step takes.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def environment_as_given() -> dict[str, str]:
    """Returns the environment without what this module has added to it, for processes that must not profit from it."""
    environment = dict(os.environ)
    if environment.get("GLIBC_TUNABLES") == MALLOC_TUNABLES:
        del environment["GLIBC_TUNABLES"]
    flags = [flag for flag in environment.pop("XLA_FLAGS", "").split() if flag not in (*ONEDNN_FLAGS, CONVOLUTION_FLAG)]
    return environment | ({"XLA_FLAGS": " ".join(flags)} if flags else {})
