"""A sweep's queue and its workers: what fails is tried again and set aside, what others train is waited for."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from normres import signals
from normres.errors import InterruptedRun, UserError
from normres.runs import claims, durable, machine, queue, results, status

ARMS = [SimpleNamespace(run_id=name, label=name, config=SimpleNamespace(data=name)) for name in "abc"]


class Arms(list):
    """Arms of which each does what `plan` says, one item a try: an error to raise, or None to finish."""

    def __init__(self, plan, workdir):
        super().__init__(ARMS)
        self.plan, self.workdir, self.tries = plan, workdir, []

    def run(self, _config, path, _console, _label, load, _dead_seconds, wait):
        assert not wait
        load()
        self.tries.append(path.name)
        path.mkdir(parents=True, exist_ok=True)
        todo = self.plan.get(path.name, [])
        if todo and (error := todo.pop(0)) is not None:
            raise error
        results.write_record(path, {"status": "finished", "attempts": []})


@pytest.fixture
def work(tmp_path, monkeypatch, capsys):
    def work(plan, retries=2, wait=True, data=lambda config: config.data):
        arms = Arms(plan, tmp_path)
        monkeypatch.setattr(queue, "run", arms.run)
        monkeypatch.setattr(queue, "load_data", data)
        monkeypatch.setattr(queue, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(queue, "WAIT_SECONDS", 0.01)
        queue.Worker(arms, tmp_path, Console(), retries, wait).work()
        code = queue.conclude(arms, tmp_path)
        return code, arms.tries, capsys.readouterr().out

    return work


def test_what_fails_is_tried_again_after_the_others(work, tmp_path):
    code, tries, said = work({"a": [ValueError("bad\nluck"), OSError(28, "No space left on device")]})
    assert (code, tries) == (0, ["a", "b", "c", "a", "a"])
    assert "a: failed and will be tried again: bad; see" in said
    assert f"3 of 3 arms done: {tmp_path}" in said


def test_what_fails_too_often_is_set_aside_with_its_error(work, tmp_path):
    code, tries, said = work({"b": [ValueError(f"number {number}") for number in range(9)]}, retries=1)
    assert (code, tries) == (queue.SET_ASIDE, ["a", "b", "c", "b"])
    text = (tmp_path / "b" / "error.txt").read_text()
    assert text.count("Traceback") == 2
    assert "ValueError: number 1" in text
    assert "b: failed and is set aside: number 1" in said
    assert f"2 of 3 arms done, 1 set aside (see error.txt in {tmp_path / 'b'})" in said
    # The next sweep tries it anew, and another worker of the same sweep does not.
    assert queue.failures(tmp_path / "b", results.FAILURE) == 0
    assert queue.failures(tmp_path / "b") == 2


def test_a_mistake_of_the_user_is_not_tried_again(work):
    code, tries, said = work({"a": [UserError("config.x=1 is wrong")]})
    assert (code, tries) == (queue.SET_ASIDE, ["a", "b", "c"])
    assert "a: failed and is set aside: config.x=1 is wrong" in said


def unreadable(config):
    if config.data == "b":
        raise UserError("data.path='/none' does not exist")


def test_data_that_no_arm_can_read_ends_the_sweep(work, monkeypatch):
    for arm in ARMS:
        monkeypatch.setattr(arm.config, "data", "b")
    with pytest.raises(UserError, match="/none"):
        work({}, data=unreadable)


def test_of_several_data_sets_one_that_cannot_be_read_stops_its_own_arms(work, tmp_path):
    code, tries, said = work({}, data=unreadable)
    assert (code, tries) == (queue.SET_ASIDE, ["a", "c"])
    assert "/none" in (tmp_path / "b" / "error.txt").read_text()
    assert "2 of 3 arms done, 1 set aside" in said


def test_an_arm_that_ends_its_process_comes_last(work, tmp_path):
    attempt = {"end": None, "from_step": 0, "step": 0}
    for name, attempts in (("a", [attempt]), ("b", [attempt | {"step": 5}])):
        results.write_record(tmp_path / name, {"status": "running", "attempts": attempts})
    assert work({})[1] == ["b", "c", "a"]


def test_an_arm_that_ends_its_process_again_and_again_is_set_aside(work, tmp_path, monkeypatch):
    monkeypatch.setenv(queue.SINCE, "2026-01-02")
    attempt = {"end": None, "from_step": 0, "step": 0, "started": "2026-01-01"}
    for name, days in (("a", "2333"), ("b", "1233"), ("c", "333")):
        attempts = [attempt | {"started": f"2026-01-0{day}"} for day in days]
        attempts[0]["step"] = 5 * (name == "a")
        results.write_record(tmp_path / name, {"status": "running", "attempts": attempts})
    code, tries, said = work({})
    assert (code, tries) == (queue.SET_ASIDE, [])
    assert said.count("set aside: its process was ended again and again before it saved anything") == 3
    monkeypatch.setenv(queue.SINCE, "2026-01-03")
    assert work({}, retries=3)[:2] == (0, ["a", "b", "c"])


def test_a_signal_at_the_end_of_an_arm_is_not_forgotten(work, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_received", [])

    def ended(_config, path, *_, **__):
        signals._received.append(signal.SIGTERM)

    monkeypatch.setattr(Arms, "run", ended)
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM between two arms"):
        work({})


def busy(tmp_path):
    return claims.Busy(tmp_path / "b", {"pid": 7, "host": "elsewhere"})


def test_arms_of_others_are_waited_for_and_taken_if_they_die(work, tmp_path):
    code, tries, said = work({"b": [busy(tmp_path), busy(tmp_path)]})
    assert (code, tries) == (0, ["a", "b", "c", "b", "b"])
    assert said.count("b: process 7 on elsewhere trains this arm") == 1


def test_or_left_to_them_if_told_so(work, tmp_path):
    code, tries, said = work({"b": [busy(tmp_path)]}, wait=False)
    assert (code, tries) == (queue.LEFT, ["a", "b", "c"])
    assert "2 of 3 arms done, 1 left, to do: b" in said


def test_told_to_stop_while_it_waits(work, tmp_path, monkeypatch):
    told = SimpleNamespace(wait=lambda seconds: True)
    monkeypatch.setattr(signals, "polled", lambda: contextlib.nullcontext(told))
    with pytest.raises(InterruptedRun, match="while other workers train the last arms"):
        work({"b": [busy(tmp_path)] * 3})


def test_status_tells_every_arm(tmp_path, capsys):
    for name, state in (("done", "finished"), ("killed", "running"), ("wild", "diverged"), ("alive", "running")):
        results.write_record(tmp_path / name, {"status": state, "attempts": [], "step": 5, "steps": 10})
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 5, "split": "test", "error": 0.125}\n')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "error.txt").write_text(f"{results.FAILURE}2026 (counts as 1): no [/luck]\nTraceback\n")
    (tmp_path / "wild" / "metrics.jsonl").write_text("{\n")
    (tmp_path / "odd" / "record.json").mkdir(parents=True)
    durable.write_json(tmp_path / status.SWEEP, {"normres sweep": ["done", "later"]})
    with claims.hold(tmp_path / "alive") as claim:
        claim.note(step=6, steps=10, seconds_per_step=60.0)
        claim._beat()
        status.show(tmp_path, Console(width=150), watch=False)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["done"].split()[1:4] == ["finished", "5/10", "12.5%"]
    assert lines["killed"].split()[1] == "interrupted"
    assert lines["wild"].split()[1:] == ["diverged", "5/10"]
    assert lines["later"].split()[1:] == ["to", "do"]
    assert lines["alive"].split()[1:6] == ["running", "6/10", "12.5%", "60", "0:04:00"]
    assert "process" in lines["alive"]
    assert "no [/luck]" in lines["broken"]
    assert lines["1"].startswith("1 damaged, 1 diverged, 1 failed, 1 finished, 1 interrupted, 1 running, 1 to do")


def test_a_watch_ends_when_everything_is_done(tmp_path, capsys):
    results.write_record(tmp_path / "done", {"status": "finished", "attempts": [], "step": 5, "steps": 5})
    status.show(tmp_path, Console(width=150), watch=True)
    assert "1 finished" in capsys.readouterr().out


# --- the workers of one machine

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


@pytest.mark.parametrize(
    ("called", "options"), [(["python", "bin/normres"], ["-P"]), (["python", "-m", "normres"], [])]
)
def test_no_file_of_the_current_directory_replaces_a_module_of_workers(start, monkeypatch, called, options):
    monkeypatch.setattr(sys, "orig_argv", called)
    _, ((_, arguments),) = start(1, "")
    assert arguments == [*options, "-m", "normres", "sweep", "--seeds=2", "--workers=1"]


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
    apart = [] if "-m" in sys.orig_argv else ["-P"]  # as the tests themselves were started
    assert arguments == [*apart, "-m", "normres", "sweep", "--seeds=2", "--workers=1"]


def test_what_two_workers_say_alike_is_said_once(start, capfd):
    status, _ = start(2, "print('normres: no such file', file=sys.stderr); sys.exit(2)")
    assert status == 2
    assert capfd.readouterr().err == "normres: no such file\n"


def test_a_worker_that_dies_is_started_again(start, capfd):
    then = "try: (folder / 'died').touch(exist_ok=False); os.kill(os.getpid(), 9)\nexcept OSError: pass"
    status, began = start(2, then)
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
