"""Settings that every test runs under.  The environment is read when jax is imported, so it is set before."""

import os
import sys
from pathlib import Path

# Eight devices, so that statistics are merged over more members than one; and compiled without optimization, because
# each program here runs once or twice, and compiling is most of the time that the tests take.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # the tests themselves are parallel
    ]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing outside the tests' own folders.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".pytest_cache" / "home")
# What was compiled once is read by the next test and the next call, and by no other worker, which may be writing it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parent.parent / ".pytest_cache" / "compiled" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

if os.environ.get("NORMRES_WITHOUT_CPU"):
    # As if the folder normres/cpu were deleted: an import of it fails.
    sys.modules["normres.cpu"] = None  # type: ignore[assignment]

import jax

# Now, before a test that prepares a process for training can change the flags for those that follow.
jax.devices()

# A shape that broadcasts by accident is an error; whoever means it writes the axes of size 1.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files of few tests that take long come first, so that at the end no worker waits for another.
LONG = ("test_tutorial.py", "test_cli.py", "test_style.py", "test_hosts.py", "test_bench_step.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)
