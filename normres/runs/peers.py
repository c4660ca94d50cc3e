"""The processes of one run know of each other's end by a connection that each has to process 0."""

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from normres import signals
from normres.errors import UserError

WAIT_SECONDS = 120.0  # for the other processes, when the run begins
LEAVE_SECONDS = 20.0  # and when it ends
GO = b"go"
GOOD = {0, signals.AGAIN, signals.INTERRUPTED}  # statuses of processes that end together


class Peers:
    """The connections of this process to the others; of process 0 to each, of another one to process 0."""

    def __init__(self, address: str, count: int, number: int, seconds: float):
        """Waits until all processes are there.

        Raises:
          UserError: they did not come within `seconds`, or are not `count` with the numbers from 0 on.
        """
        self.address, self.count, self.number, self.seconds = address, count, number, seconds
        self._until = time.monotonic() + seconds
        host, _, port = address.rpartition(":")
        self._where = host.strip("[]"), int(port)
        self._leaving = False
        self._said: dict[int, int] = {}  # the statuses with which the others leave
        self._connections = self._gather() if number == 0 else {0: self._report()}
        for pair in self._connections.items():
            threading.Thread(target=self._watch, args=pair, daemon=True).start()

    def leave(self, status: int) -> int:
        """Tells the others that this process ends, and returns the status if all of them end well or were stopped.

        Else it ends at once: jax would wait minutes for the others, and they for this one.
        """
        self._leaving = True
        self._tell(status)
        # Process 0 stays until the others have read it: jax in them would complain of its end by a page of C++.
        until = time.monotonic() + (LEAVE_SECONDS if status in GOOD else 0.5 * (self.number == 0))
        while time.monotonic() < until and not (status in GOOD and self._said.keys() == self._connections.keys()):
            time.sleep(0.01)
        if {status, *self._said.values()} <= GOOD and self._said.keys() == self._connections.keys():
            return status
        _exit(status)

    def _watch(self, number: int, connection: socket.socket) -> None:
        """Waits for the end of another process; if it comes while this one works on, this one ends too."""
        with suppress(OSError):
            while said := connection.recv(1):
                self._said[number] = said[0]
                if said[0] not in GOOD:
                    break
        if not self._leaving:
            print(
                f"normres: process {number} of {self.count} has ended; the same command goes on from its checkpoint",
                file=sys.stderr,
            )
            status = self._said.get(number) or signals.AGAIN
            self._tell(status)
            time.sleep(0.5 * (self.number == 0))
            _exit(status)

    def _tell(self, status: int) -> None:
        for connection in self._connections.values():
            with suppress(OSError):
                connection.sendall(bytes([status]))

    def _gather(self) -> dict[int, socket.socket]:
        """Waits, as process 0, until every other process has reported, and then tells them to go on."""
        here: dict[int, socket.socket] = {}
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", self._where[1]), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise UserError(f"--coordinator={self.address}: the port cannot be opened here: {error.strerror}") from None
        with server:
            while len(here) < self.count - 1:
                try:
                    server.settimeout(max(self._until - time.monotonic(), 0.001))
                    connection, _ = server.accept()
                    connection.settimeout(5)
                    number, count = map(int, connection.recv(64).split())
                except (OSError, ValueError):  # a stranger, or nobody
                    if time.monotonic() < self._until:
                        continue
                    missing = ", ".join(str(i) for i in range(1, self.count) if i not in here)
                    for connection in here.values():
                        connection.close()
                    raise UserError(
                        f"process {missing} of {self.count} did not come to {self.address} within {self.seconds:.0f} s"
                    ) from None
                if count == self.count and number not in here and 0 < number < count:
                    here[number] = connection
                else:
                    with suppress(OSError), connection:
                        connection.sendall(f"process 0 expects {self.count} processes, each number once".encode())
        for connection in here.values():
            connection.settimeout(None)
            connection.sendall(GO)
        return here

    def _report(self) -> socket.socket:
        """Reports to process 0 and waits for its word."""
        while True:
            connection = None
            try:
                connection = socket.create_connection(self._where, max(self._until - time.monotonic(), 0.001))
                connection.sendall(f"{self.number} {self.count}".encode())
                answer, why = connection.recv(256), "it has ended"
            except OSError as error:
                answer, why = b"", error.strerror or str(error)
            if connection and answer == GO:
                connection.settimeout(None)
                return connection
            if connection:
                connection.close()
            if answer:
                raise UserError(f"--process={self.number} of {self.count}: {answer.decode()}")
            if time.monotonic() > self._until:
                raise UserError(f"{self.address}: no coordinator within {self.seconds:.0f} s: {why}")
            time.sleep(0.2)


def _exit(status: int) -> NoReturn:
    """Ends this process without a word to jax."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
