"""The workers that run in this Python: python -m normres.bench.step.jax_worker (normres | flax) [FIELD=VALUE ...].

normres imports jax after machine.prepare has set the flags of a training run, Flax under the flags that the user's
environment has.
"""

import importlib
import sys
from functools import partial

from normres.bench.step.serve import Timed, serve
from normres.runs import machine

MODULES = {"normres": "normres.bench.step.own", "flax": "normres.bench.step.flax_network"}


def device_bytes() -> int | None:
    """Returns the most memory that JAX held on its first device, None on a CPU."""
    import jax

    if jax.default_backend() == "cpu":
        return None
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


if __name__ == "__main__":
    if sys.argv[1] == "normres":
        machine.prepare()
    build = importlib.import_module(MODULES[sys.argv[1]]).build
    if fields := dict(argument.split("=", 1) for argument in sys.argv[2:]):
        build = partial(build, fields=fields)
    serve(Timed(build, device_bytes))
