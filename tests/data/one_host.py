"""One process of several that train on one data set; test_stream.py starts them and reads what they print.

Arguments: address of the coordinator, number of processes, this one's number, the data directory, data.stream,
train.parallel.
"""

import json
import sys

import jax
import numpy as np

address, processes, number, directory, streaming, parallel = sys.argv[1:]
jax.distributed.initialize(address, int(processes), int(number))

from test_stream import SIZE, config  # noqa: E402

from normres.data import lazy, load  # noqa: E402
from normres.training.programs import Programs  # noqa: E402

data = load("colors", "tfds", directory, image_size=SIZE, stream=streaming)
programs = Programs(config(directory, train__steps=3, train__parallel=parallel), data, "float32")
state, read, decode = programs.initial_state(), [], lazy.LazyImages.__getitem__


def noted(self, indices):
    read.append(np.asarray(indices).tolist())
    return decode(self, indices)


lazy.LazyImages.__getitem__ = noted
for step in range(3):
    state, metrics = programs.train(state, step)
training, found = sorted(read), programs.evaluate(state, "test")
leaves = [float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(state.params)]
print(json.dumps({"read": training, "loss": np.asarray(metrics["loss"]).tolist(), "test": found, "params": leaves}))
