"""Who may write in a run's directory: one process, until it is known to be dead."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from normres import signals
from normres.runs import claims

# Claims the directory argv[1], says so, and does what argv[2] says.
PROCESS = """
import os, sys, time
from pathlib import Path
from normres.runs import claims
try:
    with claims.hold(Path(sys.argv[1])) as claim:
        print("holds", flush=True)
        exec(sys.argv[2])
except (claims.Busy, claims.LostClaim) as error:
    print(error, flush=True)
"""


def process(path, then):
    command = [sys.executable, "-c", PROCESS, str(path), then]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def elsewhere(path, beat=1):
    """A claim as another machine would have made it."""
    holder = {"token": "t", "host": "elsewhere", "pid": 1, "boot": "b", "pid_space": "p", "started": "1", "beat": beat}
    (path / claims.NAME).write_text(json.dumps(holder))


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    return now


def test_a_second_process_is_told_who_has_the_run(tmp_path):
    first = process(tmp_path, "time.sleep(60)")
    assert first.stdout.readline() == "holds\n"
    with pytest.raises(claims.Busy, match=rf"process {first.pid} on .* is training here"), claims.hold(tmp_path):
        pass
    first.kill()
    first.communicate()
    with claims.hold(tmp_path) as claim:  # at once: it was of this machine
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_another_may_have_made_the_directory_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with claims.hold(tmp_path):
        assert claims.read(tmp_path)


def test_of_many_that_take_over_one_gets_it(tmp_path):
    left = process(tmp_path, "os._exit(1)")
    left.communicate()
    assert (tmp_path / claims.NAME).exists()
    # They wait until all have tried.  Rarely two believe that they have it: the first to write finds that it has not.
    many = [process(tmp_path, "sys.stdin.read(); claim.check(); print('writes')") for _ in range(6)]
    said = [one.stdout.readline() for one in many]
    assert set(map(bool, said)) == {True}
    after = [one.communicate()[0] for one in many]
    assert after.count("writes\n") == 1, (said, after)
    assert sum("is training here" in text for text in said) + sum("stood still" in text for text in after) == 5


def test_on_another_machine_it_is_dead_if_nothing_changes_for_a_minute(tmp_path, clock):
    elsewhere(tmp_path)
    for seconds, beat in ((0, 1), (59, 1), (60, 2), (119, 2)):
        clock[0] = 1000.0 + seconds
        elsewhere(tmp_path, beat)
        with pytest.raises(claims.Busy, match="process 1 on elsewhere"), claims.hold(tmp_path):
            pass
    clock[0] += 1
    with claims.hold(tmp_path) as claim:
        claim.check()


def test_who_has_one_run_alone_waits_for_a_sign(tmp_path, monkeypatch):
    said, now = [], itertools.count(0, 10)
    monkeypatch.setattr(claims.time, "monotonic", lambda: next(now))
    stop = SimpleNamespace(wait=lambda seconds: False)
    monkeypatch.setattr(signals, "polled", lambda: contextlib.nullcontext(stop))
    elsewhere(tmp_path)
    with claims.hold(tmp_path, say=said.append):
        pass
    assert said == ["process 1 on elsewhere has claimed this run; waiting 60 s for a sign of it"]
    # A sign comes.
    elsewhere(tmp_path, beat=2)
    stop.wait = lambda seconds: elsewhere(tmp_path, beat=3)
    with pytest.raises(claims.Busy, match="process 1 on elsewhere is training here"):
        claims.hold(tmp_path, say=said.append).__enter__()


def test_a_worker_that_beats_slowly_is_not_taken_for_dead_by_a_quick_one(tmp_path, clock):
    elsewhere(tmp_path)
    holder = claims.read(tmp_path) | {"dead_seconds": 60}
    assert not claims.is_dead(tmp_path, holder, 5)
    clock[0] += 59
    assert not claims.is_dead(tmp_path, holder, 5)
    clock[0] += 1
    assert claims.is_dead(tmp_path, holder, 5)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"token":'])
def test_a_claim_that_says_nothing_is_waited_for_as_long(content, tmp_path, clock):
    (tmp_path / claims.NAME).write_text(content)
    with pytest.raises(claims.Busy, match="another process is training here"), claims.hold(tmp_path):
        pass
    clock[0] += claims.DEAD_SECONDS
    with claims.hold(tmp_path):
        pass


def test_what_is_removed_is_the_dead_ones_claim_and_no_other(tmp_path):
    elsewhere(tmp_path)
    claims._remove(tmp_path, {"token": "of one that was removed before"})
    assert claims.read(tmp_path)["token"] == "t"
    assert [path.name for path in tmp_path.iterdir()] == [claims.NAME]


def test_who_was_taken_for_dead_notices_and_leaves_the_others_claim_alone(tmp_path):
    with claims.hold(tmp_path, dead_seconds=0.3) as claim:
        before = claims.read(tmp_path)["beat"]
        time.sleep(0.3)
        assert claims.read(tmp_path)["beat"] > before
        (tmp_path / claims.NAME).unlink()
        with pytest.raises(claims.LostClaim, match="was removed"):
            claim.check()
        elsewhere(tmp_path)
        content = (tmp_path / claims.NAME).read_bytes()
        with pytest.raises(claims.LostClaim, match="process 1 on elsewhere has taken it over"):
            claim.check()
        time.sleep(0.2)
    assert (tmp_path / claims.NAME).read_bytes() == content


def test_a_process_number_that_was_used_again_is_not_the_holder(tmp_path, monkeypatch):
    with claims.hold(tmp_path):
        holder = claims.read(tmp_path)
        assert not claims.is_dead(tmp_path, holder)
        assert claims.is_dead(tmp_path, holder | {"started": "earlier"})
        # Of a container with processes of its own nobody can tell.
        assert not claims.is_dead(tmp_path, holder | {"started": "earlier", "pid_space": "another"})
    assert os.getpid() == holder["pid"]
