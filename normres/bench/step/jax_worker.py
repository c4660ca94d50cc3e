"""The workers that run in this Python: python -m normres.bench.step.jax_worker (normres | flax | ceilings).

Each imports jax itself: normres and the ceilings after machine.prepare has set the flags of a training run, Flax under
the flags that the user's environment has.
"""

import sys

from normres.bench.step.serve import Timed, serve
from normres.runs import machine


def main(kind: str) -> None:
    """Serves until the input ends."""
    if kind != "flax":
        machine.prepare()
    import jax

    jax.devices()  # starts the backend, which belongs to the imports
    if kind == "normres":
        from normres.bench.step.own import Normres

        handlers = Timed(Normres()).handlers()
    elif kind == "flax":
        from normres.bench.step.flax_network import Flax

        handlers = Timed(Flax()).handlers()
    else:
        from normres.bench.step.ceilings import Ceilings

        handlers = Ceilings().handlers()
    serve(handlers)


if __name__ == "__main__":
    main(*sys.argv[1:])
