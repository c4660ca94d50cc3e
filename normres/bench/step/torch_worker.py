"""PyTorch as a contender, in a process and perhaps a Python of its own; it imports nothing of normres.

    python torch_worker.py (cpu | cuda) [default | reduce-overhead | max-autotune]

With a mode, torch.compile compiles the network with its loss, and the optimizer.
The ResNet and its training step as users of PyTorch write them, with what it is fastest with: channels last, autocast,
denormal numbers flushed to zero (without, a step can take ten times as long), and as many threads as there are cores.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
import torch.nn.functional as F  # type: ignore[import-not-found]
from torch import nn

# By path, because an import would make the other modules of its folder importable too.
_shared = runpy.run_path(str(Path(__file__).with_name("serve.py")))


def norm_of(spec: dict[str, Any]) -> Callable[[int], Any]:
    """Returns the constructor of the spec's norm, which takes the channels."""
    eps, groups = spec["epsilon"], {"group": spec["groups"], "layer": 1}
    if spec["norm"] in groups:
        return lambda channels: nn.GroupNorm(groups[spec["norm"]], channels, eps)
    if spec["norm"] == "instance":
        return partial(nn.InstanceNorm2d, eps=eps, affine=True)
    return partial(nn.BatchNorm2d, eps=eps, momentum=1 - spec["kept"])  # PyTorch's is the share of the new value


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(self, norm: Callable[[int], Any], inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Any) -> Any:
        """Returns the block's output."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        y += x
        return self.relu(y)


def network(spec: dict[str, Any]) -> Any:
    """Returns the CIFAR ResNet, a module from images (N, C, H, W) to logits."""
    make, inputs = norm_of(spec), spec["width"]
    layers = {"conv1": nn.Conv2d(3, inputs, 3, 1, 1, bias=False), "bn1": make(inputs), "relu": nn.ReLU(inplace=True)}
    for stage, count in enumerate(spec["blocks"]):
        blocks, outputs = [], spec["width"] * 2**stage
        for number in range(count):
            blocks.append(Block(make, inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, spec["classes"])}
    return nn.Sequential(OrderedDict(layers))


def build(
    device: str, mode: str, spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray
) -> SimpleNamespace:
    """See serve.Timed.  Unlike normres, PyTorch gets its batch ready-made, in float32."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    module = network(spec)
    module.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in weights.items()})
    module.to(device, memory_format=torch.channels_last)
    rate, momentum, decay = spec["learning_rate"], spec["momentum"], spec["weight_decay"]
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum, weight_decay=decay)
    x = torch.from_numpy(np.float32(images) / np.float32(255)).permute(0, 3, 1, 2)
    x = x.to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)

    def loss_of(x: Any, y: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=spec["dtype"] == "bfloat16"):
            return F.cross_entropy(module(x), y)

    update = optimizer.step
    if mode:
        loss_of, update = (torch.compile(function, mode=mode) for function in (loss_of, optimizer.step))

    def train(count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(x, y)
            loss.backward()
            update()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def state_dict() -> dict[str, np.ndarray]:
        return {name: tensor.cpu().contiguous().numpy() for name, tensor in module.state_dict().items()}

    return SimpleNamespace(train=train, state_dict=state_dict, most=1)


def main(device: str, mode: str = "") -> None:
    """Serves until the input ends."""
    peak = (lambda: None) if device == "cpu" else torch.cuda.max_memory_allocated
    timed = _shared["Timed"](partial(build, device, mode), peak)
    timed.version = lambda: {"version": torch.__version__}
    _shared["serve"](timed)


if __name__ == "__main__":
    main(*sys.argv[1:])
