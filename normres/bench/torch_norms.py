"""Norms in PyTorch, for numerics.py, in a process and perhaps a Python of their own; imports nothing of normres.

    python torch_norms.py INPUTS.npz OUTPUTS.npz

INPUTS holds `dtype`, `epsilon`, and per case `NAME/x`, `NAME/dy` (N, H, W, C) in float32, which holds the narrower
dtypes exactly, and `NAME/groups`.  OUTPUTS gets `NORM/NAME/y` and `NORM/NAME/dx`; what PyTorch refuses is missing.
"""

import sys

import numpy as np
import torch  # type: ignore[import-not-found]
import torch.nn.functional as F  # type: ignore[import-not-found]

NORMS = {
    "batch": lambda x, groups, eps: F.batch_norm(x, None, None, training=True, eps=eps),
    "instance": lambda x, groups, eps: F.instance_norm(x, eps=eps),
    "layer": lambda x, groups, eps: F.layer_norm(x, x.shape[1:], eps=eps),
    "group": lambda x, groups, eps: F.group_norm(x, groups, eps=eps),
    "rms": lambda x, groups, eps: F.rms_norm(x, x.shape[1:], eps=eps),
}


def main(source: str, destination: str) -> None:
    """Applies every norm to every case."""
    inputs = np.load(source)
    dtype, epsilon = getattr(torch, str(inputs["dtype"])), float(inputs["epsilon"])
    outputs = {}
    for name in sorted({key.rpartition("/")[0] for key in inputs.files if "/" in key}):
        groups = int(inputs[f"{name}/groups"])
        # PyTorch's own order of axes is (N, C, H, W).
        x, dy = (torch.tensor(inputs[f"{name}/{key}"]).movedim(-1, 1).contiguous().to(dtype) for key in ("x", "dy"))
        for norm, apply in NORMS.items():
            leaf = x.clone().requires_grad_()
            try:
                y = apply(leaf, groups, epsilon)
                y.backward(dy)
            except (RuntimeError, ValueError):
                continue
            for key, value in (("y", y.detach()), ("dx", leaf.grad)):
                outputs[f"{norm}/{name}/{key}"] = value.float().movedim(1, -1).contiguous().numpy()
    np.savez(destination, **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
