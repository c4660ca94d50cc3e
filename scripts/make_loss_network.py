"""Writes normres/training/loss_network.npz, the network of the style experiment's losses, from a finished run:

    normres train --config=vgg:short --config.model.depth=13 --config.model.width=16 \
        --config.data.preprocess=channel_mean_std --config.data.source=binary --config.data.path=DIR --workdir=RUN
    python scripts/make_loss_network.py RUN

The first convolutions are taken, with their batch norms folded into them.
"""

import json
import sys
from pathlib import Path

import numpy as np

from normres.runs import load
from normres.runs.fields import identity
from normres.training import perceptual


def main() -> None:
    """Takes the first convolutions of the run, with their batch norms folded into them."""
    run = load(sys.argv[1])
    params, averages = run.variables["params"], run.variables["batch_stats"]
    arrays = {name: values.ravel() for name, values in run.statistics.arrays().items()}
    names = [
        f"stage{stage}_{{}}{number}"
        for stage, count in enumerate(perceptual.STAGES, 1)
        for number in range(1, count + 1)
    ]
    for number, name in enumerate(names, 1):
        conv, norm = (name.format(part) for part in ("conv", "norm"))
        factor = params[norm]["scale"] / np.sqrt(averages[norm]["var"] + run.config.model.norm_epsilon)
        arrays[f"kernel{number}"] = (params[conv]["kernel"] * factor).astype(np.float16)
        arrays[f"bias{number}"] = (params[norm]["bias"] - averages[norm]["mean"] * factor).astype(np.float16)
    attempt = run.record["attempts"][-1]
    about = {"config": identity(run.config), "final": run.record["final"], "data": run.record["data"]["sha256"]}
    arrays["about"] = np.array(json.dumps(about | {name: attempt[name] for name in ("commit", "diff", "versions")}))
    file = Path(perceptual.__file__).with_name("loss_network.npz")
    np.savez_compressed(file, **arrays)
    print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB, test error {run.record['final']['test_error']:.2%}")


if __name__ == "__main__":
    main()
