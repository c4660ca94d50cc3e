"""The benchmarks of norms and of compilation: they run, stop where contenders differ, and their truth is true."""

import json
import math
import os
import sys
from functools import partial

import numpy as np
import pytest

from normres import cli, norms
from normres.bench import contenders, numerics, output
from normres.bench import norms as speed
from normres.bench.numerics import reference
from normres.bench.step import workers
from normres.errors import UserError

TINY = (2, 4, 4, 8)


def pixels(*values):
    """One example of one channel."""
    return np.array(values, np.float64).reshape(1, 1, -1, 1)


def truth(norm, x, dy, epsilon, groups=1, sub_batches=1):
    return reference(x, dy, norms.TABLE[norm].split(groups, sub_batches), epsilon)


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
        # Without the mean: (2^2 + 10^2 + 14^2) / 4 = 75.
        ("rms", 3, np.array([0, 2, 10, 14]) / math.sqrt(75)),
    ],
)
def test_the_reference_averages_over_the_right_numbers(norm, axis, expected):
    shape = [1, 1, 1, 1]
    shape[axis] = 4
    x = np.array([0.0, 2, 10, 14]).reshape(shape)
    y, dx, gain = truth(norm, x, np.ones(shape), epsilon=1e-30, groups=2, sub_batches=2)
    np.testing.assert_allclose(y.ravel(), expected, atol=1e-12)
    # A gradient that is the same everywhere changes the mean only, which is subtracted.
    if norm != "rms":
        np.testing.assert_allclose(dx.ravel() / gain.ravel(), 0, atol=1e-12)


def test_the_reference_s_gradient_is_the_slope():
    random = np.random.default_rng(0)
    x, dy, direction = random.standard_normal((3, *TINY))
    for norm in numerics.NORMS:

        def value(step, norm=norm):
            return float(np.sum(dy * truth(norm, x + step * direction, dy, 1e-2, 4, 2)[0]))

        slope = (value(1e-5) - value(-1e-5)) / 2e-5
        assert np.sum(truth(norm, x, dy, 1e-2, 4, 2)[1] * direction) == pytest.approx(slope, rel=1e-7), norm


def test_errors_are_in_epsilons_and_skip_what_has_no_finite_truth():
    x, dy = pixels(0, 2, 0), pixels(1, 0, 0)
    y, dx, gain = exact = truth("rms", x, dy, epsilon=1.0)
    off = y + pixels(0, 0.25, 0)  # |y| is up to 2 / sqrt(4/3 + 1) = 1.31
    forward, gradient = numerics.errors((off, dx), exact, dy, epsilon=0.5)
    assert forward == pytest.approx(0.25 / (2 / math.sqrt(7 / 3)) / 0.5)
    assert gradient == 0
    assert numerics.errors((y, dx + np.nan), exact, dy, 0.5) == (0, math.inf)
    # An error of the gradient is relative to the largest dy and the gain.
    assert numerics.errors((y, dx + 3 * gain), exact, 2 * dy, 1.0)[1] == pytest.approx(3 / 2)
    # An infinity in the first example leaves the second, whose truth is finite, to be judged.  There the mean is 1,
    # the variance (1 + 1 + 4) / 3 = 2 and y = (-1, -1, 2) / sqrt(2 + 1/4), at most 4/3.
    two = np.zeros((2, 1, 3, 1))
    two[0, 0, 0, 0], two[1, 0, 2, 0] = np.inf, 3
    ones = np.ones_like(two)
    y, dx, _ = spoilt = truth("instance", two, ones, epsilon=0.25)
    assert not np.isfinite(y[0]).any()
    assert numerics.errors((y, dx), spoilt, ones, 1.0)[0] == 0
    assert numerics.errors((y + 4 / 3, dx), spoilt, ones, 1.0)[0] == pytest.approx(1)


def test_numerics_prints_every_input_and_norm(capsys, tmp_path):
    names = ("batch", "group", "ghost_batch")
    rows = numerics.run(names, ("float32",), None, tmp_path / "n.json", shape=TINY)
    printed = capsys.readouterr().out
    for words in (*numerics.CASES, *(f"{name}, float32" for name in names), "Flax or PyTorch is better"):
        assert words in printed
    for row in rows:
        assert (row["Flax fwd"] is None) == (row["norm"] == "ghost_batch")
        if row["case"] in ("normal", "one infinity", "one example", "one pixel", "one element"):
            assert max(row["normres fwd"], row["normres grad"]) < 20, row
    # E[x^2] - E[x]^2 in float32 at a mean of 1e4 deviations has nothing left of the variance.
    (large,) = (row for row in rows if (row["norm"], row["case"]) == ("batch", "mean 1e4 x std"))
    assert large["Flax fwd"] > 1e5 > large["normres fwd"]
    written = json.loads((tmp_path / "n.json").read_text(), parse_constant=pytest.fail)
    assert [(row["norm"], row["case"]) for row in written["errors"]] == [
        (n, case) for n in names for case in numerics.CASES
    ]
    assert "commit" in written["provenance"]


def test_an_input_that_does_not_fit_the_dtype_has_no_errors():
    small, large = numerics.measure(("rms",), "float16", ("denormals", "constant 1e30"), TINY, None)
    assert small["normres fwd"] < 1
    assert large["normres fwd"] is None
    x, _ = numerics.rounded_input("denormals", TINY, "float16")
    assert 0 < np.abs(x).max() < 2.0**-14  # the smallest normal number


def test_numerics_names_where_normres_is_worse():
    def row(own, flax, torch):
        where = {"norm": "batch", "dtype": "float32", "case": "normal"}
        gradients = {"normres grad": 1.0, "Flax grad": 1.0, "PyTorch grad": None}
        return where | gradients | {"normres fwd": own, "Flax fwd": flax, "PyTorch fwd": torch}

    assert numerics.worse(row(40.0, 41.0, 2.4)) == ["batch, float32, normal, fwd: 40, not 2.4"]
    assert numerics.worse(row(math.inf, 1.0, None)) == ["batch, float32, normal, fwd: not finite, not 1.0"]
    assert numerics.worse(row(3.9, 0.5, "refuses")) == []  # too small to matter
    assert numerics.worse(row(40.0, 21.0, None)) == []  # not twice


@pytest.fixture
def other_flax(monkeypatch):
    """Flax's group norm has other groups than asked for."""
    norm_of = contenders.norm_of
    monkeypatch.setattr(contenders, "norm_of", lambda spec: norm_of(spec | {"groups": 2}))
    contenders.steps.cache_clear()
    yield
    contenders.steps.cache_clear()


@pytest.mark.usefixtures("other_flax")
def test_numerics_stops_at_a_contender_that_computes_something_else():
    with pytest.raises(UserError, match="Flax does not compute group norm in float32"):
        numerics.measure(("group",), "float32", ("normal",), TINY, None)


def test_pytorch_answers_in_a_process_of_its_own(monkeypatch, tmp_path):
    # Stands for torch_worker.py: "layer" is the identity, every other norm is refused.
    script = tmp_path / "echo.py"
    script.write_text(
        "import json, sys, numpy as np\n"
        "request = json.loads(input())\n"
        "inputs = np.load(request['source'])\n"
        "assert (request['dtype'], request['groups'], len(inputs['one element'])) == ('bfloat16', 4, 2)\n"
        "np.savez(request['destination'], **{f'layer/{name}': inputs[name] for name in ('normal', 'one element')})\n"
        "print('{}', flush=True)\n"
    )
    torch = workers.Contender("PyTorch", (sys.executable, str(script)), os.environ)
    monkeypatch.setattr(numerics, "SAME", 1e9)
    rows = numerics.measure(("layer", "batch", "positional"), "bfloat16", ("normal", "one element"), TINY, torch)
    forward = {row["norm"]: row["PyTorch fwd"] for row in rows if row["case"] == "normal"}
    assert forward["layer"] > 1
    assert forward["batch"] == "refuses"
    assert forward["positional"] is None
    script.write_text("raise SystemExit('no such dtype')")
    with pytest.raises(UserError, match="no such dtype"):
        contenders.in_torch(torch, "bfloat16", {})


def test_pytorch_agrees():
    pytest.importorskip("torch")
    rows = numerics.measure(contenders.NORMS, "float32", ("normal",), TINY, workers.pytorch(None))
    assert all(row["PyTorch fwd"] < 20 for row in rows)


def test_samples_are_taken_in_turns(monkeypatch):
    monkeypatch.setattr(speed, "SAMPLE_SECONDS", 0)
    order = []
    seconds = speed.timed({name: partial(order.append, name) for name in "ab"}, repeats=4)
    # After the warm-up (1 + 3 calls of each), each is first as often as the other.
    assert "".join(order[8:]) == "abbaabba"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 4, "b": 4}


@pytest.mark.usefixtures("other_flax")
def test_nothing_is_timed_if_the_modules_differ(monkeypatch):
    monkeypatch.setattr(speed, "timed", lambda *arguments: pytest.fail("timed"))
    with pytest.raises(UserError, match="differ by"):
        speed.run(("group",), (TINY,), "float32", 3, None)
    one = {"y": np.ones(3, np.float32)}
    for other in ({"dx": one["y"]}, {"y": np.ones(4, np.float32)}, {"y": np.ones(3, np.float16)}):
        with pytest.raises(UserError, match="return different things"):
            speed.check_same("layer", one, other)
    with pytest.raises(UserError, match="differ by nan"):
        speed.check_same("layer", one, {"y": np.array([1, 1, np.nan], np.float32)})


def test_the_norms_command_compares_every_norm_of_flax_and_writes_the_samples(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_sample", lambda function, calls: function() and 0.002)
    file = tmp_path / "t.json"
    assert cli.main(["bench", "norms", "--shapes=2x4x4x8", "--repeats=7", f"--json={file}"]) == 0
    written = json.loads(file.read_text())["timings"]
    assert [row["norm"] for row in written] == list(contenders.NORMS)
    assert written[0]["flax_seconds"] == [0.002] * 7
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rms"))
    assert line.split() == ["rms", "2x4x4x8", "2.000", "2.000", "1.00", "(1.00–1.00)"]


def test_numbers_and_tables():
    assert output.table(("a", "b"), [("x", "1.0"), ("long", "–")]).splitlines()[2:] == ["x     1.0", "long    –"]
    assert "| x \\| y" in output.table(("a", "b"), [("x | y", "1")], markdown=True)
    numbers = [output.number(value) for value in (0, 0.96, 3.14, 12.3, 7403.2, 5.2e5)]
    assert numbers == ["0.00", "0.96", "3.1", "12", "7403", "5.2e+05"]
    # The quartiles of 1 to 5 are 2, 3, 4 whatever their order.
    assert output.spread(output.quartiles([5, 1, 4, 2, 3]), 1) == "3.0 (2.0–4.0)"
    assert output.quartiles([1, 4, 9], [1, 2, 3]) == [1.5, 2, 2.5]


def test_compile_bench_measures_scanned_and_unrolled(tmp_path, capsys):
    file = tmp_path / "compile.json"
    sizes = ["--depths=8", "--width=2", "--batch=8", "--dtype=float32"]
    assert cli.main(["bench", "compile", *sizes, "--step", f"--json={file}"]) == 0
    rows = json.loads(file.read_text())["networks"]
    assert [(row["depth"], row["unrolled"]) for row in rows] == [(8, False), (8, True)]
    assert all(row["step_seconds"] > 0 and row["activation_megabytes"] > 0 for row in rows)
    seconds = [row["compile_seconds"] for row in rows]
    assert min(seconds) > 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [line[2:6] for line in lines] == [
        ["scanned", "8", f"{seconds[0]:.2f}", "1.00"],
        ["unrolled", "8", f"{seconds[1]:.2f}", f"{seconds[1] / seconds[0]:.2f}"],
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("numerics --dtypes=float64", "--dtypes=float64: 'float64' does not exist"),
        ("numerics --torch=/nowhere/python", "/nowhere/python: No such file"),
        ("norms --shape=1", "'--shape=1' is no argument here; did you mean '--shapes'?"),
        ("norms --shapes=32x32", "write NxHxWxC"),
        ("norms --shapes=2x4x4x0", "write NxHxWxC"),
        ("norms --shapes=2x4xax8", "--shapes=2x4xax8: write integers"),
        ("norms --dtype=float64", "--dtype=float64 does not exist; did you mean"),
        ("norms --repeats=3", "--repeats=3 must be at least 7"),
        ("norms --json=/nowhere/t.json", "there is no directory"),
        ("compile --depths=9", "config.model.depth=9 is not 6n+2"),
        ("compile --orders=pots", "did you mean 'post'?"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, command, message):
    monkeypatch.setattr("normres.bench.compile.measure", lambda config, dtype, step: None)
    assert cli.main(["bench", *command.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
