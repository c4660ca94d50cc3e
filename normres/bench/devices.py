"""Devices that programs are compiled for though they are not there: TPUs by libtpu, an H100 by XLA's CUDA compiler."""

import importlib.util
import os
import re
from typing import Any

from normres.errors import UserError, nearest
from normres.runs import machine

# What XLA must know of a GPU to compile for it: NVIDIA H100 SXM, 80 GB.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""

LOCAL = "local"  # the devices that jax sees
CHOICES = ("tpu-v5e:1x1", "tpu-v5e:2x2", "tpu-v6e:1x1", "tpu-v5p:1x1x1", "tpu-v4:1x1x1", "h100", LOCAL)

# The extra of each kind of device, and a module that it installs.
EXTRAS = {"tpu": ("tpu", ("libtpu",)), "h100": ("cuda13 or cuda12", ("jax_cuda13_plugin", "jax_cuda12_plugin"))}


def prepare(name: str) -> None:
    """Sets what the compilers of a device need, be it absent; call before jax is imported."""
    if name != LOCAL:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # no question to a cloud's metadata server, which is not there
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # whose programs cannot be loaded for an absent device
        # Kernels cannot be timed where there is no GPU.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    machine.prepare()


def find(name: str) -> list[Any]:
    """Returns the devices of a name: one of CHOICES, or a TPU of another topology, such as tpu-v5e:4x4.

    What does not exist, or lacks the extra that compiles for it, is a UserError.
    """
    import jax
    from jax.experimental import topologies

    if name == LOCAL:
        return jax.devices()
    kind = "h100" if name == "h100" else "tpu" if re.fullmatch(r"tpu-v\w+:\d+(x\d+)+", name) else ""
    if not kind:
        raise UserError(f"--device={name} does not exist; {nearest(name, CHOICES)}")
    extra, modules = EXTRAS[kind]
    if not any(map(importlib.util.find_spec, modules)):
        raise UserError(f"--device={name} needs the extra {extra}: make setup EXTRA={extra.split()[0]}")
    try:
        if kind == "tpu":
            return list(topologies.get_topology_desc(name.removeprefix("tpu-"), platform="tpu").devices)
        return list(topologies.get_topology_desc(name, "cuda", target_config=H100, topology="1x1x1").devices)
    except Exception as error:  # jaxlib's own, of many kinds
        line = next(line for line in str(error).splitlines() if line.strip())
        raise UserError(f"--device={name}: the compiler refuses it: {line}") from None
