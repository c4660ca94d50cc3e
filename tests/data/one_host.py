"""One process of two that train on one data set; test_stream.py starts them and reads what they print.

Arguments: address of the coordinator, number of processes, this one's number, the data directory.
"""

import json
import sys

import jax
import numpy as np

address, processes, number, directory = sys.argv[1:]
jax.distributed.initialize(address, int(processes), int(number))

from test_stream import SIZE, config  # noqa: E402

from normres.data import lazy, load  # noqa: E402
from normres.training.programs import Programs  # noqa: E402

read, decode = [], lazy.LazyImages.__getitem__


def noted(self, indices):
    read.append(np.asarray(indices).tolist())
    return decode(self, indices)


def train(streaming, parallel):
    data = load("colors", "tfds", directory, image_size=SIZE, stream=streaming)
    programs = Programs(
        config(directory, train__steps=2, optim__warmup_steps=1, train__parallel=parallel), data, "float32"
    )
    state = programs.initial_state()
    read.clear()
    for step in range(2):
        state, metrics = programs.train(state, step)
    training = sorted(batch for batch in read if batch)
    leaves = [float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(state.params)]
    loss = np.asarray(metrics["loss"]).tolist()
    test = programs.evaluate(state, "test") if streaming == "always" else None
    return {"read": training, "loss": loss, "test": test, "params": leaves}


lazy.LazyImages.__getitem__ = noted
print(json.dumps({"-".join(case): train(*case) for case in (("always", "jit"), ("never", "pmap"))}))
