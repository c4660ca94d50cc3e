"""One process of several that train one network; test_hosts.py starts them and reads what they print.

Arguments: the coordinator's address, the number of processes, this one's, and what it does: train, fail, or wait.
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
    from test_hosts import trained

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
        "trained": trained(),
    }


def main():
    try:
        hosts.join(address, count, number)
        if what == "fail":
            raise UserError("the disk is gone")
        if what == "wait":
            time.sleep(60)
        print(json.dumps(train()))
    except UserError:
        return 2
    return 0


signals.catch()
sys.exit(hosts.leave(main()))
