"""What the machine can do at best: one big matrix product and one pass over memory, timed in turns with the contenders.

A step that reached the first would be all arithmetic, one that reached the second all memory.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp

from normres.bench.norms import copy_bandwidth

REPEATS = 3  # of each in a sample, of which the best counts


class Ceilings:
    """Answers the requests of a worker that times no network."""

    def handlers(self) -> dict[str, Any]:
        """Returns what serve() takes."""
        return {"start": lambda: {"version": jax.__version__}, "prepare": self.prepare, "sample": self.sample}

    def prepare(self, dtype: str, size: int, copy_bytes: int) -> dict[str, Any]:
        """Compiles and runs once; the matrices are `size` x `size`."""
        self.matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        self.product = jax.jit(jnp.dot)
        self.copy_bytes = copy_bytes
        self.sample()
        return {}

    def sample(self) -> dict[str, float]:
        """Returns multiply-adds and bytes per second."""
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            jax.block_until_ready(self.product(self.matrix, self.matrix))
            seconds.append(time.perf_counter() - began)
        return {
            "multiply_adds_per_second": len(self.matrix) ** 3 / min(seconds),
            "bytes_per_second": copy_bandwidth(self.copy_bytes, REPEATS),
        }
