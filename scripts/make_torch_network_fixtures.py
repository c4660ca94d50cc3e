"""Writes tests/fixtures/torch_networks.npz and tests/fixtures/torch_files/: ResNets and their state dicts in PyTorch.

    python scripts/make_torch_network_fixtures.py [--out FOLDER]

Runs wherever torch (2.13 or later) and numpy import; the tests only read the files.  The networks have the structure
and the names of torchvision's resnet18 and resnet50 and of the usual CIFAR ResNets (He et al. 2015, arXiv 1512.03385;
a bottleneck's stride is on its 3x3), with fewer channels.  Where torchvision imports, the first two ARE torchvision's,
each layer replaced by a narrower one, and the plain modules below must agree with them; elsewhere the plain modules are
used alone.  `structure` in the file says which it was.

Everything is computed in float64, because in float32 rounding moves ReLUs, and with them gradients, the more the
deeper; the weights are numbers that float16 has, so the file keeps them exactly.  Per case: `shapes`, those of the
state dict by key, in JSON; `state`, all its numbers in that order; `eval` and `train`, logits of the images.  After one
backward pass of the mean cross-entropy in training: `running`, the numbers of the buffers; `sums`, for each parameter's
gradient g, (sum of g_i cos(i), length of g); `gradient`, the numbers of those of FULL.  `errors`: those of PyTorch's
own float32 eval logits and train logits, relative to the largest, and of the gradient, relative to its length.
The files hold one small state dict, in every format and dtype that is read.  Takes ten seconds.
"""

import argparse
import collections
import copy
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
FULL = ("conv1.weight", "bn1.weight", "layer2.1.conv1.weight", "layer2.1.bn2.bias")


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the resolution but for its stride."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """A post-activation block of two 3x3, or of 1x1, 3x3 and 1x1 convolutions; `shortcut` names its projection."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, shortcut: str, option: str) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        widths = [inputs, width, width, outputs] if bottleneck else [inputs, width, outputs]
        sizes, strides = ([1, 3, 1], [1, stride, 1]) if bottleneck else ([3, 3], [stride, 1])
        self.count = len(sizes)
        for i in range(self.count):
            setattr(self, f"conv{i + 1}", convolution(widths[i], widths[i + 1], sizes[i], strides[i]))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.stride, self.zeros, self.projection = stride, 0, None
        if stride != 1 or inputs != outputs:
            self.zeros = outputs - inputs
            if option == "B":
                projection = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
                setattr(self, shortcut, projection)
                self.projection = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the branch to the shortcut."""
        branch = x
        for i in range(1, self.count + 1):
            branch = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(branch))
            branch = functional.relu(branch) if i < self.count else branch
        if self.projection:
            side = getattr(self, self.projection)(x)
        else:
            # Option A: zeros on both sides of the channels.
            before = self.zeros // 2
            side = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.zeros - before))
        return functional.relu(branch + side)


class Network(nn.Module):
    """Stem, stages layer1, layer2, ..., and a classifier that is called `head`."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        bottleneck: bool = False,
        imagenet: bool = False,
        shortcut: str = "downsample",
        head: str = "fc",
        option: str = "B",
    ) -> None:
        super().__init__()
        self.conv1 = convolution(3, width, 7, 2) if imagenet else convolution(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.imagenet, self.stages, self.head, channels = imagenet, len(blocks), head, width
        for stage, count in enumerate(blocks):
            made = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                made.append(Block(channels, width * 2**stage, stride, bottleneck, shortcut, option))
                channels = width * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        setattr(self, head, nn.Linear(channels, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def narrowed(module: nn.Module, divisor: int) -> nn.Module:
    """Replaces the layers of a network by ones with 1 / divisor of the channels; 3 colours and 10 classes stay."""

    def fewer(channels: int) -> int:
        return channels if channels in (3, 10) else channels // divisor

    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            new = nn.Conv2d(
                fewer(child.in_channels),
                fewer(child.out_channels),
                child.kernel_size,
                child.stride,
                child.padding,
                bias=False,
            )
            setattr(module, name, new)
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(fewer(child.num_features), child.eps, child.momentum))
        elif isinstance(child, nn.Linear):
            setattr(module, name, nn.Linear(fewer(child.in_features), child.out_features))
        else:
            narrowed(child, divisor)
    return module


def torchvisions(depth: int, width: int) -> nn.Module | None:
    """Returns torchvision's own network with fewer channels, where torchvision imports."""
    try:
        from torchvision import models
    except ImportError:
        return None
    return narrowed(getattr(models, f"resnet{depth}")(num_classes=10), 64 // width)


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
    generator: np.random.Generator, network: nn.Module, twin: nn.Module | None, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns what is recorded of a network; `twin`, another implementation, must agree."""
    network.double()
    fill(generator, network)
    state = {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}
    single = copy.deepcopy(network).float()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    if twin is not None:
        twin.double().load_state_dict(network.state_dict(), strict=True)
        assert list(twin.state_dict()) == list(state)
    computed = results(network, x, y)
    if twin is not None:
        for kind, arrays in results(twin, x, y).items():
            for key, array in arrays.items():
                # torchvision adds and pools by other calls, whose sums may run in another order.
                np.testing.assert_allclose(array, computed[kind][key], rtol=1e-9, atol=1e-12, err_msg=f"{kind} {key}")
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


def write_files(folder: Path, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Writes small state dicts, and returns what is in them, bfloat16 as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    fill(generator, module)
    state = module.state_dict()  # an OrderedDict that has an attribute, too
    state["0.weight"] = state["0.weight"].to(memory_format=torch.channels_last)
    shared = torch.arange(12, dtype=torch.float64)
    state |= {"rows": shared.reshape(3, 4)[1:], "columns": shared.reshape(3, 4).T}
    for dtype in (torch.bfloat16, torch.float16, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        state[str(dtype)] = torch.tensor([[0, 1], [1, 77]]).to(dtype)
    state |= {"empty": torch.zeros(0, 3), "parameter": nn.Parameter(torch.tensor([0.5]))}
    torch.save(state, folder / "state.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    checkpoint = {"net": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "accuracy": 91.25}
    torch.save(checkpoint, folder / "checkpoint.pth")
    torch.save(checkpoint | {"average": module.state_dict()}, folder / "two.pth")
    torch.save(module, folder / "module.pth")
    torch.save(collections.Counter("ab"), folder / "counter.pth")
    try:
        from safetensors.torch import save_file
    except ImportError:
        print(f"{folder / 'state.safetensors'}: left as it is, the package safetensors is not there")
    else:
        apart = {key: tensor.detach().contiguous().clone() for key, tensor in state.items()}
        save_file(apart, folder / "state.safetensors", metadata={"format": "pt"})
    return {
        key: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        for key, tensor in state.items()
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
    cases = {
        "resnet18": (Network(BLOCKS[18], 4, imagenet=True), torchvisions(18, 4)),
        "resnet50": (Network(BLOCKS[50], 2, bottleneck=True, imagenet=True), torchvisions(50, 2)),
        "cifar20": (Network((3, 3, 3), 4, head="linear", option="A"), None),
        "cifar14_projection": (Network((2, 2, 2), 4, shortcut="shortcut", head="linear"), None),
    }
    theirs = cases["resnet18"][1] is not None
    arrays = {"images": images.astype(np.float16), "labels": labels}
    for case, (plain, own) in cases.items():
        # torchvision's are recorded where they are there.
        pair = (plain, None) if own is None else (own, plain)
        arrays |= {f"{case}/{name}": array for name, array in case_arrays(generator, *pair, images, labels).items()}
        print(case, "errors in float32:", arrays[f"{case}/errors"])
    arrays |= {f"files/{key}": array for key, array in write_files(out / "torch_files", generator).items()}
    structure = f"torchvision {importlib.metadata.version('torchvision')}" if theirs else "plain modules"
    path = out / "torch_networks.npz"
    np.savez_compressed(path, torch_version=np.array(torch.__version__), structure=np.array(structure), **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes, torch {torch.__version__}, {structure}")


if __name__ == "__main__":
    main()
