"""The training step's benchmark: differences and failures are named, files hold what was measured."""

import json
import math
import os
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from normres import cli
from normres.bench.step import agreement, cells, flax_network, measure, serve, workers
from normres.errors import UserError
from normres.report import paper
from normres.runs import machine

ROOT = Path(__file__).resolve().parents[2]
TINY = cells.Cell(depth=8, dtype="float32", norm="batch", batch=8, width=4)
BEFORE = {name.removeprefix("weights/"): array for name, array in cells.arrays(TINY).items() if "/" in name}


def computed(build, folder):
    """What a contender computes in this process."""
    np.savez(folder / "before.npz", **cells.arrays(TINY))
    timed = serve.Timed(build, lambda: None)
    answer = timed.prepare(TINY.spec(), str(folder / "before.npz"), str(folder / "after.npz"))
    with np.load(folder / "after.npz") as after:
        return agreement.Outcome(tuple(answer["losses"]), dict(after))


def check(one, other):
    return agreement.check("float32", BEFORE, {"normres": one, "Flax": other})["Flax"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return computed(cells.build, tmp_path_factory.mktemp("own"))


def test_stock_flax_computes_the_same(ours, tmp_path):
    assert check(ours, computed(flax_network.build, tmp_path))["angle"] < 1e-6


def test_a_step_that_does_less_differs(ours):
    def refused(message, after=None, losses=ours.losses):
        with pytest.raises(UserError, match=message):
            check(ours, agreement.Outcome(losses, ours.after | (after or {})))

    decay = cells.LEARNING_RATE * TINY.spec()["weight_decay"]
    without = {name: array + decay * BEFORE[name] for name, array in ours.after.items() if "running" not in name}
    refused(r"1\.0e-04 apart in the weight decay of (kernels|scales and biases), and", without)
    # after = 0.9 before + 0.1 batch; with 0.8 and 0.2 it has gone twice as far.
    name = "bn1.running_var"
    refused(f"apart in {name}, and 1e-03 is allowed", {name: 2 * ours.after[name] - BEFORE[name]})
    name = "layer3.0.conv2.weight"
    array = ours.after[name]
    refused(f"1.0e[+]00 apart in the gradient of {name}, and 1e-01 is allowed in float32", {name: BEFORE[name]})
    refused(f"nan apart in the gradient of {name}", {name: np.full_like(array, np.nan)})
    refused(f"{name} is missing or has another shape", {name: array[:1]})
    first, second, third = ours.losses
    refused("nan apart in the loss of the second", losses=(first, math.nan, third))
    refused("Flax and normres do not .* the second or third step", losses=(first, second, 1.01 * third))
    refused("2.0e-05 apart in the loss of the first step", losses=(first * (1 + 2e-5), second, third))


def test_the_command_measures_writes_and_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    file = tmp_path / "step.json"
    options = ["bench", "step", "--depths=8", "--width=4", "--batch=8", "--dtypes=bfloat16", "--norms=layer"]
    options += ["--contenders=flax", "--repeats=3", f"--json={file}"]
    assert cli.main(options) == 0
    assert "ResNet-8, bfloat16, layer norm, batch 8, width 4; gradients agree" in capsys.readouterr().out
    (cell,) = json.loads(file.read_text())["cells"]
    assert list(cell["contenders"]) == ["normres", "flax"]
    assert 0 < cell["contenders"]["flax"]["differs_by"]["angle"] < 1e-2
    for row in cell["contenders"].values():
        assert len(row["step_seconds"]) == 3
        assert 1e8 < row["peak_bytes"] < 1e10
    assert cli.main(["bench", "step", f"--from={file}"]) == 0
    assert "ResNet-8, bfloat16, layer norm" in capsys.readouterr().out

    # Under the same conditions what is there is kept, and otherwise it is measured anew.
    monkeypatch.setattr(measure, "measure", lambda *arguments: pytest.fail("measured again"))
    assert cli.main(options) == 0
    assert "kept 1 cells" in capsys.readouterr().out
    monkeypatch.setattr(measure, "measure", lambda *arguments: cell | {"batch": 77})
    assert cli.main([*options, "--repeats=6"]) == 0
    assert json.loads(file.read_text())["cells"][0]["batch"] == 77


def test_each_contender_has_its_own_code_and_flags(tmp_path, monkeypatch):
    machine.prepare()
    monkeypatch.setenv("PYTHONPATH", "/users")
    chosen, _ = workers.contenders(("flax",), before=tmp_path)
    assert list(chosen) == ["normres", "before", "flax"]
    for name, path in (("normres", f"{ROOT}:/users"), ("before", str(tmp_path)), ("flax", f"{ROOT}:/users")):
        assert chosen[name].environment["PYTHONPATH"] == path
    # Flax has the flags that the user gave, whatever earlier commands of this process have added.
    assert chosen["flax"].environment["XLA_FLAGS"] == machine.environment_as_given()["XLA_FLAGS"]
    assert chosen["normres"].environment["XLA_FLAGS"] == os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("norm", cells.NORMS)
def test_pytorch_computes_the_same(norm):
    pytest.importorskip("torch")
    chosen, _ = workers.contenders(("torch",))
    cell = cells.Cell(depth=8, dtype="float32", norm=norm, batch=8, width=8)
    assert list(measure.measure(cell, chosen, 5)["contenders"]) == ["normres", "torch"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no such thing')", "no such thing"),
        ("import sys; input(); sys.exit(3)", "it ended with status 3"),
        ('input(); print(\'{"error": "refused"}\', flush=True); input()', "refused"),
    ],
)
def test_a_worker_that_fails_is_one_line(tmp_path, code, message):
    contender = workers.Contender("Fake", (sys.executable, "-c", code), os.environ)
    with (
        workers.Worker(contender, tmp_path / "errors") as worker,
        pytest.raises(UserError, match=f"Fake does not .*: {message}"),
    ):
        worker.ask("sample", steps=1)
    assert worker.process.poll() is not None


class Fake:
    """A worker whose steps take 0.4 s (PyTorch's 0.8) and change nothing; it notes how many it is asked for."""

    def __init__(self, contender, asked=None, loss=1.0):
        self.title, self.asked, self.loss = contender.title, asked, loss

    def ask(self, call, steps=0, spec=None, source="", destination=""):
        if call == "prepare":
            if self.title == "broken":
                raise UserError("broken does not work here: no memory")
            np.savez(destination, **{name: array * 0.999 for name, array in BEFORE.items()})
            return {"losses": [3, 2, spec["groups"]], "seconds_to_first_step": 1, "steps_per_program": 1}
        if call == "memory":
            return {"peak_bytes": 5e6}
        self.asked.append((self.title, steps))
        return {"seconds": (0.8 if self.title == "PyTorch" else 0.4) * steps, "loss": self.loss}


def contender(title):
    return workers.Contender(title, (), {})


def test_who_does_not_run_is_left_out_unless_it_is_normres(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(measure, "Worker", lambda contender, errors: nullcontext(Fake(contender, [])))
    names = {"normres": "normres", "flax": "broken", "torch": "PyTorch"}
    cell = measure.measure(TINY, {name: contender(title) for name, title in names.items()}, 5)
    assert list(cell["contenders"]) == ["normres", "torch"]
    assert cell["left_out"] == {"flax": "broken does not work here: no memory"}
    assert cell["contenders"]["torch"]["differs_by"]["loss"] == 0
    own, row, reason = measure.text_of_cell(cell).splitlines()[-3:]
    assert own.split() == ["normres", "400", "(400–400)", "–", "20", "0.6", "5"]
    assert row.split() == ["PyTorch", "800", "(800–800)", "0.50", "(0.50–0.50)", "10", "0.2", "5"]
    assert reason == "broken does not work here: no memory"
    with pytest.raises(UserError, match="no memory"):
        measure.measure(TINY, {"normres": contender("broken")}, 5)


def test_samples_are_taken_in_turns(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0)
    asked = []
    fakes = {name: Fake(contender(name), asked) for name in ("normres", "flax")}
    rows = {"normres": {"steps_per_program": 2}, "flax": {"steps_per_program": 1}}
    seconds = measure.take_samples(fakes, 2, rows)
    # A warm-up step of 0.4 s, so that three fill a second, or two programs of two.
    assert asked[:2] == [("normres", 1), ("flax", 1)]
    assert asked[2:] == [("normres", 4), ("flax", 3), ("flax", 3), ("normres", 4)]
    assert seconds == {name: pytest.approx([0.4, 0.4]) for name in fakes}
    with pytest.raises(UserError, match="bad: its loss is not finite"):
        measure.take_samples({"flax": Fake(contender("bad"), [], math.nan)}, 2, rows)


def test_a_sample_begins_with_a_step_that_is_not_timed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(serve.time, "perf_counter", lambda: clock[0])

    done = []

    def train(count):
        clock[0] += 1 if done else 100
        done.append(count)
        return float(sum(done))

    timed = serve.Timed(None, lambda: 7)
    timed.contender = SimpleNamespace(train=train)
    assert timed.sample(5) == {"seconds": 1, "loss": 6}
    assert timed.memory() == {"peak_bytes": 7}
    assert serve.Timed(None, lambda: None).memory()["peak_bytes"] > 1e8


def test_the_pages_hold_what_was_measured(tmp_path, monkeypatch):
    script = runpy.run_path(str(ROOT / "scripts/make_bench_pages.py"))
    for path, text in script["pages"]().items():
        assert path.read_text() == text, "run: python scripts/make_bench_pages.py"
    panel = {"ResNet-8": {"normres": [0.4, 0.5, 0.7], "Flax": [1, 1, 1]}, "ResNet-20": {"Flax": [1, 1, 1]}}
    drawn, draw = [], paper.draw
    monkeypatch.setattr(paper, "draw", lambda chart: drawn.append(draw(chart)) or drawn[-1])
    script["draw"]({"float32": panel}, "Flax", tmp_path / "a.png", log=True)
    ends = [bar.get_segments()[0][:, 0] for bar in drawn[0].axes[0].collections]
    assert ends[0] == pytest.approx([0.4, 0.7])  # from quartile to quartile
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_pytorch_it_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "pytorch", lambda python: None)
    monkeypatch.setattr(measure, "measure", lambda *arguments: {})
    monkeypatch.setattr(measure, "text_of_cell", str)
    file = tmp_path / "step.json"
    assert cli.main(["bench", "step", "--depths=8", f"--json={file}"]) == 0
    conditions = json.loads(file.read_text())["conditions"]
    assert conditions["contenders"] == ["normres", "flax"]
    assert conditions["versions"]["torch"] == "absent"
    assert "no PyTorch here: its rows are left out" in capsys.readouterr().out
