"""Variables of a module without compiling its initialization, which takes longer than most tests that need them."""

import jax
import numpy as np


def drawn(module, *inputs, affine=True):
    """Returns variables drawn by NumPy; no scale is one and no bias zero, unless not `affine`."""
    random = np.random.default_rng(0)

    def leaf_of(path, leaf):
        noise = random.normal(size=leaf.shape).astype(np.float32)
        match path[-1].key:
            case "kernel":
                return noise * np.float32(2 / np.prod(leaf.shape[-4:-1])) ** 0.5
            case "bias" | "mean":
                return affine * np.float32(0.1) * noise
            case _:
                return 1 + affine * np.float32(0.1) * np.abs(noise)

    return jax.tree_util.tree_map_with_path(leaf_of, jax.eval_shape(module.lazy_init, jax.random.key(0), *inputs))
