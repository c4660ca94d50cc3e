"""Writes tests/fixtures/torch_norms.npz: what PyTorch computes for its norms and for a strided convolution.

    python scripts/make_torch_fixtures.py [--out FILE]

Runs wherever torch and numpy import; the tests only read the file.  Everything is float32 and NCHW, keys are
`<case>/<array>`: input, output, dy (the cotangent of the output), and the gradients d_input, d_weight, d_bias.
Takes a few seconds.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SHAPE = (3, 6, 4, 5)
EPSILON = 1e-5


def drawn(generator: np.random.Generator, *shape: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """Returns normal numbers as a float32 tensor that wants a gradient."""
    values = (mean + std * generator.standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(values).requires_grad_()


def gradients(output: torch.Tensor, dy: torch.Tensor, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns inputs, output, dy, and the gradients of sum(output * dy)."""
    computed = torch.autograd.grad((output * dy).sum(), list(inputs.values()))
    arrays = dict(inputs) | {"output": output, "dy": dy}
    arrays |= {f"d_{name}": gradient for name, gradient in zip(inputs, computed, strict=True)}
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


def batch_norm(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Two training steps with momentum 0.1, gradients in the second, then the first input in evaluation."""
    module = torch.nn.BatchNorm2d(SHAPE[1], eps=EPSILON, momentum=0.1)
    with torch.no_grad():
        module.weight.copy_(drawn(generator, SHAPE[1], mean=1.0))
        module.bias.copy_(drawn(generator, SHAPE[1]))
    first, second = (drawn(generator, *SHAPE, mean=0.5, std=2.0) for _ in range(2))
    module(first)
    arrays = gradients(module(second), drawn(generator, *SHAPE), input=second, weight=module.weight, bias=module.bias)
    arrays["first_input"] = first.detach().numpy()
    arrays["running_mean"] = module.running_mean.numpy().copy()
    arrays["running_var"] = module.running_var.numpy().copy()
    arrays["first_in_evaluation"] = module.eval()(first).detach().numpy()
    return arrays


def own_statistics(generator: np.random.Generator, name: str) -> dict[str, np.ndarray]:
    """The norms that keep no running averages."""
    x = drawn(generator, *SHAPE, mean=0.5, std=2.0)
    per_channel = (SHAPE[1],)
    weight_shape = SHAPE[1:] if name == "rms" else per_channel
    weight, bias = drawn(generator, *weight_shape, mean=1.0), drawn(generator, *per_channel)
    inputs = {"input": x, "weight": weight} | ({} if name == "rms" else {"bias": bias})
    if name == "instance":
        y = F.instance_norm(x, weight=weight, bias=bias, eps=EPSILON)
    elif name == "group":
        y = F.group_norm(x, 3, weight, bias, EPSILON)
    elif name == "layer":
        # PyTorch's own affine map has a value per element; here it is one per channel, as in a ConvNet.
        y = F.layer_norm(x, SHAPE[1:], eps=EPSILON) * weight[:, None, None] + bias[:, None, None]
    else:
        y = F.rms_norm(x, SHAPE[1:], weight, EPSILON)
    return gradients(y, drawn(generator, *SHAPE), **inputs)


def convolution(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """3x3, stride 2, padding 1, of an image with an odd and an even side."""
    x, weight = drawn(generator, 2, 3, 7, 6), drawn(generator, 4, 3, 3, 3)
    y = F.conv2d(x, weight, stride=2, padding=1)
    return gradients(y, drawn(generator, *y.shape), input=x, weight=weight)


def main() -> None:
    """Parses the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent.parent / "tests" / "fixtures" / "torch_norms.npz"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    generator = np.random.default_rng(0)
    cases = {"batch": batch_norm(generator)}
    cases |= {name: own_statistics(generator, name) for name in ("instance", "group", "layer", "rms")}
    cases["conv"] = convolution(generator)
    arrays = {f"{case}/{name}": array for case, computed in cases.items() for name, array in computed.items()}
    np.savez(out, torch_version=np.array(torch.__version__), **arrays)
    print(f"{out}: {len(arrays)} arrays, {out.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
