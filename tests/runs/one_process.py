"""One process of several that train one network; test_hosts.py starts them and reads what they print.

Arguments: the coordinator's address, the number of processes, this one's, and what it does: train, fail, die, or wait.
"""

import json
import os
import signal
import sys
import time

from normres import signals
from normres.errors import UserError
from normres.runs import hosts

address, count, number, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


def train():
    """Returns what both processes must agree in, and in what one process with all devices would."""
    from test_hosts import dataset, trained

    with signals.polled() as stop:
        ask, told = hosts.agreement(stop.is_set), []
        for call in range(10):
            if (number, call) == (1, 4):
                os.kill(os.getpid(), signal.SIGTERM)
            told.append(ask())
    return {
        "told": told,
        "from_writer": hosts.from_writer({"ü": number}),
        "writer": hosts.is_writer(),
        "jit": trained(dataset(), "jit"),
        "pmap": trained(dataset(), "pmap"),
    }


def main():
    try:
        with hosts.joined(address, count, number):
            if what == "train":
                print(json.dumps(train()))
            elif what == "fail":
                raise UserError("the disk is gone")
            elif what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                print("waits", flush=True)
                time.sleep(60)
    except UserError:
        return 2
    return 0


signals.catch()
sys.exit(hosts.leave(main()))
