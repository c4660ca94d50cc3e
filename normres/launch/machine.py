"""What this machine is good at.  Nothing here imports jax before `prepare` has set its flags."""

import ctypes
import hashlib
import os
import platform
import warnings
from pathlib import Path

# They send bfloat16 convolutions to the CPU's matrix units; other backends ignore them.
ONEDNN_FLAGS = ("--xla_cpu_use_onednn=true", "--xla_cpu_experimental_onednn_custom_call=true")

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


def cpu_has_fast_bfloat16() -> bool:
    """Returns whether this CPU multiplies bfloat16 faster than float32."""
    return any(feature in cpu_features() for feature in BFLOAT16_FEATURES)


def prepare() -> None:
    """Sets up this process for training; call before jax is imported."""
    prepare_xla()
    keep_compiled_programs()
    keep_freed_memory()


def prepare_xla() -> None:
    """Adds the XLA flags that help here to XLA_FLAGS; call before jax is imported.  What the user has set stays."""
    if not cpu_has_fast_bfloat16():
        return
    given = os.environ.get("XLA_FLAGS", "")
    added = [flag for flag in ONEDNN_FLAGS if flag.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def keep_compiled_programs() -> None:
    """Tells JAX to keep compiled programs in the user's cache directory, so that the next process need not compile.

    What the user has set stays: JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false for no cache.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # JAX's key does not tell processors apart, whose programs must not meet in a home directory that several share.
    kind = hashlib.sha256(" ".join([platform.machine(), *cpu_features()]).encode()).hexdigest()[:8]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "normres" / kind))
    # XLA cannot write programs that call oneDNN; those are compiled anew, which is no reason to say so at every run.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry", UserWarning)


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep what is freed: a CPU training step otherwise maps all its buffers anew.

    About a tenth of a ResNet-20 step.  Does nothing where there is no mallopt or the user tunes malloc already.
    """
    if os.environ.get("GLIBC_TUNABLES") or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # the names' numbers in malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**28)


def resolve_dtype(wanted: str) -> str:
    """Turns "auto" into the fast dtype of the devices that jax sees: bfloat16, or float32 on CPUs without it."""
    if wanted != "auto":
        return wanted
    import jax

    on_cpu = jax.default_backend() == "cpu"
    return "float32" if on_cpu and not cpu_has_fast_bfloat16() else "bfloat16"
