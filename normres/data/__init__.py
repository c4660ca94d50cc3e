"""Images in memory: where they come from, how they are checked, how a batch is made of them."""

from normres.data.sources import Dataset, load

__all__ = ["Dataset", "load"]
