"""Writes what PyTorch computes for its layers: tests/fixtures/torch_compat.npz.

    python scripts/make_torch_fixtures.py [--out FOLDER]

Runs wherever torch (2.13 or later) and numpy import; the tests only read the file.  Everything is float32 and channels
first, keys are `<case>/<array>`.  Takes a few seconds.

It has state dicts of norms, convolutions and linear layers in use.  Every module starts from random
weights and takes two training steps: gradient descent with RATE on the sum of sin(output).  `state/<key>` is the state
dict then; `input` and `output` are in evaluation with that state; `next_input`, and `next/<key>`, the state dict after
a third training step, on that input.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn


def drawn(generator: np.random.Generator, *shape: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """Returns normal numbers as a float32 tensor that wants a gradient."""
    values = (mean + std * generator.standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(values).requires_grad_()


RATE = 0.02
IMAGES, VECTORS = (5, 4, 3, 2), (3, 5, 4)
weight_norm = nn.utils.parametrizations.weight_norm


def old_weight_norm(module: nn.Module) -> nn.Module:
    """Weight norm with the keys weight_g and weight_v, which PyTorch deprecates but checkpoints have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


# The module and the shape of its input.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch2d": (lambda: nn.BatchNorm2d(4, momentum=0.3), IMAGES),
    "batch_cumulative": (lambda: nn.BatchNorm2d(4, momentum=None), IMAGES),
    "batch_plain": (lambda: nn.BatchNorm2d(4, affine=False), IMAGES),
    "batch_untracked": (lambda: nn.BatchNorm2d(4, track_running_stats=False), IMAGES),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    "instance_tracked": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True, momentum=0.3),
        IMAGES,
    ),
    "instance_never_updated": (lambda: nn.InstanceNorm2d(4, track_running_stats=True, momentum=None), IMAGES),
    "layer_vectors": (lambda: nn.LayerNorm(4), VECTORS),
    "layer_plain": (lambda: nn.LayerNorm(IMAGES[1:], elementwise_affine=False), IMAGES),
    "group": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "rms_vectors": (lambda: nn.RMSNorm(4), VECTORS),
    "linear": (lambda: nn.Linear(4, 3), VECTORS),
    "conv2d": (lambda: nn.Conv2d(4, 3, (3, 2)), (2, 4, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(4, 3, (2, 1, 3), bias=False), (2, 4, 3, 2, 4)),
    "conv_in_groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 6)),
    "linear_weight_norm": (lambda: weight_norm(nn.Linear(4, 3)), VECTORS),
    "conv_weight_norm": (lambda: weight_norm(nn.Conv2d(4, 3, 3, padding=1, bias=False)), (2, 4, 5, 6)),
    "conv_old_weight_norm": (lambda: old_weight_norm(nn.Conv2d(4, 3, 3, padding=1, bias=False)), (2, 4, 5, 6)),
}


def train(module: nn.Module, x: torch.Tensor) -> None:
    """One step of gradient descent."""
    module.train().zero_grad()
    y = module(x)
    if y.requires_grad:
        y.sin().sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= RATE * parameter.grad


def state(module: nn.Module) -> dict[str, np.ndarray]:
    """Returns copies of the state dict's arrays; the tensors change with the next step."""
    return {key: tensor.numpy().copy() for key, tensor in module.state_dict().items()}


def arrays_of(generator: np.random.Generator, name: str) -> dict[str, np.ndarray]:
    """Makes, trains and uses the module of a case."""
    make, shape = CASES[name]
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(drawn(generator, *parameter.shape, mean=0.8, std=0.5))
    # So small that a wrong epsilon shows, where it is the smallest: that of float32.
    size = 1e-3 if name == "rms_vectors" else 1.0
    first, second, third = (drawn(generator, *shape, mean=0.5 * size, std=1.5 * size).detach() for _ in range(3))
    train(module, first)
    train(module, second)
    computed = {f"state/{key}": array for key, array in state(module).items()}
    with torch.no_grad():
        computed |= {"input": first.numpy(), "output": module.eval()(first).numpy()}
    train(module, third)
    return computed | {"next_input": third.numpy()} | {f"next/{key}": array for key, array in state(module).items()}


def main() -> None:
    """Parses the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "fixtures")
    out = parser.parse_args().out
    generator = np.random.default_rng(0)
    computed = {case: arrays_of(generator, case) for case in CASES}
    arrays = {f"{case}/{name}": array for case in CASES for name, array in computed[case].items()}
    # Hundreds of small arrays: most of what is not compressed would be headers.
    file = out / "torch_compat.npz"
    np.savez_compressed(file, torch_version=np.array(torch.__version__), **arrays, rate=np.array(RATE))
    print(f"{file}: {len(arrays)} arrays, {file.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
