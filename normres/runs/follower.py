"""The journal of a process that does not write: of a run over several processes, each other one than process 0."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from normres.errors import UserError
from normres.runs import checkpoint, hosts
from normres.runs.journal import Journal

SHARED_SECONDS = 60.0  # after which a shared disk shows on one host what another has written


NO_CLAIM: Any = SimpleNamespace(note=lambda **_: None, check=lambda: None)  # of who only reads


class Follower(Journal):
    """Knows what process 0's journal knows, and writes nothing but its shards of checkpoints."""

    def __init__(self, path: Path, config: ConfigDict):
        """Waits for what process 0 tells by `tell`: this host may still see the directory as it was before.

        Raises:
          UserError: the checkpoint is not to be seen here.
        """
        self.path, self.claim, self.lines, self.sinks = path, NO_CLAIM, [], []
        self.config = json.loads(json.dumps(config.to_dict()))
        self._kept, self._every = config.train.keep, config.train.keep_every
        self.done, self.record, self.metrics, step = hosts.from_writer(None)
        self.saved = None
        until = time.monotonic() + SHARED_SECONDS
        while step is not None and not self.saved:
            self.saved = checkpoint.read(checkpoint.path_of(path / "checkpoints", step))
            if not self.saved and time.monotonic() > until:
                raise UserError(f"{path}: process 0 goes on from step {step}, which is not here; is --workdir shared?")
            time.sleep(0 if self.saved else 1)

    def begin(self, record: dict[str, Any], attempt: dict[str, Any]) -> None:
        """Takes the record."""
        self.record, self._began = {**record, "attempts": [dict(attempt)]}, time.perf_counter()

    def line(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Remembers a metric line."""
        self.metrics.append({"step": step, "split": split, **values})

    def write(self) -> None:
        """Writes nothing."""

    def pictures(self, mosaic_HWC: np.ndarray) -> None:
        """Writes nothing."""

    def end(self, how: str) -> None:
        """Notes how the run ended."""
        self.record["status"] = how

    def tidy(self) -> None:
        """Removes nothing."""


def tell(journal: Journal) -> None:
    """Tells the other processes of the run, as process 0, what its journal has read."""
    step = journal.saved.step if journal.saved else None
    hosts.from_writer([journal.done, journal.record, [] if journal.done else journal.metrics, step])
