"""Writes tests/fixtures/torch_networks.npz: ResNets and their state dicts in PyTorch.

    python scripts/make_torch_network_fixtures.py [--out FOLDER]

Runs wherever torch (2.13 or later), torchvision and numpy import; the tests only read the file.  The
networks are torchvision's resnet18 and resnet50, with fewer channels, and the usual CIFAR ResNets (He et al. 2015,
arXiv 1512.03385) with the names of PyTorch's users.

Everything is computed in float64, because in float32 rounding moves ReLUs, and with them gradients, the more the
deeper; the weights are numbers that float16 has, so the file keeps them exactly.  Per case: `shapes`, those of the
state dict by key, in JSON; `state`, all its numbers in that order; `eval` and `train`, logits of the images.  After one
backward pass of the mean cross-entropy in training: `running`, the numbers of the buffers; `sums`, for each parameter's
gradient g, (sum of g_i cos(i), length of g); `gradient`, the numbers of those of FULL.  `errors`: those of PyTorch's
own float32 eval logits and train logits, relative to the largest, and of the gradient, relative to its length.
Takes ten seconds.
"""

import argparse
import copy
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

FULL = ("conv1.weight", "bn1.weight", "layer2.1.conv1.weight", "layer2.1.bn2.bias")


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the resolution but for its stride."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: zeros for new channels, or a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.stride, self.zeros = stride, outputs - inputs
        if project and self.zeros:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the branch to the shortcut."""
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            return functional.relu(branch + self.shortcut(x))
        # Option A: zeros on both sides of the channels.
        before = self.zeros // 2
        side = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.zeros - before))
        return functional.relu(branch + side)


class Cifar(nn.Module):
    """The CIFAR ResNet with so many blocks in each of its three stages."""

    def __init__(self, blocks: int, width: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1, inputs = convolution(3, width, 3), nn.BatchNorm2d(width), width
        for stage in range(3):
            outputs = width * 2**stage
            first = Block(inputs, outputs, 2 if stage else 1, project)
            others = [Block(outputs, outputs, 1, project) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *others))
            inputs = outputs
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def narrowed(module: nn.Module, divisor: int) -> nn.Module:
    """Replaces the layers of a network by ones with 1 / divisor of the channels; 3 colours and 10 classes stay."""

    def fewer(channels: int) -> int:
        return channels if channels in (3, 10) else channels // divisor

    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            inputs, outputs = fewer(child.in_channels), fewer(child.out_channels)
            new = nn.Conv2d(inputs, outputs, child.kernel_size, child.stride, child.padding, bias=False)
            setattr(module, name, new)
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(fewer(child.num_features), child.eps, child.momentum))
        elif isinstance(child, nn.Linear):
            setattr(module, name, nn.Linear(fewer(child.in_features), child.out_features))
        else:
            narrowed(child, divisor)
    return module


def fill(generator: np.random.Generator, network: nn.Module) -> None:
    """Sets every number of the state dict, to what float16 has, so that activations keep their size."""
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            shape = tuple(tensor.shape)
            if key.endswith("num_batches_tracked"):
                tensor.fill_(7)
                continue
            if key.endswith("running_var"):
                new = generator.uniform(0.5, 1.5, shape)
            elif len(shape) > 1:
                new = generator.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
            else:
                new = (1 if key.endswith("weight") else 0) + 0.2 * generator.standard_normal(shape)
            tensor.copy_(torch.from_numpy(new.astype(np.float16).astype(np.float64)))


def results(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
    """Evaluates, then does one training step without an update: logits, gradients, running statistics."""
    with torch.no_grad():
        evaluated = network.eval()(images)
    network.train().zero_grad()
    logits = network(images)
    functional.cross_entropy(logits, labels).backward()
    running = {key: tensor for key, tensor in network.state_dict().items() if "running" in key or "tracked" in key}
    return {
        "logits": {"eval": evaluated.numpy(), "train": logits.detach().numpy()},
        "running": {key: tensor.numpy().copy() for key, tensor in running.items()},
        "gradient": {key: tensor.grad.numpy().copy() for key, tensor in network.named_parameters()},
    }


def flat(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """One vector of all numbers: of a thousand small arrays in a file, most would be headers."""
    return np.concatenate([array.ravel() for array in arrays])


def case_arrays(
    generator: np.random.Generator, network: nn.Module, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns what is recorded of a network."""
    network.double()
    fill(generator, network)
    state = {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}
    single = copy.deepcopy(network).float()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    computed = results(network, x, y)
    rough = results(single, x.float(), y)
    errors = {
        name: np.abs(rough["logits"][name] - exact).max() / np.abs(exact).max()
        for name, exact in computed["logits"].items()
    }
    whole = [flat(r["gradient"].values()) for r in (rough, computed)]
    errors["gradient"] = np.linalg.norm(whole[0] - whole[1]) / np.linalg.norm(whole[1])
    sums = [(np.sum(g.ravel() * np.cos(np.arange(g.size))), np.linalg.norm(g)) for g in computed["gradient"].values()]
    return {
        "shapes": np.array(json.dumps({key: array.shape for key, array in state.items()})),
        "state": flat(state.values()).astype(np.float16),
        **computed["logits"],
        "running": flat(computed["running"].values()),
        "sums": np.array(sums),
        "gradient": flat(computed["gradient"][key] for key in FULL),
        "errors": np.array([errors[name] for name in ("eval", "train", "gradient")]),
    }


def main() -> None:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures")
    out = parser.parse_args().out
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((6, 3, 32, 32)).astype(np.float16).astype(np.float64)
    labels = generator.integers(0, 10, 6)
    models = torchvision.models
    cases = {
        "resnet18": narrowed(models.resnet18(num_classes=10), 16),
        "resnet50": narrowed(models.resnet50(num_classes=10), 32),
        "cifar20": Cifar(3, 4, project=False),
        "cifar14_projection": Cifar(2, 4, project=True),
    }
    arrays = {"images": images.astype(np.float16), "labels": labels}
    for case, network in cases.items():
        arrays |= {f"{case}/{name}": array for name, array in case_arrays(generator, network, images, labels).items()}
        print(case, "errors in float32:", arrays[f"{case}/errors"])
    versions = {"torch_version": np.array(torch.__version__), "torchvision_version": np.array(torchvision.__version__)}
    path = out / "torch_networks.npz"
    np.savez_compressed(path, **versions, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
