"""To and from PyTorch: norms and kernels (modules.py), ResNets and VGGs (networks.py).

A state dict is any mapping of arrays or of tensors on the CPU.  To go on with torchvision's weights:

    config = ResNetConfig(layout="imagenet", depth=18, width=64, classes=1000, shortcut="B", norm_unbiased=True)
    variables = network_from_torch(torch.load("resnet18.pth", "cpu", weights_only=True), config)
    logits_NK = ResNet(config).apply(variables, images_NHWC)
"""

from normres.interop.folding import as_evaluated, fold
from normres.interop.modules import (
    kernel_from_torch,
    kernel_to_torch,
    norm_from_torch,
    norm_to_torch,
)
from normres.interop.networks import NAMINGS, network_from_torch, network_to_torch, vgg_to_torch

__all__ = [
    "NAMINGS",
    "as_evaluated",
    "fold",
    "kernel_from_torch",
    "kernel_to_torch",
    "network_from_torch",
    "network_to_torch",
    "norm_from_torch",
    "norm_to_torch",
    "vgg_to_torch",
]
