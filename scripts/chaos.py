"""Twelve arms, two workers, and whatever can happen to them; then everything must be as if nothing had.

    python scripts/chaos.py [--minutes=5] [--seed=0]

It trains the sweep once undisturbed.  Then it trains it again and meanwhile kills, stops and continues the workers,
damages and removes files, and fills the disk, by the dice of the seed.  At the end it compares records, curves and
weights bit for bit, but for attempts, seconds and host.  docs/reliability.md says what is promised.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from normres.runs import checkpoint, claims, durable, results

FIELDS = {
    "model.width": 8,
    "train.steps": 60,
    "train.batch_size": 32,
    "train.eval_batch_size": 640,
    "train.log_every": 5,
    "train.eval_every": 20,
    "train.checkpoint_every": 10,
    "train.keep": "last,best",
    "data.fraction": 0.1,
    "optim.warmup_steps": 10,
}
VARY = ("model.norm=batch,group,layer", "model.shortcut=none,A", "model.depth=8,14")
DEAD_AFTER = 6.0
DISK_MEGABYTES = 64


def command(workdir: Path) -> list[str]:
    """Returns the command of a worker."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    fields += [argument for axis in VARY for argument in ("--vary", axis)]
    how = ["--workers=1", "--retries=1000", f"--dead-after={DEAD_AFTER}"]
    return [sys.executable, "-m", "normres", "sweep", "--config=base:demo", f"--workdir={workdir}", *fields, *how]


class Chaos:
    """A sweep, its two workers, and what happens to them; `log` counts it."""

    def __init__(self, workdir: Path, dice: random.Random, output: Path):
        self.workdir, self.dice, self.log = workdir, dice, Counter[str]()
        self.output = output.open("a")
        self.workers: list[subprocess.Popen[bytes]] = []
        self.stopped: dict[int, float] = {}

    def keep_working(self) -> None:
        """Starts a worker for each that has ended, and continues those that have stood still long enough."""
        for worker in [worker for worker in self.workers if worker.poll() is not None]:
            self.log[f"worker ended with {worker.returncode}"] += 1
            self.workers.remove(worker)
            self.stopped.pop(worker.pid, None)
        while len(self.workers) < 2:
            process = subprocess.Popen(command(self.workdir), stdout=self.output, stderr=subprocess.STDOUT)
            self.workers.append(process)
        for pid in [pid for pid, until in self.stopped.items() if time.monotonic() >= until]:
            self.stopped.pop(pid)
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """A process dies."""
        self.dice.choice(self.workers).kill()

    def terminate(self) -> None:
        """A process is told to stop, as by Slurm, a closed terminal or Ctrl-C."""
        self.dice.choice(self.workers).send_signal(self.dice.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]))

    def stand_still(self) -> None:
        """A process stands still, at times for so long that it is taken for dead, and goes on."""
        worker = self.dice.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        self.stopped[worker.pid] = time.monotonic() + self.dice.uniform(0.5, 4 * DEAD_AFTER)

    def damage(self) -> None:
        """A file of a run is lost, cut, emptied, or has a wrong bit."""
        files = [
            path for path in self.workdir.glob("*/**/*") if path.is_file() and not path.name.startswith(claims.NAME)
        ]
        if not files:
            return
        file = self.dice.choice(files)
        content = bytearray(file.read_bytes())
        how = self.dice.choice(["lose", "cut", "empty", "flip"])
        if how == "lose":
            file.unlink()
        elif content:
            content[self.dice.randrange(len(content))] ^= 1 << self.dice.randrange(8)
            size = self.dice.randrange(len(content))
            file.write_bytes({"cut": content[:size], "empty": b"", "flip": content}[how])

    def lose_folder(self) -> None:
        """All checkpoints of a run are lost, or one of them."""
        folders = [*self.workdir.glob("*/checkpoints"), *self.workdir.glob("*/checkpoints/step_*")]
        if folders:
            shutil.rmtree(self.dice.choice(folders))

    def fill_disk(self) -> None:
        """The disk is full for some seconds."""
        filling = self.workdir / "filling"
        try:
            with suppress(OSError), filling.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 2**16)
            time.sleep(self.dice.uniform(1, 4))
        finally:
            filling.unlink()

    def happen(self, seconds: float, full: bool) -> None:
        """Lets things happen for so long."""
        faults: list[Callable[[], None]] = [self.kill, self.kill, self.terminate, self.stand_still, self.damage]
        faults += [self.damage, self.lose_folder, *([self.fill_disk] if full else [])]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.keep_working()
            time.sleep(self.dice.uniform(0.2, 6))
            fault = self.dice.choice(faults)
            self.log[fault.__name__] += 1
            try:
                fault()
            except FileNotFoundError:  # a worker was quicker
                continue
        for pid in self.stopped:
            os.kill(pid, signal.SIGCONT)
        for worker in self.workers:
            worker.kill()
            worker.wait()


def story(path: Path) -> dict[str, Any]:
    """Returns all of a run that must be equal."""
    run = results.read_run(path)
    if run is None:
        return {}
    kept = {name: value for name, value in run.record.items() if name not in ("attempts", "seconds")}
    saved = {folder.name: checkpoint.read(folder) for folder in sorted((path / "checkpoints").iterdir())}
    weights = {
        f"{folder}/{name}": array.tobytes()
        for folder, one in saved.items()
        for name, array in (one.arrays() if one else {"damaged": memoryview(b"")}).items()
    }
    return {"config": run.config, "metrics": run.metrics, **kept, **weights}


def main() -> int:
    """Returns 0 if everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        disk = root / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(disk)]
        full = subprocess.run(mount, capture_output=True).returncode == 0
        try:
            return run(root, disk / "sweep", full, options.minutes, options.seed)
        finally:
            if full:
                subprocess.run(["umount", "-l", str(disk)], check=True)


def run(root: Path, workdir: Path, full: bool, minutes: float, seed: int) -> int:
    """Trains undisturbed in `root`, disturbed in `workdir`, and compares."""
    began = time.monotonic()
    print("undisturbed: twelve arms, one after the other", flush=True)
    subprocess.run(command(root / "undisturbed"), stdout=subprocess.DEVNULL, check=True)
    print(f"undisturbed: {time.monotonic() - began:.0f} s; now {minutes:g} minutes of chaos, seed {seed}", flush=True)
    if not full:
        print("not done: fill_disk, as this user may not mount a tmpfs")
    chaos = Chaos(workdir, random.Random(seed), root / "output")
    workdir.mkdir()
    chaos.happen(60 * minutes, full)
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(chaos.log.items())))
    began = time.monotonic()
    status = subprocess.run(command(workdir), stdout=chaos.output, stderr=subprocess.STDOUT).returncode
    print(f"afterwards the sweep took {time.monotonic() - began:.0f} s more and ended with {status}", flush=True)
    said = (root / "output").read_text()
    tracebacks = said.count("Traceback (most recent call last)")
    attempts, unequal = 0, []
    for path in sorted((root / "undisturbed").iterdir()):
        if not path.is_dir():
            continue
        expected, computed = story(path), story(workdir / path.name)
        attempts += len(durable.read_json(workdir / path.name / "record.json")["attempts"])
        different = [name for name in expected | computed if expected.get(name) != computed.get(name)]
        unequal += [f"{path.name}: {', '.join(different[:5])}"] if different else []
    for line in unequal:
        print(f"not equal: {line}")
    print(f"{12 - len(unequal)} of 12 arms equal the undisturbed ones bit for bit, after {attempts} attempts")
    if tracebacks or status or unequal:
        shutil.copy(root / "output", "chaos.log")
        print(f"{tracebacks} tracebacks in what the workers said: chaos.log")
    return 1 if tracebacks or status or unequal else 0


if __name__ == "__main__":
    sys.exit(main())
