"""`plan` and `bench device`, on the CPU, which is a device like any other."""

import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from normres import norms
from normres.bench import devices, on_device, output, plan
from normres.bench.step import measure
from normres.bench.step.cells import Cell
from normres.cli import main
from normres.errors import UserError
from normres.runs import config, sweep


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(devices, "find", lambda name: jax.devices()[:1])


@pytest.mark.usefixtures("one_device")
def test_a_plan_says_what_lies_on_the_device_and_what_would_change_it(capsys, monkeypatch):
    monkeypatch.setattr(plan, "CHANGES", ("", "data.stream=always"))
    monkeypatch.setattr(plan, "TIMED", 2)
    monkeypatch.setattr(plan, "device_memory", lambda: 100e6)  # less than the data set
    small = ["--config.model.depth=8", "--config.model.width=4", "--config.train.batch_size=16"]
    assert main(["plan", "--config=base:demo", "--config.train.ops=plain", *small]) == 0
    text = capsys.readouterr().out
    assert "data set            153.8" in text  # 50,000 images of 3,072 bytes and their labels
    whole, streamed = (
        next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()
        for name in ("as configured", "data.stream=always")
    )
    assert float(whole[0]) - float(streamed[0]) == pytest.approx(153.7, abs=0.2)
    assert (whole[3], streamed[3]) == ("no", "yes")
    assert "a step takes" in text
    images = plan.dataset(config.load("base:demo"), streamed=True).train_images
    np.testing.assert_array_equal(images[np.array([[2, 1]])], np.zeros((1, 2, 32, 32, 3)))


@pytest.mark.usefixtures("one_device")
def test_the_plan_of_a_sweep_has_a_row_for_each_shape_and_their_sum(capsys, monkeypatch):
    costs = iter([{"in_all": 3e6, "fit": "yes"}, {"in_all": None, "fit": "no"}])
    monkeypatch.setattr(plan, "measured", lambda built, memory: next(costs))
    monkeypatch.setattr(plan, "seconds_of_a_step", lambda built: 0.9)
    small = ["--config.model.depth=8", "--config.train.batch_size=16", "--config.train.steps=1000"]
    vary = ["--vary", "model.width=2,4", "--vary", "optim.learning_rate=0.1,0.2", "--seeds=2"]
    assert main(["plan", "--sweep", "--config=base:demo", *small, *vary]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 arms of 2 shapes, on 1 x local")
    rows = {line.split("  ")[0]: line.split() for line in lines[4:]}
    # 4 arms of 1,000 steps of 0.9 s are an hour.
    row = rows["width=4 learning_rate=0.1 seed=0"]
    assert (row[3:5], row[-3:]) == (["4", "5,006"], ["no", "900.0", "1.00"])
    assert rows["width=2 learning_rate=0.1 seed=0"][5:7] == ["3", "yes"]
    assert rows["together"] == ["together", "8", "inf", "no", "2.00"]


def test_a_sweep_whose_time_nobody_knows_has_no_hours(capsys, monkeypatch):
    estimates = iter([2.0, None])  # of one shape it is known
    monkeypatch.setattr(plan, "measured", lambda *_: {"in_all": 3e6, "fit": "yes", "estimate_ms": next(estimates)})
    monkeypatch.setattr(plan, "find", lambda device: (jax.devices()[:1], 1e9, ""))
    plan.run_sweep(sweep.expand("base:demo", {"model.depth": "8"}, 1, ["model.width=2,4"]), "elsewhere")
    (together,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("together")]
    assert together.split()[-1] == output.NOTHING


def test_the_device_at_hand_has_the_dtype_of_training(monkeypatch):
    dtypes = []
    built = SimpleNamespace(sizes={"train": 50_000})
    monkeypatch.setattr(plan.machine, "resolve_dtype", lambda dtype: f"resolved {dtype}")
    monkeypatch.setattr(plan, "Programs", lambda fields, data, dtype, *_, **__: dtypes.append(dtype) or built)
    for of in (jax.devices(), jax.devices()[:1]):
        plan.programs(config.load("base:demo", {}), of)
    assert dtypes == ["resolved auto", "bfloat16"]


def test_what_the_compiler_refuses_does_not_fit():
    class Refused:
        def lower(self, name):
            raise jax.errors.JaxRuntimeError("\nout of memory\nmore")

    cost = plan.measured(Refused(), 1e9)
    assert (cost["refused"], cost["fit"], cost["in_all"]) == ("out of memory", "no", None)


def test_the_cpu_equals_itself(monkeypatch):
    monkeypatch.setattr(norms, "TABLE", {name: norms.TABLE[name] for name in ("batch", "group")})
    checked = on_device.checks()
    assert checked == {"crops_equal": True, "errors_of_norms": {"batch": 0.0, "group": 0.0}}


def test_a_section_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    def fails():
        raise RuntimeError("no such luck")

    monkeypatch.setattr(on_device, "checks", fails)
    monkeypatch.setattr(measure, "measure_all", lambda *arguments, until: {"error": "none"})
    of_the_recipe = on_device.base.get_config
    shallow = {"model.depth": 8, "train.steps_per_program": 1, "train.ops": "plain", "train.steps": 3}
    monkeypatch.setattr(on_device.base, "get_config", lambda recipe: config.apply(of_the_recipe(recipe), shallow))
    monkeypatch.setattr(jax, "devices", lambda *arguments: [jax.local_devices()[0]])
    monkeypatch.setattr(on_device, "together", lambda *arguments: {"images_per_second": {"1": 10.0, "2": 19.0}})
    file = tmp_path / "device.json"
    small = ["--depths=8", "--batch=64", "--width=4"]
    assert main(["bench", "device", f"--json={file}", *small]) == 1
    capsys.readouterr()
    assert main(["bench", "device", f"--from={file}"]) == 0
    text = capsys.readouterr().out
    assert "checks failed: RuntimeError: no such luck" in text
    assert "processes at once" in text
    assert "3 of 3 steps" in text
    assert "test error 8" in text or "test error 9" in text  # hardly trained


def test_no_network_begins_when_the_time_is_over(monkeypatch):
    begun = []
    monkeypatch.setattr(measure, "measure", lambda cell, *_: begun.append(cell.depth) or {})
    monkeypatch.setattr(measure, "text_of_cell", str)
    cells = [Cell(depth, "bfloat16", "batch", 16, 4) for depth in (8, 14, 20)]
    measure.measure_all(cells, ("flax",), 5, until=0.0)
    assert begun == [8]


@pytest.mark.parametrize("call", ["prepare", "sample"])
def test_what_a_process_side_by_side_raises_is_raised(call, monkeypatch):
    calls = []

    def ask(asked, destination="", **arguments):
        calls.append(asked)
        if calls.count(call) == 3:  # the second of two
            raise UserError("out of memory")
        if destination:
            on_device.np.savez(destination)
        return {}

    worker = nullcontext(SimpleNamespace(ask=ask))
    monkeypatch.setattr(measure, "Worker", lambda *_: worker)
    with pytest.raises(UserError, match="out of memory"):
        on_device.together(Cell(8, "bfloat16", "batch", 16, 4), 1)


def test_it_imports_no_more_than_a_gpus_image_has():
    # The environment of the tests has more; what is imported is looked at, not what could be.
    code = (
        "import sys, normres.bench.on_device, normres.runs.local, normres.data.sources; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    absent = {"tabulate", "pandas", "pyarrow", "tensorflow_datasets", "grain", "array_record", "torch", "plotly"}
    assert not (absent | {"jinja2", "safetensors", "skimage", "submitit", "tensorboardX"}) & set(names)


def test_the_names_of_devices():
    assert devices.find("local")
    assert {name.partition(":")[0] for name in devices.CHOICES} == {*plan.MEMORY, "local"}
