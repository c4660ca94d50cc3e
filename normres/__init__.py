"""normres: normalization layers as reduction axes, ResNets of any depth as data, and honest comparisons."""

__version__ = "0.2.0"
