"""Measures networks before training at four depths into docs/signals/start.json, which `make results` draws.

python scripts/make_signals.py DATA      # the official CIFAR-10; 20 minutes on a core; goes on where it was stopped
"""

import sys
from itertools import product
from pathlib import Path

from normres.runs import machine

FILE = Path(__file__).parent.parent / "docs/signals/start.json"
DEPTHS, SEEDS = (20, 56, 110, 1202), range(3)
NORMS, SHORTCUTS = ("batch", "instance", "group", "layer", "none"), ("none", "A")


def main(data: str) -> None:
    """Measures what the file lacks, and writes the first and the last number of each quantity."""
    machine.prepare()
    from normres.runs import config as configs
    from normres.runs import durable, local, provenance
    from normres.show.probe_commands import initial

    document = durable.read_json(FILE) if FILE.exists() else {"networks": []}
    dataset = None
    for depth, norm, shortcut, seed in product(DEPTHS, NORMS, SHORTCUTS, SEEDS):
        network = {"norm": norm, "shortcut": shortcut, "depth": depth, "seed": seed}
        if any(network.items() <= known.items() for known in document["networks"]):
            continue
        fields = {f"model.{name}": network[name] for name in ("norm", "shortcut", "depth")} | {"seed": seed}
        config = configs.load("base", {**fields, "data.source": "binary", "data.path": data})
        dataset = dataset or local.load_data(config)
        values = initial(config, dataset)
        document["networks"].append(network | {name: [each[0], each[-1]] for name, each in values.items()})
        document["provenance"] = provenance.provenance()
        durable.write_json(FILE, document)
        print(network, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
