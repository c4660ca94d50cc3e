"""VGGs to PyTorch: the state dict of torchvision's `features`, and one linear layer, `classifier`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normres.interop.modules import kernel_to_torch, norm_to_torch
from normres.models.vgg import DEPTHS, VGGConfig
from normres.norms import forms


def vgg_to_torch(
    variables: Mapping[str, Any], config: VGGConfig, *, num_batches_tracked: int | None = None
) -> dict[str, np.ndarray]:
    """Converts the variables of VGG(config) to the keys of torchvision's vgg11_bn to vgg19_bn.

    Without norms, or with folded ones, they are those of vgg11 to vgg19.  PyTorch's convolutions have a bias, which is
    zero or a folded norm's.  The classifier is "classifier", as Kuang Liu's pytorch-cifar has it.
    `num_batches_tracked` is as of network_to_torch.
    """

    def of(name: str) -> dict[str, Any]:
        return {collection: modules[name] for collection, modules in variables.items() if name in modules}

    state: dict[str, np.ndarray] = {}
    index, normalized = 0, config.norm_spec.form is not forms.identity
    for stage, convolutions in enumerate(DEPTHS[config.depth], start=1):
        for number in range(1, convolutions + 1):
            norm = of(f"stage{stage}_norm{number}")
            state |= kernel_to_torch(of(f"stage{stage}_conv{number}"), f"features.{index}")
            channels = len(state[f"features.{index}.weight"])
            bias = np.zeros(channels, np.float32) if normalized or not norm else norm["params"]["bias"]
            state[f"features.{index}.bias"] = np.array(bias)
            index += 1
            if normalized:
                state |= norm_to_torch(norm, f"features.{index}", num_batches_tracked=num_batches_tracked)
                index += 1
            index += 1  # the ReLU
        index += 1  # the pooling
    return state | kernel_to_torch(of("classifier"), "classifier")
