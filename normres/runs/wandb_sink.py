"""Writes the lines of its standard input to an offline run of Weights & Biases: a process of its own, see sinks.py.

The first line has the arguments of wandb.init, each other line numbers by name; all are JSON.
"""

import json
import sys

if __name__ == "__main__":
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False)
    run = wandb.init(mode="offline", settings=settings, **json.loads(sys.stdin.readline()))
    run.define_metric("*", step_metric="step")
    for line in sys.stdin:
        run.log(json.loads(line))
    run.finish()
