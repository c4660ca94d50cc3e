"""Sweeps on Slurm: what is submitted, to an sbatch that notes it.  scripts/slurm-test asks a real Slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normres.cli import main
from normres.errors import UserError
from normres.options import split
from normres.runs import results, slurm

submitit = pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """An sbatch that keeps the script and says a number, and a scontrol that notes what it is told."""
    programs = {
        "sbatch": 'grep -q partition=full "$1" && { echo "sbatch: error: invalid partition: full" >&2; exit 1; }\n'
        'grep -q partitoin "$1" && { echo "sbatch: unrecognized option --partitoin" >&2; echo Try >&2; exit 1; }\n'
        f'cp "$1" {tmp_path}/script; echo "Submitted batch job 12"',
        "srun": "exit $STATUS",
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def submit(cluster, *arguments, count=4):
    options, others = split(["sweep", "--config=a", "--launcher=slurm", *arguments], slurm.OPTION)
    return slurm.submit(others, count, cluster / "runs", options)


def script(cluster):
    return (cluster / "script").read_text().splitlines()


def test_the_workers_are_an_array_of_the_same_command(cluster):
    told = submit(cluster, "--slurm.time=1:30:00", "--slurm.partition", "main", "--slurm.gpus-per-node=2", "--seeds=2")
    assert told.splitlines() == [
        f"job 12 submitted: an array of 4 workers, whose logs will be in {cluster / 'runs' / 'slurm'}",
        f"watch it: normres status {cluster / 'runs'}",
    ]
    lines = script(cluster)
    expected = ("array=0-3%4", "time=1:30:00", "partition=main", "gpus-per-node=2", "signal=USR1@120", "requeue")
    assert {f"#SBATCH --{option}" for option in expected} <= set(lines)
    (pickled, *_) = sorted((cluster / "runs" / "slurm").glob("12_0_submitted.pkl"))
    job = submitit.core.utils.DelayedSubmission.load(pickled)
    assert (job.function, job.args) == (slurm.work, (["sweep", "--config=a", "--seeds=2"],))


def test_what_is_not_asked_for_is_left_to_the_cluster(cluster):
    asked = ("account=0417", "workers=3", "array_parallelism=2", "reservation=r", "signal=USR1@9")
    submit(cluster, *(f"--slurm.{option}" for option in asked))
    options = [line.removeprefix("#SBATCH --") for line in script(cluster) if line.startswith("#SBATCH")]
    assert {"account=0417", "array=0-2%2", "reservation=r", "signal=USR1@9"} <= set(options)
    assert not [option for option in options if option.startswith(("time", "wckey", "partition"))]


def end_of_job(cluster, status, **job):
    """Runs the script of a job whose worker ends with a status; returns what it told scontrol."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"STATUS": str(status), **{f"SLURM_{name}": value for name, value in job.items()}}
    assert subprocess.run(["bash", cluster / "script"], env=environment).returncode == status
    return (cluster / "scontrol").read_text() if (cluster / "scontrol").exists() else ""


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"), [(0, 0, 0), (1, 0, 0), (75, 99, 1), (137, 9, 1), (137, 10, 0)]
)
def test_a_worker_that_was_stopped_or_killed_is_put_into_the_queue(cluster, status, restarts, requeued):
    submit(cluster)
    job = {"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": str(restarts)}
    # Job 12 would be the whole array.
    assert end_of_job(cluster, status, **job) == "requeue 12_3\n" * requeued


def test_a_single_worker_is_put_into_the_queue_by_its_number(cluster):
    assert "one worker" in submit(cluster, count=1)
    assert end_of_job(cluster, 75, JOB_ID="12") == "requeue 12\n"


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGKILL", 137)])
def test_a_worker_gets_the_signals_and_its_status_counts(tmp_path, number, status):
    """In place of normres, a program that waits for a signal and leaves with 75."""
    package = tmp_path / "normres"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import pathlib, signal, sys, time\n"
        "for name in ('SIGTERM', 'SIGUSR1'):\n"
        "    signal.signal(getattr(signal, name), lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(__import__('os').getpid()))\n"
        "time.sleep(60)\n"
    )
    source = f"import sys, os; sys.path[0] = {str(Path(slurm.__file__).parents[2])!r}\n"
    source += "from normres.runs import slurm\nslurm.work([])"
    job = subprocess.Popen([sys.executable, "-c", source], cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    if number == "SIGKILL":
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    else:
        job.send_signal(getattr(signal, number))
    assert job.wait(timeout=30) == status


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--slurm.partitoin=main", "--launcher=slurm: sbatch: unrecognized option --partitoin"),
        ("--slurm.time", "'--slurm.time' lacks its value"),
        ("--slurm.workers=0", "--slurm.workers=0 is no number from 1 on"),
        ("--slurm.partition=full", "--launcher=slurm: sbatch: error: invalid partition: full"),
    ],
)
def test_a_mistake_is_one_line(cluster, argument, message):
    with pytest.raises(UserError, match=message) as raised:
        submit(cluster, argument)
    assert "\n" not in str(raised.value)


def test_only_the_arms_that_are_left_get_workers(cluster, monkeypatch, capsys):
    monkeypatch.setattr(results, "status_of", lambda path: "finished" if "depth=8" in path.name else "to do")
    sweep = ["sweep", "--config=base:demo", f"--workdir={cluster / 'new'}", "--launcher=slurm", "--slurm.time=60"]
    assert main([*sweep, "--vary=model.depth=8,14", "--retries=-1"]) == 2
    assert not (cluster / "new").exists()
    assert main([*sweep, "--vary=model.depth=8,14"]) == 0
    assert "submitted: one worker" in capsys.readouterr().out
    assert "--slurm.time=60" in (cluster / "new/README.md").read_text()
    (cluster / "script").unlink()
    assert main([*sweep, "--vary=model.depth=8"]) == 0
    assert not (cluster / "script").exists()
    assert not [*(cluster / "new").glob("*/record.json")]  # nor is anything trained here


def test_without_slurm_or_submitit_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--launcher=slurm: sbatch is not there"):
        submit(tmp_path)
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs submitit: pip install 'normres\[slurm\]'"):
        submit(tmp_path)
