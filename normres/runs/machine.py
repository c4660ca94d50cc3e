"""What a run uses of this machine: the settings of its process, its dtype and its operations.

The folder normres/cpu is used for runs on a CPU where it is there, and everything works without it.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normres.errors import UserError

GIB_OF_A_PROCESS = 4  # of memory; ResNet-56 on CIFAR takes one to two

try:
    from normres import cpu
except ImportError:
    cpu = None  # type: ignore[assignment]


def prepare() -> None:
    """Sets up this process for training; call before jax is imported."""
    if cpu:
        cpu.flags.prepare()


def restart_with_huge_pages() -> None:
    """Starts this process anew with a faster malloc, once; call first of all, from a command alone."""
    if cpu:
        cpu.flags.restart_with_huge_pages()


def return_freed_memory() -> None:
    """Gives the system what Python and malloc hold of freed memory; call after compiling."""
    if cpu:
        cpu.flags.return_freed_memory()


def environment_as_given() -> dict[str, str]:
    """Returns the environment without what `prepare` has added to it, for processes that must not profit from it."""
    return cpu.flags.environment_as_given() if cpu else dict(os.environ)


def accelerators() -> list[dict[str, str]]:
    """Returns for each accelerator of this machine the environment of a process that is to have it alone.

    It looks at device files, as jax, once asked, would take them all.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA counts from 0 whatever the files are called, as in a container that has two of a host's.
    gpus = [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    if gpus and any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        chosen = gpus if visible is None else [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in chosen]
    alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    tpus = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    if not importlib.util.find_spec("libtpu"):
        return []
    return [{"TPU_VISIBLE_CHIPS": str(chip), **alone} for chip in range(len(tpus))]


def cores() -> list[int]:
    """Returns the numbers of the cores that this process has, or none if they are unknown."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # Some Slurms let a job see the cores of the other jobs on its node.
    return every if int(os.environ.get("SLURM_CPUS_ON_NODE", len(every))) >= len(every) else []


def processes_that_fit() -> int:
    """Returns how many processes may train side by side on the CPU: one a core, with enough memory for each."""
    from normres.data.files import physical_memory  # not at the top: `prepare` comes before jax

    return max(min(len(cores()), int(physical_memory() / 2**30 / GIB_OF_A_PROCESS)), 1)


def share_of_cores(process: int, processes: int) -> set[int]:
    """Returns the cores that process number `process` of `processes` is to have, alone if there are enough."""
    every = cores()
    first, end = (len(every) * number // processes for number in (process, process + 1))
    return set(every[first : max(end, first + 1)])


def resolve_dtype(wanted: str) -> str:
    """Turns "auto" into the fast dtype of the devices that jax sees: bfloat16, or float32 on CPUs without it."""
    if wanted != "auto":
        return wanted
    import jax

    slow = jax.default_backend() == "cpu" and not (cpu and cpu.flags.has_fast_bfloat16())
    return "float32" if slow else "bfloat16"


def operations(wanted: str, devices: Sequence[Any]) -> tuple[Any, str]:
    """Returns the operations (layers.Ops) of a run on `devices` of one platform, and what they are, in words.

    `wanted` is "plain" (plain JAX), "cpu" (those of normres/cpu), or "auto": the latter on CPUs.

    Raises:
      UserError: "cpu", and the devices are no CPUs or the folder is not there.
    """
    from normres.layers import PLAIN

    why_not = "" if devices[0].platform == "cpu" else f"the device is a {devices[0].platform}"
    why_not = why_not or ("" if cpu else "normres/cpu is not there")
    if wanted == "cpu" and why_not:
        raise UserError(f"config.train.ops='cpu' is not possible: {why_not}; auto does without it")
    return (PLAIN, "plain") if wanted == "plain" or why_not else cpu.operations(devices)
