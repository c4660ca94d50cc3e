"""The benchmarks: they run, they stop where contenders differ, and their truth is true.  Never a time."""

import importlib.util
import json
import math
import sys
from types import SimpleNamespace

import flax.linen as nn
import numpy as np
import pytest

from normres import cli, norms
from normres.bench import contenders, numerics
from normres.bench import norms as speed
from normres.bench.reference import reference
from normres.errors import UserError
from normres.layers import linen
from normres.show import text

TINY = (2, 4, 4, 8)


def pixels(*values):
    """One example of one channel."""
    return np.array(values, np.float64).reshape(1, 1, -1, 1)


def truth(norm, x, dy, epsilon, groups=1, sub_batches=1):
    return reference(x, dy, norms.TABLE[norm], groups, sub_batches, epsilon)


def test_the_reference_is_the_formula_worked_by_hand():
    # Two pixels d apart: y = (-+ d/2) / sqrt(d^2/4 + 3), so at d = 2 y = -+ 1/2, gain = 1/sqrt(1 + 3), and
    # dy_1/dx_1 = (1/2) 3 / (1 + 3)^(3/2) = 3/16 = -dy_1/dx_2.
    found = truth("instance", pixels(0, 2), pixels(1, 0), epsilon=3)
    np.testing.assert_allclose(found.y.ravel(), [-0.5, 0.5])
    np.testing.assert_allclose(found.gain.ravel(), [0.5, 0.5])
    np.testing.assert_allclose(found.dx.ravel(), [3 / 16, -3 / 16])
    # Without the mean: y = x / sqrt((a^2 + b^2)/2 + 2), so at (0, 2) y = (0, 1) and dy_2/db = 2 / (2 + 2)^(3/2).
    found = truth("rms", pixels(0, 2), pixels(0, 1), epsilon=2)
    np.testing.assert_allclose(found.y.ravel(), [0, 1])
    np.testing.assert_allclose(found.dx.ravel(), [0, 1 / 4])


@pytest.mark.parametrize(
    ("norm", "axis", "expected"),
    [
        # Channels 0, 2 and 10, 14: means 1 and 12, deviations 1 and 2.
        ("group", 3, [-1, 1, -1, 1]),
        # The same four numbers as examples, in sub-batches of two.
        ("ghost_batch", 0, [-1, 1, -1, 1]),
        # Mean 6.5 and variance (6.5^2 + 4.5^2 + 3.5^2 + 7.5^2) / 4 = 32.75.
        ("layer", 3, np.array([-6.5, -4.5, 3.5, 7.5]) / math.sqrt(32.75)),
        ("batch", 0, np.array([-6.5, -4.5, 3.5, 7.5]) / math.sqrt(32.75)),
        ("positional", 3, np.array([-6.5, -4.5, 3.5, 7.5]) / math.sqrt(32.75)),
        # One element per statistic.
        ("instance", 3, [0, 0, 0, 0]),
        ("batch", 3, [0, 0, 0, 0]),
    ],
)
def test_the_reference_averages_over_the_right_numbers(norm, axis, expected):
    shape = [1, 1, 1, 1]
    shape[axis] = 4
    x = np.array([0.0, 2, 10, 14]).reshape(shape)
    found = truth(norm, x, np.ones(shape), epsilon=1e-30, groups=2, sub_batches=2)
    np.testing.assert_allclose(found.y.ravel(), expected, atol=1e-12)
    # A gradient that is the same everywhere changes the mean only, which is subtracted.
    np.testing.assert_allclose(found.dx.ravel() / found.gain.ravel(), 0, atol=1e-12)


def test_the_reference_s_gradient_is_the_slope():
    random = np.random.default_rng(0)
    x, dy, direction = random.standard_normal((3, *TINY))
    for norm in numerics.NORMS:

        def output(step, norm=norm):
            return float(np.sum(dy * truth(norm, x + step * direction, dy, 1e-2, 4, 2).y))

        slope = (output(1e-5) - output(-1e-5)) / 2e-5
        assert np.sum(truth(norm, x, dy, 1e-2, 4, 2).dx * direction) == pytest.approx(slope, rel=1e-7), norm


def test_errors_are_in_epsilons_and_skip_what_has_no_finite_truth():
    x, dy = pixels(0, 2, 0), pixels(1, 0, 0)
    exact = truth("rms", x, dy, epsilon=1.0)
    off = exact.y + pixels(0, 0.25, 0)  # |y| is up to 2 / sqrt(4/3 + 1) = 1.31
    found = numerics.errors((off, exact.dx), exact, dy, epsilon=0.5)
    assert found.forward == pytest.approx(0.25 / (2 / math.sqrt(7 / 3)) / 0.5)
    assert found.gradient == 0
    assert numerics.errors((exact.y, exact.dx + np.nan), exact, dy, 0.5).gradient == numerics.NOT_FINITE
    # An infinity in the first example leaves the second, whose truth is finite, to be judged.  There the mean is 1,
    # the variance (1 + 1 + 4) / 3 = 2 and y = (-1, -1, 2) / sqrt(2 + 1/4), at most 4/3.
    two = np.zeros((2, 1, 3, 1))
    two[0, 0, 0, 0], two[1, 0, 2, 0] = np.inf, 3
    ones = np.ones_like(two)
    spoilt = truth("instance", two, ones, epsilon=0.25)
    assert not np.isfinite(spoilt.y[0]).any()
    assert numerics.errors((spoilt.y, spoilt.dx), spoilt, ones, 1.0).forward == 0
    y = spoilt.y + 4 / 3
    assert numerics.errors((y, spoilt.dx), spoilt, ones, 1.0).forward == pytest.approx(1)


def test_numerics_prints_every_input_and_norm(capsys, tmp_path):
    names = ("batch", "group", "ghost_batch")
    rows = numerics.run(names, ("float32",), None, tmp_path / "n.json", shape=TINY)
    printed = capsys.readouterr().out
    assert [(row.norm, row.case) for row in rows] == [(name, case) for name in names for case in numerics.CASES]
    for words in (*numerics.CASES, *(f"{name}, float32" for name in names), "Flax or PyTorch is better"):
        assert words in printed
    for row in rows:
        assert (row.errors["Flax"].forward is None) == (row.norm == "ghost_batch")
        if row.case in ("normal", "one infinity", "one example", "one pixel", "one element"):
            assert row.errors["normres"].forward < 20, row
            assert row.errors["normres"].gradient < 20, row
    # E[x^2] - E[x]^2 in float32 at a mean of 1e4 deviations has nothing left of the variance.
    (large,) = (row.errors for row in rows if (row.norm, row.case) == ("batch", "mean 1e4 x std"))
    assert large["Flax"].forward > 1e5 > large["normres"].forward
    assert len(json.loads((tmp_path / "n.json").read_text(), parse_constant=pytest.fail)) == len(rows)


def test_an_input_that_does_not_fit_the_dtype_has_no_errors():
    small, large = numerics.measure(("rms",), "float16", ("denormals", "constant 1e30"), TINY, None)
    assert small.errors["normres"].forward < 1
    assert {found.forward for found in large.errors.values()} == {None}
    x, _ = numerics.rounded_input("denormals", TINY, "float16")
    assert 0 < np.abs(x).max() < 2.0**-14  # the smallest normal number


def test_numerics_names_where_normres_is_worse():
    def row(own, flax, torch):
        found = {"normres": numerics.Errors(own, 1.0), "Flax": numerics.Errors(flax, 1.0)}
        return numerics.Row("batch", "float32", "normal", found | {"PyTorch": numerics.Errors(torch, None)})

    assert numerics.worse(row(40.0, 41.0, 2.4)) == ["batch, float32, normal, forward: 40, not 2.4"]
    assert numerics.worse(row(numerics.NOT_FINITE, 1.0, None)) == [
        "batch, float32, normal, forward: not finite, not 1.0"
    ]
    assert numerics.worse(row(3.9, 0.5, "refuses")) == []  # too small to matter
    assert numerics.worse(row(40.0, 21.0, None)) == []  # not twice


def test_numerics_stops_at_a_contender_that_computes_something_else(monkeypatch):
    other = contenders.in_flax
    monkeypatch.setattr(contenders, "in_flax", lambda norm, x, dy, groups: other(norm, x, dy, 2))
    with pytest.raises(UserError, match="Flax does not compute group norm in float32"):
        numerics.measure(("group",), "float32", ("normal",), TINY, None)


def test_pytorch_runs_in_a_python_of_its_own(monkeypatch, tmp_path):
    # Stands for torch_norms.py: "layer" is the identity, every other norm is refused.
    script = tmp_path / "echo.py"
    script.write_text(
        "import sys, numpy as np\n"
        "given = np.load(sys.argv[1])\n"
        "assert str(given['dtype']) == 'bfloat16' and int(given['one element/groups']) == 1\n"
        "np.savez(sys.argv[2], **{f'layer/{name}/{key}': given[f'{name}/{source}']\n"
        "    for name in ('normal', 'one element') for key, source in (('y', 'x'), ('dx', 'dy'))})\n"
    )
    monkeypatch.setattr(contenders, "TORCH_SCRIPT", script)
    with pytest.raises(UserError, match="PyTorch does not compute layer norm"):
        rows = numerics.measure(("layer",), "bfloat16", ("normal", "one element"), TINY, sys.executable)
    monkeypatch.setattr(numerics, "SAME", 1e9)
    rows = numerics.measure(
        ("layer", "batch", "positional"), "bfloat16", ("normal", "one element"), TINY, sys.executable
    )
    found = {row.norm: row.errors["PyTorch"].forward for row in rows if row.case == "normal"}
    assert found["layer"] > 1
    assert found["batch"] == "refuses"
    assert found["positional"] is None
    script.write_text("print('much')\nraise SystemExit('no such dtype')\n")
    with pytest.raises(UserError, match="no such dtype"):
        contenders.in_torch(sys.executable, "bfloat16", {})


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not here")
def test_pytorch_agrees():
    rows = numerics.measure(tuple(contenders.MODULES), "float32", ("normal",), TINY, sys.executable)
    assert all(row.errors["PyTorch"].forward < 20 for row in rows)


@pytest.mark.parametrize("norm", speed.NORMS)
def test_both_modules_compute_the_same(norm):
    for dtype in ("float32", "bfloat16"):
        speed.prepared(norm, TINY, dtype)


def test_norms_are_timed_in_pairs(capsys, tmp_path):
    timings = speed.run(
        ("batch", "rms"), (TINY,), "bfloat16", 3, tmp_path / "t.json", sample_seconds=0, copy_bytes=4096
    )
    printed = capsys.readouterr().out
    assert [timing.norm for timing in timings] == ["batch", "rms"]
    assert "normres / Flax" in printed
    assert "2 4 4 8" in printed
    written = json.loads((tmp_path / "t.json").read_text())
    for timing, row in zip(timings, written["timings"], strict=True):
        assert timing.normres == row["normres"] > 0
        assert timing.ratio[0] <= timing.ratio[1] <= timing.ratio[2]
        # Five arrays of 2 * 4 * 4 * 8 numbers of two bytes at the bandwidth of a copy, over the time.
        expected = 5 * 512 / written["copy_bytes_per_second"] / timing.normres
        assert timing.normres_of_copy == pytest.approx(expected)


def test_samples_are_taken_in_turns():
    order = []
    speed.paired(lambda: order.append("a"), lambda: order.append("b"), repeats=4, sample_seconds=0)
    # After the warm-up (1 + 3 calls of each), each is first as often as the other.
    assert "".join(order[8:]) == "baabbaab"


def test_nothing_is_timed_if_the_modules_differ(monkeypatch):
    monkeypatch.setattr(speed, "paired", lambda *arguments: pytest.fail("timed"))
    groups_of_two = SimpleNamespace(GroupNorm=lambda num_groups, **given: linen.GroupNorm(num_groups=2, **given))
    monkeypatch.setitem(contenders.LIBRARIES, "normres", groups_of_two)
    with pytest.raises(UserError, match="differ by"):
        list(speed.measure(("group",), (TINY,), "float32", 3, 0, 1.0))
    assert contenders.LIBRARIES["Flax"] is nn
    one = {"y": np.ones(3, np.float32)}
    for other in ({"dx": one["y"]}, {"y": np.ones(4, np.float32)}, {"y": np.ones(3, np.float16)}):
        with pytest.raises(UserError, match="return different things"):
            speed.check_same("layer", one, other)
    with pytest.raises(UserError, match="differ by nan"):
        speed.check_same("layer", one, {"y": np.array([1, 1, np.nan], np.float32)})


def test_the_commands(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "CASES", {"normal": numerics.CASES["normal"]})
    file = tmp_path / "n.json"
    assert cli.main(["bench", "numerics", "--norms=rms", "--dtypes=bfloat16", f"--json={file}"]) == 0
    assert json.loads(file.read_text())[0]["case"] == "normal"
    monkeypatch.setattr(speed, "copy_bandwidth", lambda *arguments: 1e9)
    assert cli.main(["bench", "norms", "--norms=rms", "--shapes=2x4x4x8", "--repeats=7"]) == 0
    assert "rms" in capsys.readouterr().out


def test_the_tables_of_the_documentation_are_printed(capsys):
    assert cli.main(["bench", "norms", "--markdown"]) == 0
    assert "gate x^(batch)" in capsys.readouterr().out


def test_equivalences_are_called(monkeypatch):
    monkeypatch.setattr("normres.bench.equivalences.main", lambda: 1)
    assert cli.main(["bench", "norms", "--equivalences"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["numerics", "--norms=bach"], "did you mean 'batch'"),
        (["numerics", "--dtypes=float64"], "--dtypes=float64: 'float64' does not exist"),
        (["numerics", "--torch=/nowhere/python"], "--torch=/nowhere/python: No such file"),
        (["numerics", "--shape=1"], "'--shape=1' is no argument here"),
        (["norms", "--shapes=32x32"], "write NxHxWxC"),
        (["norms", "--shapes=2x4x4x0"], "write NxHxWxC"),
        (["norms", "--repeats=3"], "takes 7 and more"),
        (["norms", "--json=/nowhere/t.json"], "there is no directory"),
        (["norms", "--config.model.norm=batch"], "is no argument here"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_text():
    assert text.table(("a", "b"), [("x", "1.0"), ("long", "–")]).splitlines() == [
        "a       b",
        "----  ---",
        "x     1.0",
        "long    –",
    ]
    assert [text.number(value) for value in (0, 0.96, 3.14, 12.3, 7403.2, 5.2e5)] == [
        "0.00",
        "0.96",
        "3.1",
        "12",
        "7403",
        "5.2e+05",
    ]


def test_compile_bench_measures_scanned_and_unrolled(tmp_path, capsys):
    file = tmp_path / "compile.json"
    sizes = ["--depths=8,14", "--width=4", "--batch=8", "--dtype=float32", "--step"]
    assert cli.main(["bench", "compile", *sizes, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["depth"], row["unrolled"]) for row in rows] == [(8, False), (8, True), (14, False), (14, True)]
    assert all(row["compile_seconds"] > 0 and row["step_seconds"] > 0 for row in rows)
    # A deeper network holds more activations.
    assert rows[2]["activation_megabytes"] > rows[0]["activation_megabytes"]
    assert capsys.readouterr().out.count("scanned") == 2
    assert cli.main(["bench", "compile", "--depths=9"]) == 2
    assert "config.model.depth=9 is not 6n+2" in capsys.readouterr().err
    assert cli.main(["bench", "compile", "--orders=pots"]) == 2
    assert "did you mean 'post'?" in capsys.readouterr().err


def test_seeds_bench_times_several_runs_in_one_program(tmp_path, capsys):
    file = tmp_path / "seeds.json"
    sizes = ["--depths=8", "--widths=2", "--batch=8", "--dtype=float32", "--repeats=2", "--members=1,3"]
    assert cli.main(["bench", "seeds", *sizes, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["depth"], row["width"], row["members"]) for row in rows] == [(8, 2, 1), (8, 2, 3)]
    assert all(len(row["step_milliseconds"]) == 2 and min(row["step_milliseconds"]) > 0 for row in rows)
    assert capsys.readouterr().out.splitlines()[3].split()[:5:2] == ["8", "1", "1.00"]
    assert cli.main(["bench", "seeds", "--members=0"]) == 2
    assert "--members=0" in capsys.readouterr().err


def test_data_bench_reads_augments_and_steps(tmp_path, capsys):
    file = tmp_path / "data.json"
    sizes = ["--depth=8", "--width=4", "--batch=8", "--dtype=float32", "--steps=2", "--repeats=1"]
    assert cli.main(["bench", "data", *sizes, f"--json={file}"]) == 0
    found = json.loads(file.read_text())
    assert set(found["seconds"]) == {
        "read and decode",
        "choose and place the indices",
        "preprocess and augment, alone",
        "training step",
        "training step without augmentation",
        "training step, streamed",
    }
    assert all(of["wall"] > 0 and of["cpu"] > 0 for of in found["seconds"].values())
    assert found["settings"]["images"] == [2560, 32, 32, 3]  # the embedded ones
    assert found["provenance"]["commit"]
    said = capsys.readouterr().out
    assert "input share of the step, data on the device: " in said
    assert "cifar10: 2,560 images of 32×32×3; ResNet-8, batch 8, float32" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats=0"], "--repeats=0 must be at least 1"),
        (["--name=svhn"], "--name=svhn: give the --path of its prepared directory"),
        (["--path=/nowhere"], "data.path=/nowhere: no prepared data set there"),
        (["--depth=9"], "config.model.depth=9 is not 6n+2"),
        (["--repeat=1"], "did you mean '--repeats'?"),
    ],
)
def test_a_mistake_in_the_data_bench_is_one_line(capsys, arguments, message):
    assert cli.main(["bench", "data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
