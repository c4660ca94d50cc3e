"""The training step's benchmark: who differs is found out, who fails is left out, files hold what was measured.

Never a time.
"""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from normres import cli
from normres.bench.step import agreement, cells, load, measure, run, serve, table, workers
from normres.bench.step.flax_network import Flax
from normres.bench.step.own import Normres
from normres.errors import UserError
from normres.runs import machine

ROOT = Path(__file__).resolve().parents[2]
TINY = cells.Cell(depth=8, dtype="float32", norm="batch", batch=8, width=8)
SMALL = ["--depths=8", "--width=4", "--batch=8"]
HAS_TORCH = bool(importlib.util.find_spec("torch"))


def computed(contender, cell, folder, change=lambda weights: None, **spec):
    """What a contender computes in this process, from weights that `change` may have changed."""
    given = cells.arrays(cell)
    change(given)
    np.savez(folder / "given.npz", **given)
    timed = serve.Timed(contender)
    found = timed.prepare(cell.spec() | spec, str(folder / "given.npz"), str(folder / "after.npz"))
    with np.load(folder / "after.npz") as after:
        return agreement.Outcome(tuple(found["losses"]), {name: after[name] for name in after.files})


def before(cell):
    given = cells.arrays(cell)
    return {name.removeprefix("weights/"): array for name, array in given.items() if name.startswith("weights/")}


def check(cell, one, other):
    return agreement.check(cell.dtype, before(cell), {"normres": one, "Flax": other})["Flax"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return computed(Normres(), TINY, tmp_path_factory.mktemp("own"))


def test_stock_flax_computes_the_same(own, tmp_path):
    assert check(TINY, own, computed(Flax(), TINY, tmp_path)).angle < 1e-6


def test_a_step_that_does_less_is_found_out(own, tmp_path):
    # One network for three faults, because each takes a compilation.
    found = computed(Flax(), TINY, tmp_path, momentum=0.0, weight_decay=0.0, kept=0.8)
    apart, _ = agreement.difference(before(TINY), own, found)
    allowed = agreement.TOLERANCES["float32"]
    assert apart.decay == pytest.approx(1e-4, rel=0.01)
    assert apart.decay > 2 * allowed.decay
    assert apart.later_loss > 2 * allowed.later_loss
    assert apart.statistics > 2 * allowed.statistics
    with pytest.raises(UserError, match=r"Flax and normres do not compute the same: .* the second or third step"):
        check(TINY, own, found)
    found = agreement.Outcome(own.losses, found.after)
    with pytest.raises(UserError, match=r"differ by 1\.0e-04 in the weight decay of (kernels|scales and biases), and"):
        check(TINY, own, found)


def test_other_weights_are_found_out(own, tmp_path):
    def change(given):
        given["weights/layer2.0.bn1.bias"] += 0.1

    with pytest.raises(UserError, match=r"Flax and normres do not compute the same: they differ by .* in the loss of"):
        check(TINY, own, computed(Flax(), TINY, tmp_path, change))


def test_a_missing_gradient_a_missing_tensor_and_no_number_are_found_out(own):
    name = "layer3.0.conv2.weight"
    for array, message in (
        (before(TINY)[name], f"differ by 1.0e[+]00 in the gradient of {name}, and 1e-01 is allowed in float32"),
        (np.full_like(own.after[name], np.nan), f"differ by nan in the gradient of {name}"),
        (own.after[name][:1], f"{name} has the shapes"),
    ):
        with pytest.raises(UserError, match=message):
            check(TINY, own, agreement.Outcome(own.losses, own.after | {name: array}))
    with pytest.raises(UserError, match="differ by nan in the loss of the second"):
        check(TINY, own, agreement.Outcome((own.losses[0], math.nan, own.losses[2]), own.after))
    assert check(TINY, own, own) == agreement.Difference(0, 0, 0, check(TINY, own, own).angle, 0, 0)


@pytest.mark.parametrize("norm", ["group", "layer", "instance"])
def test_the_other_norms_agree(tmp_path, norm):
    cell = cells.Cell(**{**vars(TINY), "norm": norm})
    check(cell, computed(Normres(), cell, tmp_path), computed(Flax(), cell, tmp_path))


def test_what_a_step_costs():
    # Forward: stem 32^2 27 4; stage 1 two of 32^2 36 4; stage 2 16^2 36 8 + 16^2 72 8; stage 3 8^2 72 16 + 8^2 144 16;
    # classifier 16 10.  Backward twice that.
    forward = 110_592 + 2 * 147_456 + 73_728 + 147_456 + 73_728 + 147_456 + 160
    cell = cells.Cell(depth=8, dtype="bfloat16", norm="batch", batch=8, width=4)
    found = cells.work(cell)
    assert found.multiply_adds == 3 * 8 * forward
    # In float32 the activations are twice as large, the parameters are not.
    in_float32 = cells.work(cells.Cell(**{**vars(cell), "dtype": "float32"}))
    assert found.bytes < in_float32.bytes < 2 * found.bytes


def test_default_cells_are_batch_norm_everywhere_and_the_others_once():
    found = cells.chosen_cells((20, 56), ("float32",), None, 128, 16)
    assert [(cell.norm, cell.depth) for cell in found] == [
        ("batch", 20),
        ("batch", 56),
        ("group", 20),
        ("layer", 20),
        ("instance", 20),
    ]
    assert len(cells.chosen_cells((20, 56), ("float32",), cells.NORMS, 128, 16)) == 8


@pytest.fixture
def small_sizes(monkeypatch):
    monkeypatch.setattr(
        measure, "Sizes", partial(measure.Sizes, sample_seconds=0, matrix=16, copy_bytes=4096), raising=True
    )


def test_the_command_measures_writes_draws_and_goes_on(small_sizes, monkeypatch, tmp_path, capsys):
    file, chart, page = tmp_path / "step.json", tmp_path / "step.png", tmp_path / "page.md"
    options = ["bench", "step", *SMALL, "--dtypes=bfloat16", "--norms=layer", "--contenders=normres-batch,flax"]
    options.append(f"--json={file}")
    assert cli.main(options) == 0
    printed = capsys.readouterr().out
    assert "ResNet-8, bfloat16, layer norm, batch 8, width 4" in printed
    document = json.loads(file.read_text())
    (cell,) = document["cells"]
    assert list(cell["contenders"]) == ["normres", "normres-batch", "flax"]
    assert cell["left_out"] == {}
    # Another network, with which nobody is compared.
    losses = {name: contender.pop("losses") for name, contender in cell["contenders"].items()}
    assert losses["flax"] == pytest.approx(losses["normres"], rel=5e-3)
    assert losses["normres-batch"] != pytest.approx(losses["normres"], rel=5e-3)
    assert "differs_by" not in cell["contenders"]["normres-batch"]
    for contender in cell["contenders"].values():
        assert len(contender["step_seconds"]) == 5
        assert contender["peak_bytes"] > contender["baseline_bytes"] > 1e7
    # Flax has the flags that the user gave, whatever earlier commands of this process have added; ours may have more.
    assert cell["contenders"]["flax"]["xla_flags"] == machine.environment_as_given()["XLA_FLAGS"]
    assert cell["contenders"]["normres"]["xla_flags"].startswith(os.environ["XLA_FLAGS"])

    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert cli.main(["bench", "step", f"--from={file}", f"--chart={chart}", f"--markdown={page}"]) == 0
    assert "ResNet-8, bfloat16, layer norm" in capsys.readouterr().out
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "| ResNet-8 | layer | bfloat16 | Flax " in " ".join(page.read_text().split())
    assert "old" not in page.read_text()
    assert page.read_text().endswith("after\n")

    # Under the same conditions what is there is kept, and otherwise it is measured anew.
    monkeypatch.setattr(run, "measure", lambda *arguments: pytest.fail("measured again"))
    assert cli.main(options) == 0
    assert "kept 1 cells" in capsys.readouterr().out
    monkeypatch.setattr(run, "measure", lambda *arguments: cell | {"batch": 77})
    assert cli.main([*options, "--repeats=6"]) == 0
    assert json.loads(file.read_text())["cells"][0]["batch"] == 77


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not here")
@pytest.mark.parametrize("norm", cells.NORMS)
def test_pytorch_computes_the_same(small_sizes, norm, tmp_path):
    file = tmp_path / "step.json"
    options = ["--depths=8", "--width=8", "--batch=8", "--dtypes=float32", f"--norms={norm}", "--contenders=torch"]
    assert cli.main(["bench", "step", *options, f"--json={file}"]) == 0
    assert list(json.loads(file.read_text())["cells"][0]["contenders"]) == ["normres", "torch"]


def fake(code):
    return workers.Contender("Fake", (sys.executable, "-c", code), os.environ)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no such thing')", "no such thing"),
        ("import sys; input(); sys.exit(3)", "ended with status 3"),
        ('print(\'{"error": "refused"}\', flush=True); input()', "refused"),
        ("import time; time.sleep(60)", "start did not end within 0 s"),
    ],
)
def test_a_worker_that_fails_is_one_line(monkeypatch, tmp_path, code, message):
    monkeypatch.setattr(workers, "ENDING_SECONDS", 0.1)
    with workers.started(fake(code), tmp_path) as worker, pytest.raises(workers.WorkerFailed, match=message):
        # Long enough for a Python to start, where it is to answer.
        worker.ask("start", 0.05 if "sleep" in code else 30)
    assert worker.process.poll() is not None


def test_who_fails_is_left_out_unless_nothing_goes_without(tmp_path):
    missing = workers.Contender("PyTorch", ("/nowhere/python",), {})
    with measure.ExitStack() as stack:
        field = measure._Field({"torch": missing}, tmp_path, stack)
        assert field.left_out == {"torch": "/nowhere/python: No such file or directory"}
        with pytest.raises(UserError, match=r"normres does not work here: .* No such file"):
            measure._Field({"normres": workers.Contender("normres", missing.command, {})}, tmp_path, stack)
        field = measure._Field({"flax": fake("input(); print('{\"loss\": NaN}', flush=True)")}, tmp_path, stack)
        assert field.ask("flax", "sample", 30) is None
        assert field.left_out == {"flax": "its loss is not finite after some steps"}
        assert not field.workers


def test_other_programs_are_noticed():
    # Of 200 ticks 150 were at work, 50 of them ours.
    before, after = load.Reading(1000, 600, 30), load.Reading(1200, 750, 80)
    assert load.share_of_others(before, after) == 0.5
    assert load.share_of_others(before, before) == 0
    found = load.read([2**22 + 1])  # there is no such process
    assert 0 < found.own <= found.busy <= found.total


def test_samples_are_taken_in_turns(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0)
    asked = []

    class Field:
        workers = dict.fromkeys(("normres", "ceilings", "flax"))

        def ask(self, name, call, seconds, **arguments):
            asked.append((name, arguments.get("steps")))
            return {"seconds": 0.4}

    measure._samples(Field(), measure.Sizes(2, sample_seconds=1), {"normres": 2, "flax": 1})
    # A warm-up step of 0.4 s, so that three fill a second, or two programs of two.
    assert asked[:2] == [("normres", 1), ("flax", 1)]
    assert asked[2:] == [
        ("normres", 4),
        ("ceilings", None),
        ("flax", 3),
        ("flax", 3),
        ("ceilings", None),
        ("normres", 4),
    ]


def test_a_sample_begins_with_a_step_that_is_not_timed():
    class Slow:
        steps, steps_per_program = 0, 1

        def step(self, count=1):
            self.steps += 1
            return self.steps

        def wait(self, steps):
            time.sleep(0.5 if steps == 1 else 0)
            return float(steps)

    contender = Slow()
    answer = serve.Timed(contender).sample(2)
    assert contender.steps == answer["loss"] == 3
    assert answer["seconds"] < 0.5


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    worker = "import time; from normres.bench.step import serve; serve.serve({'start': lambda: time.sleep(60)})"
    code = (
        "import os, sys, time; from pathlib import Path; from normres.bench.step import workers\n"
        f"contender = workers.Contender('Fake', (sys.executable, '-c', {worker!r}), os.environ)\n"
        f"worker = workers.Worker(contender, Path({str(tmp_path)!r}))\n"
        "print(worker.process.pid, flush=True); worker.ask('start', 60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(1)  # until the worker has read the request
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it works on")


# Steps of 2 s and 4 s: 8e9 multiply-adds in 2 s are half of 8e9/s, 6e9 bytes in 2 s are 3 of 4 GB/s.
HAND_MADE = {
    "depth": 20,
    "dtype": "float32",
    "norm": "batch",
    "batch": 100,
    "width": 16,
    "multiply_adds": 8 * 10**9,
    "bytes": 6 * 10**9,
    "used_by_others": 0.5,
    "ceilings": {"multiply_adds_per_second": 8e9, "bytes_per_second": 4e9},
    "contenders": {
        "normres": {
            "title": "normres",
            "step_seconds": [2, 2, 2, 2, 3],
            "seconds_to_first_step": 12,
            "peak_bytes": 5e9,
            "baseline_bytes": 1e9,
        },
        "flax": {
            "title": "Flax",
            "step_seconds": [4, 4, 4, 8, 6],
            "seconds_to_first_step": 1,
            "peak_bytes": 5e9,
            "baseline_bytes": 1e9,
        },
    },
    "left_out": {"PyTorch, compiled": "no compiler"},
}


def test_the_numbers_of_the_table_by_hand():
    normres, flax = table.rows(HAND_MADE)
    assert normres == table.Row("normres", (2, 2, 2), None, 50, 4e9, 0.5, 0.75, 10, 5e9, 4e9)
    # Pairs 2/4, 2/4, 2/4, 2/8, 3/6.
    assert flax.ratio == (0.5, 0.5, 0.5)
    assert flax.step == (4, 4, 6)
    assert flax.compile_seconds == 0
    lines = table.text(HAND_MADE).splitlines()
    assert lines[-1] == "PyTorch, compiled does not work here: no compiler"
    assert lines[-2] == "other programs used 50% of the processors meanwhile: the times are too long"
    assert " ".join(lines[-3].split()) == "Flax 4,000 (4,000–6,000) 0.50 (0.50–0.50) 25 2 25.0% 37.5% 0.0 5,000 4,000"


def test_a_page_without_markers_is_an_error():
    with pytest.raises(UserError, match=r"--markdown=p\.md: it needs the lines"):
        table.put_between_markers("no marker", {}, "p.md")


def test_the_performance_page_holds_what_was_measured():
    page = (ROOT / "docs/performance.md").read_text()
    document = run.read(ROOT / "docs/performance/step.json")
    assert (ROOT / "docs/performance/step.png").is_file()
    command = "run: normres bench step --from=docs/performance/step.json --markdown=docs/performance.md"
    assert table.put_between_markers(page, document, "docs/performance.md") == page, command
    assert not re.search(r'"/(tmp|home|root|work)/', json.dumps(document)), "a path of the machine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depths=21"], "--depths=21: 21 is not 6n+2"),
        (["--depths=x"], "--depths=x: write integers"),
        (["--dtypes=float64"], "--dtypes=float64: 'float64' does not exist; did you mean 'bfloat16'?"),
        (["--norms=bach"], "--norms=bach: 'bach' does not exist; did you mean 'batch'?"),
        (["--contenders=flox"], "--contenders=flox: 'flox' does not exist; did you mean 'flax'?"),
        (["--batch=0"], "--batch=0 must be at least 1"),
        (["--width=4"], "--width=4: group norm has 8 groups"),
        (["--repeats=4"], "--repeats=4: quartiles take 5 and more"),
        (["--torch=/nowhere/python"], "--torch=/nowhere/python: No such file"),
        (["--json=/nowhere/s.json"], "--json=/nowhere/s.json: there is no directory /nowhere"),
        (["--chart=/nowhere/s.png"], "--chart=/nowhere/s.png: there is no directory /nowhere"),
        (["--chart=s.svg"], "--chart=s.svg: the name must end in .png"),
        (["--markdown=/nowhere.md"], "--markdown=/nowhere.md: there is no such page"),
        (["--from=/nowhere.json"], "/nowhere.json: there is no such file"),
        (["--from=CITATION.cff"], "CITATION.cff: not readable as JSON"),
        (["--depth=20"], "'--depth=20' is no argument here; did you mean '--depths'?"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(measure, "measure", lambda *arguments: pytest.fail("measured"))
    assert cli.main(["bench", "step", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is here")
def test_without_pytorch_it_is_left_out_unless_it_was_asked_for(capsys):
    chosen, version = run.contenders(("flax", "torch"), None, needs_torch=False)
    assert list(chosen) == ["normres", "flax", "ceilings"]
    assert version == "absent"
    assert "no PyTorch here; --torch=PYTHON names" in capsys.readouterr().out
    assert cli.main(["bench", "step", "--contenders=torch"]) == 2
    assert "--contenders=torch: no PyTorch here" in capsys.readouterr().err
