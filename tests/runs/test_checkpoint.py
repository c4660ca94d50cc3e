"""Checkpoints: what is saved comes back, and what is damaged is passed over for the one before."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres.errors import UserError
from normres.runs import checkpoint, durable


def state(value):
    return {"step": jnp.int32(value), "b": [jnp.full((3, 4), value, jnp.float32)], "a": jnp.arange(5.0) + value}


@pytest.fixture
def saved(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    return tmp_path


def save(directory, step, kept=lambda step: False):
    checkpoint.save(directory, step, state(step), {"metrics": [step]}, kept)


def keep(directory, kept, newest):
    checkpoint.keep_only(directory, checkpoint.choose(directory, kept, newest))


def restored_step(directory):
    saved, passed_over = checkpoint.newest(directory)
    assert saved.document == {"metrics": [saved.step]}
    assert int(saved.state(state(0))["step"]) == saved.step
    return saved.step, passed_over


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_comes_back_exactly(saved):
    computed = checkpoint.newest(saved)[0].state(state(0))
    for ours, theirs in zip(jax.tree.leaves(computed), jax.tree.leaves(state(20)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("name", ["boundaries=[1,,2]-0a1b", "a*b", "what?"])
def test_the_signs_of_patterns_may_be_in_a_path(tmp_path, name, caplog):
    # Orbax found none of its own files there, said nothing, and the weights could not be read.
    directory = tmp_path / name / "checkpoints"
    directory.parent.mkdir()
    save(directory, 10)
    assert restored_step(directory) == (10, [])
    assert checkpoint.newest(directory)[0].arrays("b.")["b.0"].shape == (3, 4)
    assert not caplog.records


def test_a_path_with_a_backslash_is_refused(tmp_path):
    with pytest.raises(UserError, match="backslash"):
        checkpoint.check_path(tmp_path / "a\\b")
    checkpoint.check_path(tmp_path / "a b [1] ü")


def test_arrays_are_read_by_name_and_those_of_another_shape_refused(saved):
    newest, _ = checkpoint.newest(saved)
    (only,) = newest.arrays("b.").items()
    assert only[0] == "b.0"
    np.testing.assert_array_equal(only[1], state(20)["b"][0])
    with pytest.raises(UserError, match=r"step_000000020: a is \(5,\) there and \(6,\) here"):
        newest.state({**state(0), "a": jnp.zeros(6)})


def test_the_newest_two_stay_and_those_that_are_kept(saved):
    for step in (30, 40, 50):
        save(saved, step, lambda step: step == 20)
    assert names(saved) == ["step_000000020", "step_000000040", "step_000000050"]
    keep(saved, lambda step: step == 20, newest=1)
    assert names(saved) == ["step_000000020", "step_000000050"]
    keep(saved, lambda step: False, newest=0)
    assert names(saved) == []


def test_a_good_one_is_never_removed_for_a_bad_one(saved):
    # As kills in the middle of saves leave them: newer, and without their seals.
    for step in (30, 40):
        save(saved, step, lambda step: True)
        lose_the_manifest(saved / f"step_{step:09d}")
    save(saved, 25)
    assert restored_step(saved) == (25, [])
    assert names(saved) == ["step_000000020", "step_000000025"]


def test_one_that_is_kept_and_bad_takes_no_place(saved):
    flip_a_bit(saved / "step_000000020")
    save(saved, 30, lambda step: step == 20)
    assert names(saved) == [f"step_0000000{step}" for step in (10, 20, 30)]


def test_an_intact_one_is_not_written_again_and_a_bad_one_is(saved):
    before = (saved / "step_000000020").stat().st_ino
    save(saved, 20)
    assert (saved / "step_000000020").stat().st_ino == before
    flip_a_bit(saved / "step_000000020")
    save(saved, 20)
    assert restored_step(saved) == (20, [])


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "elsewhere" / "target")
    durable.write(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "target").read_text() == "text"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    durable.write(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_all_of_it_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    named = lambda descriptor: str(Path(f"/proc/self/fd/{descriptor}").readlink())  # noqa: E731
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: synced.append(named(descriptor)))
    save(tmp_path, 10)
    target = tmp_path / "step_000000010"
    (seal,) = (at for at, name in enumerate(synced) if name.startswith(f"{target / checkpoint.MANIFEST}."))
    for path in [target, *(path for path in target.rglob("*") if path.name != checkpoint.MANIFEST)]:
        assert str(path) in synced[:seal], path
    assert synced[seal + 1 :] == [str(target), str(tmp_path)]


@pytest.mark.parametrize("room", [2**21, 2**24])
def test_on_a_full_disk_what_was_saved_stays_and_one_line_says_it(saved, monkeypatch, room, capfd):
    big = {"step": jnp.int32(30), "b": [jnp.zeros((2**20,))]}

    def full(*_):
        raise ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']")

    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    monkeypatch.setattr(checkpoint.ocp, "save", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        checkpoint.save(saved, 30, big, {}, lambda step: False)
    assert (raised.value.errno, "step" in raised.value.filename) == (28, room > 2**23)
    assert restored_step(saved) == (20, [])
    if room > 2**23:  # it was tried, and threads of Orbax are still at it
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("another")))
    assert said == ["another"][: room > 2**23]
    assert capfd.readouterr().err == ""


def test_of_an_older_version_it_comes_back_by_position(tmp_path):
    target = tmp_path / "step_000000010"
    leaves = jax.tree.leaves(state(10))
    checkpoint.ocp.save(target, {f"{number:05d}": leaf for number, leaf in enumerate(leaves)})
    sums = {str(f.relative_to(target)): durable.sha256(f) for f in target.rglob("*") if f.is_file()}
    (target / checkpoint.MANIFEST).write_text(json.dumps(sums))
    saved, _ = checkpoint.newest(tmp_path)
    for ours, theirs in zip(jax.tree.leaves(saved.state(state(0))), leaves, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def flip_a_bit(newest):
    # The largest file that holds array data.
    file = max((f for f in newest.rglob("*") if f.is_file() and "/d/" in str(f)), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(newest):
    file = next(f for f in newest.rglob("_METADATA*") if f.is_file())
    file.write_bytes(file.read_bytes()[:5])


def remove_a_file(newest):
    next(f for f in newest.rglob("*") if f.is_file() and f.name != checkpoint.MANIFEST).unlink()


def lose_the_manifest(newest):
    (newest / checkpoint.MANIFEST).unlink()


def empty(newest):  # which Orbax alone takes for a checkpoint
    shutil.rmtree(newest)
    newest.mkdir()


def damage_the_manifest(newest):
    (newest / checkpoint.MANIFEST).write_text("{")


FAULTS = {
    flip_a_bit: "is damaged",
    truncate: "is damaged",
    remove_a_file: "is missing",
    lose_the_manifest: "incomplete",
    empty: "incomplete",
    damage_the_manifest: "damaged manifest",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_one_is_passed_over_and_named(saved, fault):
    fault(saved / "step_000000020")
    step, (line,) = restored_step(saved)
    assert step == 10
    assert "step_000000020" in line
    assert FAULTS[fault] in line
