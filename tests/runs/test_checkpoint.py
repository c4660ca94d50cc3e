"""Checkpoints: what is saved comes back, and what is damaged is passed over for the one before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres.runs import checkpoint


def state(value):
    return {"step": jnp.int32(value), "b": [jnp.full((3, 4), value, jnp.float32)], "a": jnp.arange(5.0) + value}


@pytest.fixture
def saved(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, state(step))
    return tmp_path


def restored_step(directory):
    computed, passed_over = checkpoint.restore(directory, state(0))
    return (None if computed is None else int(computed["step"])), passed_over


def test_the_newest_comes_back_exactly(saved):
    computed, passed_over = checkpoint.restore(saved, state(0))
    assert passed_over == []
    assert jax.tree.structure(computed) == jax.tree.structure(state(20))
    for ours, theirs in zip(jax.tree.leaves(computed), jax.tree.leaves(state(20)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_old_ones_are_removed_and_a_step_can_be_saved_again(saved):
    checkpoint.save(saved, 30, state(30))
    checkpoint.save(saved, 30, state(31))
    assert sorted(path.name for path in saved.iterdir()) == ["step_000000020", "step_000000030"]
    assert restored_step(saved) == (31, [])


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


def damage_the_manifest(newest):
    (newest / checkpoint.MANIFEST).write_text("{")


FAULTS = {
    flip_a_bit: "is damaged",
    truncate: "is damaged",
    remove_a_file: "is missing",
    lose_the_manifest: "incomplete",
    damage_the_manifest: "damaged manifest",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_one_is_passed_over_and_named(saved, fault):
    fault(saved / "step_000000020")
    step, passed_over = restored_step(saved)
    assert step == 10
    assert len(passed_over) == 1
    assert "step_000000020" in passed_over[0]
    assert FAULTS[fault] in passed_over[0]


def test_an_empty_directory_is_not_the_latest(saved):
    (saved / "step_000000099").mkdir()
    assert restored_step(saved)[0] == 20


def test_nothing_there_is_nothing(tmp_path):
    assert restored_step(tmp_path / "absent") == (None, [])
