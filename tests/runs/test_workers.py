"""The workers of one sweep on one machine: how many, what each has of it, and what becomes of one that dies."""

import json
import os
import sys
from pathlib import Path

import pytest

from normres.errors import UserError
from normres.runs import machine, queue

FAKE = """#!{python}
import json, os, pathlib, sys, time
time.sleep(0.2)
folder = pathlib.Path("{folder}")
(folder / f"{{os.getpid()}}.json").write_text(json.dumps([sorted(os.sched_getaffinity(0)), sys.argv[1:]]))
{then}
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts workers that do as `then` says, and returns the status, and the cores and arguments of each."""
    monkeypatch.setattr(machine, "accelerators", list)

    def start(number, then):
        (program := tmp_path / "fake").write_text(FAKE.format(python=sys.executable, folder=tmp_path, then=then))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        status = queue.start_workers(number, ["sweep", "--seeds=2"])
        return status, [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]

    return start


def test_auto_is_one_an_accelerator_else_one_a_core_with_memory(monkeypatch):
    monkeypatch.setattr(machine, "accelerators", lambda: [{}] * 4)
    assert [queue.count_workers("auto", 1), queue.count_workers("auto", 3), queue.count_workers("7", 1)] == [4, 12, 7]
    monkeypatch.setattr(machine, "accelerators", list)
    monkeypatch.setattr(machine, "cores", lambda: list(range(64)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**24}.get)  # 64 GiB
    monkeypatch.setattr(Path, "read_text", lambda self: "max")  # no control group has a limit
    assert queue.count_workers("auto", 1) == 16
    monkeypatch.setattr(machine, "cores", lambda: [3, 5])
    assert queue.count_workers("auto", 1) == 2
    monkeypatch.undo()
    monkeypatch.setattr(machine, "accelerators", list)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "0")  # fewer than this process sees
    assert queue.count_workers("auto", 1) == 1
    with pytest.raises(UserError, match="--workers-per-device=2 needs an accelerator; on a CPU say --workers=N"):
        queue.count_workers("auto", 2)
    with pytest.raises(UserError, match="--workers=0 is neither auto nor a number from 1 on"):
        queue.count_workers("0", 1)


def test_shares_of_cores_cover_all_and_are_never_empty(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: [0, 2, 4, 6, 8])
    assert [machine.share_of_cores(process, 2) for process in range(2)] == [{0, 2}, {4, 6, 8}]
    for processes in range(1, 9):
        shares = [machine.share_of_cores(process, processes) for process in range(processes)]
        assert set.union(*shares) == {0, 2, 4, 6, 8}
        assert all(shares)
        assert sum(map(len, shares)) == max(5, processes)


@pytest.mark.skipif(len(machine.cores()) < 2, reason="one core")
def test_each_worker_has_its_own_cores(start, capfd):
    status, began = start(2, "")
    assert status == 0
    share = f"each with {len(machine.cores()) // 2} of the cores"
    assert f"2 workers train arms at the same time, {share}" in capfd.readouterr().out
    (first, arguments), (second, _) = began
    assert not set(first) & set(second)
    assert arguments == ["-m", "normres", "sweep", "--seeds=2", "--workers=1"]


def test_what_two_workers_say_alike_is_said_once(start, capfd):
    status, _ = start(2, "print('normres: no such file', file=sys.stderr); sys.exit(2)")
    assert status == 2
    assert capfd.readouterr().err == "normres: no such file\n"


def test_a_worker_that_dies_is_started_again(start, capfd):
    status, began = start(
        2, "try: (folder / 'died').touch(exist_ok=False); os.kill(os.getpid(), 9)\nexcept OSError: pass"
    )
    assert (status, len(began)) == (0, 3)
    assert "ended with status -9; it is started again" in capfd.readouterr().out


def test_workers_share_accelerators_and_their_memory(monkeypatch):
    monkeypatch.setattr(machine, "accelerators", lambda: [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}])
    alone, words = queue._shares(2)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in alone] == ["0", "1"]
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in alone[0]
    assert words == "an accelerator"
    three, words = queue._shares(3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in three] == ["0", "1", "0"]
    assert {one["XLA_PYTHON_CLIENT_MEM_FRACTION"] for one in three} == {"0.450"}
    assert words == "1/2 of an accelerator"
    monkeypatch.setattr(machine, "accelerators", list)
    monkeypatch.setattr(machine, "cores", list)
    assert queue._shares(2)[1] == "all of the cores"
