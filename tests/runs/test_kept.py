"""Which weights a run keeps, and what becomes of a run that is finished: it may go on to more steps."""

import shutil

import optax
import pytest
from test_survival import FIELDS, NAME, assert_same, cut, stop_at, story, train

from normres.errors import InterruptedRun, UserError
from normres.runs import finished, local, results
from normres.training import optim

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [(("none",), 0, []), ((), 2, [2, 4, 6]), ((), 3, [3, 6]), (("last",), 4, [4, 6]), (("best",), 0, [3])],
)
def test_what_is_kept_is_as_the_config_says(keep, every, left, tmp_path):
    train(tmp_path, train__keep=keep, train__keep_every=every)
    kept = sorted(path.name for path in (tmp_path / NAME).glob("checkpoints/*"))
    before = results.read_run(tmp_path / NAME)
    assert kept == [f"step_{step:09d}" for step in left]
    train(tmp_path, train__keep=keep, train__keep_every=every)
    assert results.read_run(tmp_path / NAME) == before


def test_weights_of_every_second_step_that_are_lost_are_trained_again(tmp_path):
    fields = {"train__keep": ("last",), "train__keep_every": 2}
    train(tmp_path, **fields)
    before = results.read_run(tmp_path / NAME)
    cut(tmp_path / NAME / "checkpoints" / "step_000000004")
    assert "step_000000004 is lost or damaged; the run goes back" in train(tmp_path, **fields)
    after = results.read_run(tmp_path / NAME)
    assert (after.record["kept"], after.record["final"]) == (before.record["kept"], before.record["final"])
    assert after.record["kept"] == [2, 4, 6]
    assert [attempt["from_step"] for attempt in after.record["attempts"]] == [0, 2]
    assert "goes back" not in train(tmp_path, **fields)


def test_weights_that_were_never_kept_are_no_reason_to_start_anew(tmp_path):
    with stop_at(8), pytest.raises(InterruptedRun, match="at step 5 of 6"):
        train(tmp_path, train__keep=("last",))
    with pytest.raises(UserError, match=r"keep=last,best: the best weights \(step 3\) were not kept; .* own keep=last"):
        train(tmp_path)
    train(tmp_path, train__keep=("last",))
    assert results.read_run(tmp_path / NAME).record["attempts"][-1]["from_step"] == 5


def test_a_finished_run_goes_on_to_more_steps_where_the_schedule_allows_it(tmp_path, monkeypatch):
    train(tmp_path)
    with pytest.raises(UserError, match=r"train\.steps is 6 there and 9 here"):  # the cosine depends on its end
        train(tmp_path, train__steps=9)
    monkeypatch.setitem(optim.SCHEDULES, "mine", lambda _, steps: optax.linear_schedule(0.1, 0.0, steps))
    train(tmp_path / "mine", optim__schedule="mine")
    with pytest.raises(UserError, match=r"train\.steps is 6 there and 9 here"):
        train(tmp_path / "mine", optim__schedule="mine", train__steps=9)
    fields = {"optim__schedule": "step", "optim__boundaries": (5,)}
    train(tmp_path / "straight", train__steps=9, **fields)
    folder = tmp_path / "first"
    train(folder, **fields)
    with pytest.raises(UserError, match=r"train\.steps is 6 there and 4 here"):
        train(folder, train__steps=4, **fields)
    train(folder, train__steps=9, **fields)
    assert_same(folder, tmp_path / "straight")
    assert len(results.read_run(folder / NAME).record["attempts"]) == 2


def test_a_run_whose_best_step_was_its_last_goes_on_to_more_steps(tmp_path, monkeypatch):
    def fit(*arguments, follow=local.fit):  # a longer run does not measure at step 5
        for event, state in follow(*arguments):
            if event.kind == "test":
                event.values["error"] = {3: 0.5, 5: 0.4, 6: 0.7, 9: 0.6}[event.step]
            yield event, state

    monkeypatch.setattr(local, "fit", fit)
    fields = {"optim__schedule": "constant"}
    train(tmp_path / "straight", train__steps=9, **fields)
    train(tmp_path / "first", train__steps=5, **fields)
    assert results.read_run(tmp_path / "first" / NAME).record["best_test_step"] == 5
    train(tmp_path / "first", train__steps=9, **fields)
    assert_same(tmp_path / "first", tmp_path / "straight")
    assert results.read_run(tmp_path / "first" / NAME).record["best_test_step"] == 3


def test_a_finished_run_of_a_module_that_has_changed_says_so(tmp_path, capsys):
    file = shutil.copy(FIELDS["model.module"].rpartition(":")[0], tmp_path / "net.py")
    module = {"model__module": f"{file}:Net"}
    train(tmp_path, **module)
    before = story(tmp_path)
    assert train(tmp_path, **module) == ""
    file.write_text(file.read_text() + "# another\n")
    assert "net.py has changed since this run; another --workdir trains it anew" in train(tmp_path, **module)
    finished.load(tmp_path / NAME)
    assert capsys.readouterr().err == f"warning: the code of {file} has changed since this run\n"
    started = train(tmp_path / "tuned", init_from=str(tmp_path / NAME), **module)
    assert f"config.model.module='{file}:Net': config.init_from was trained before the file changed" in started
    file.unlink()
    assert train(tmp_path, **module) == ""
    assert story(tmp_path) == before
