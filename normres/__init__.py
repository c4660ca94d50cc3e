"""normres: normalization layers as reduction axes, ResNets of any depth as data, and honest comparisons."""

__version__ = "0.1.0"
