"""The workers that run in this Python: python -m normres.bench.step.jax_worker (normres | flax).

Each imports jax itself: normres after machine.prepare has set the flags of a training run, Flax under the flags that
the user's environment has.
"""

import sys
from typing import Any

from normres.bench.step.serve import serve
from normres.runs import machine


def main(kind: str) -> None:
    """Serves until the input ends."""
    if kind == "normres":
        machine.prepare()
        from normres.bench.step.own import Normres as Contender
    else:
        from normres.bench.step.flax_network import Flax as Contender  # type: ignore[assignment]
    import jax

    jax.devices()  # starts the backend, which belongs to the imports
    contender: Any = Contender()
    serve(contender)


if __name__ == "__main__":
    main(*sys.argv[1:])
