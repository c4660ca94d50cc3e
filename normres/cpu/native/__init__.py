"""C++ convolutions for the CPU: compiled when first needed, kept in the user's cache directory, and brought to XLA.

`load` first, then `convolution` and `gradients` can be called, in programs for one CPU.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from normres.cpu.flags import cache_directory, cpu_features

SOURCES = Path(__file__).parent

# The processor's features that the code uses, and the compiler's options for them.
FEATURES = {"avx512f": "-mavx512f", "avx512bw": "-mavx512bw", "avx512vl": "-mavx512vl", "avx512_bf16": "-mavx512bf16"}
OPTIONS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-w", "-mfma", "-mbmi2", *FEATURES.values())

# What XLA calls, and its name in the code.
FORWARD_TARGET, BACKWARD_TARGET = "normres_convolution", "normres_convolution_gradients"
TARGETS = {FORWARD_TARGET: "ConvolutionForward", BACKWARD_TARGET: "ConvolutionBackward"}


def possible(x: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Returns whether `convolution` takes arrays of these shapes and dtypes."""
    return (
        x.dtype in (jnp.float32, jnp.bfloat16)
        and kernel.dtype == jnp.float32
        and kernel.shape[:2] in ((1, 1), (3, 3))
        and kernel.shape[2] == x.shape[-1]
        and 0 not in kernel.shape
        and stride in (1, 2)
        and x.shape[1] % stride == 0
        and x.shape[2] % stride == 0
    )


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the convolution of `x`, with kernel.shape[0] // 2 pixels of zeros around it, in its dtype.

    x (N, H, W, I) is float32 or bfloat16, in which the kernel (K, K, I, O), float32, is rounded too; sums are float32.
    """
    rows, columns = x.shape[1] // stride, x.shape[2] // stride
    result = jax.ShapeDtypeStruct((x.shape[0], rows, columns, kernel.shape[-1]), x.dtype)
    call = jax.ffi.ffi_call(FORWARD_TARGET, result, vmap_method="broadcast_all")
    y: jax.Array = call(x, kernel, stride=np.int64(stride))
    return y


def gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, of_input: bool = True
) -> tuple[jax.Array | None, jax.Array]:
    """Returns the gradients of `convolution`'s x and kernel, of their shapes and dtypes, from its output's, `dy`.

    Without `of_input`, that of x is not computed, and None.
    """
    results = (
        jax.ShapeDtypeStruct(x.shape if of_input else (0,), x.dtype),
        jax.ShapeDtypeStruct(kernel.shape, jnp.float32),
    )
    call = jax.ffi.ffi_call(BACKWARD_TARGET, results, vmap_method="broadcast_all")
    dx, d_kernel = call(x, kernel, dy, stride=np.int64(stride))
    return dx if of_input else None, d_kernel


@cache
def load() -> str:
    """Compiles the code if it is not in the cache, and registers it with XLA; returns why that cannot be, or ""."""
    if missing := [feature for feature in FEATURES if feature not in cpu_features()]:
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
    library = cache_directory() / f"native-{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Written beside it and renamed, as other processes may be doing the same.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            done = subprocess.run([*command, *map(str, sources), "-o", str(built)], capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                raise OSError(f"{compiler} fails: {said[0] if said else f'exit status {done.returncode}'}")
            built.replace(library)
    return library
