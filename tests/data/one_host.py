"""One process of two that read one data set; test_stream.py starts them and reads what they print.

Arguments: address of the coordinator, number of processes, this one's number, the data directory.
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

address, processes, number, directory = sys.argv[1:]
jax.distributed.initialize(address, int(processes), int(number))

from test_stream import SIZE, wanted  # noqa: E402

from normres.data import lazy, load  # noqa: E402
from normres.data.stream import Stream  # noqa: E402

read, decode = [], lazy.LazyImages.__getitem__


def noted(self, indices):
    read.append(np.asarray(indices).tolist())
    return decode(self, indices)


lazy.LazyImages.__getitem__ = noted
data = load("colors", "tfds", directory, image_size=SIZE, stream="always")
sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("data",)), PartitionSpec("data"))
stream = Stream(data, sharding, wanted, steps=2)
batches = [stream.train(step) for step in range(2)]
# A sum over all processes: of the labels, and of the pixels that hold the examples' numbers.
sums = jax.jit(lambda batch: (batch["labels"].sum(), batch["images"][:, 0, 0, 0].astype(int).sum()))
held = [[shard.data[:, 0, 0, 0].tolist() for shard in batch["images"].addressable_shards] for batch in batches]
print(json.dumps({"read": sorted(filter(None, read)), "held": held, "sums": jax.tree.map(int, [*map(sums, batches)])}))
