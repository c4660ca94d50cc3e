"""What a run does in another way on one kind of device than on another: one row for each kind.

No row changes what is computed, but for rounding.  Each value is what was measured to take less time, or what the
compilers count of it (docs/accelerators.md, docs/performance.md).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from normres.layers import PLAIN, Ops
from normres.training import tpu


class Platform(NamedTuple):
    """A kind of device.

    Attributes:
      unrolls: whether model.unroll=auto unrolls loops over blocks, where compiling them pays.
      remat_of_narrow: model.remat=auto of a network whose first stage has at most NARROW channels; see resnet.REMAT.
      plain: the operations in place of PLAIN, the same functions.
      blocks_apart: whether a training step has each unrolled block's variables apart, see tpu.BlockByBlock.
      donates: whether a training step writes the new state into the memory of the old one.
      steps: how many training steps one program does at most, if the operations are not plain JAX.
      once: compiler options of programs that run once.
    """

    unrolls: bool = False
    remat_of_narrow: str = "loops"
    plain: Ops = PLAIN
    blocks_apart: bool = False
    donates: bool = True
    steps: int = 1
    once: Mapping[str, Any] | None = None


# Up to this width a TPU computes convolutions anew in less time than its loops take to write and read their outputs.
NARROW = 64

# Unrolled, a step takes a tenth less time on two CPU cores and half the kernels on a GPU.
# A program of several steps: XLA takes a program's temporary memory, hundreds of megabytes, anew for each, and the
# system clears it, which costs a step up to 8 %.  More than 8 would gain little, and signals wait for programs.  In a
# loop, XLA's gradient of a plain convolution is thirty times slower on a CPU, so plain JAX does one step.
# Without optimization, a program that runs once compiles seconds faster on a CPU.
_CPU = Platform(unrolls=True, steps=8, once={"xla_backend_optimization_level": 0})
# A GPU's compiler copies each donated array by a kernel: 44 of the 395 of a ResNet-20.
_GPU = Platform(unrolls=True, donates=False)
_TPU = Platform(remat_of_narrow="block_in_loops", plain=tpu.OPERATIONS, blocks_apart=True)
UNKNOWN = Platform()
PLATFORMS = {"cpu": _CPU, "gpu": _GPU, "cuda": _GPU, "rocm": _GPU, "tpu": _TPU}


def platform_of(device: Any) -> Platform:
    """Returns the row of a jax device."""
    return PLATFORMS.get(device.platform, UNKNOWN)
