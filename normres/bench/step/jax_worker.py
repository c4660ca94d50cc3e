"""The workers that run in this Python: python -m normres.bench.step.jax_worker (normres | flax) [FIELD=VALUE ...].

normres has the flags of a training run, Flax those that the user's environment has.
"""

import sys
from functools import partial

from normres.bench.step.serve import Timed, serve
from normres.runs import machine

if __name__ == "__main__":
    name, *fields = sys.argv[1:]
    if name == "normres":
        machine.prepare()  # before jax is imported
    import jax

    from normres.bench.step import cells, flax_network

    ours = partial(cells.build, fields=dict(field.split("=", 1) for field in fields))
    build = ours if name == "normres" else flax_network.build
    serve(Timed(build, lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")))  # None on a CPU
