"""The benchmark of norms: contenders are compared before they are timed, and timed in turns; mistakes in commands."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from normres import cli
from normres.bench import norms as speed
from normres.bench import output
from normres.bench.step import measure
from normres.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = (2, 4, 4, 8)


def test_samples_are_taken_in_turns(monkeypatch):
    monkeypatch.setattr(speed, "SAMPLE_SECONDS", 0)
    order = []
    seconds = speed.timed({name: partial(order.append, name) for name in "ab"}, repeats=4)
    # After the warm-up (1 + 3 calls of each), each is first as often as the other.
    assert "".join(order[8:]) == "abbaabba"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 4, "b": 4}


def test_nothing_is_timed_if_the_modules_differ(monkeypatch):
    norm_of = speed.norm_of
    monkeypatch.setattr(speed, "norm_of", lambda spec: norm_of(spec | {"groups": 2}))
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
    assert cli.main(["bench", "norms", "--shapes=2x4x4x8", "--repeats=2", f"--json={file}"]) == 0
    document = json.loads(file.read_text())
    assert [row["norm"] for row in document["timings"]] == list(speed.NORMS)
    assert document["timings"][0]["flax_seconds"] == [0.002] * 2
    assert "commit" in document["provenance"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rms"))
    assert line.split() == ["rms", "2x4x4x8", "2.000", "2.000", "1.00", "(1.00–1.00)"]


def test_numbers_and_tables(monkeypatch):
    assert output.table(("a", "b"), [("x", "1.0"), ("long", "–")]).splitlines()[2:] == ["x     1.0", "long    –"]
    assert "| x \\| y" in output.table(("a", "b"), [("x | y", "1")], markdown=True)
    # The quartiles of 1 to 5 are 2, 3, 4 whatever their order.
    assert output.spread(output.quartiles([5, 1, 4, 2, 3]), 1) == "3.0 (2.0–4.0)"
    assert output.quartiles([1, 4, 9], [1, 2, 3]) == [1.5, 2, 2.5]
    monkeypatch.setitem(sys.modules, "tabulate", None)  # which a GPU's image may lack
    assert output.table(("a", "b"), [("1", "2")]) == "a  b\n1  2"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("norms --shape=1", "'--shape=1' is no argument here; did you mean '--shapes'?"),
        ("norms --shapes=32x32", "--shapes=32x32: write NxHxWxC"),
        ("norms --shapes=2x4x4x0", "write NxHxWxC"),
        ("norms --shapes=2x4xax8", "write NxHxWxC"),
        ("norms --dtype=float64", "--dtype=float64 does not exist; did you mean"),
        ("norms --norms=bach", "--norms=bach: 'bach' does not exist; did you mean 'batch'?"),
        ("norms --json=/nowhere/t.json", "there is no directory"),
        ("norms --repeats=0", "--repeats=0 must be at least 1"),
        ("step --depths=21", "depth=21 is not 6n+2"),
        ("step --depths=x", "--depths=x: write integers"),
        ("step --dtypes=float64", "--dtypes=float64: 'float64' does not exist; did you mean 'bfloat16'?"),
        ("step --batch=0", "batch_size=0"),
        ("step --norms=group --width=4", "groups"),
        ("step --torch=/nowhere/python", "/nowhere/python: No such file"),
        ("step --before=docs", "--before=docs: holds no folder normres"),
        ("step --from=/nowhere.json", "/nowhere.json: No such file"),
        ("step --from=CITATION.cff", "CITATION.cff: not readable as JSON"),
        ("step --from=docs/accelerators/accelerators.json", "no measurements of `normres bench step`"),
        ("device --from=CITATION.cff", "CITATION.cff"),
        ("device --torch=/nowhere/python", "--torch=/nowhere/python: there is no such Python"),
        ("accelerators --device=h200", "--device=h200 does not exist; did you mean 'h100'?"),
        ("accelerators --device=tpu-v5e:1x1", "--device=tpu-v5e:1x1 needs the extra tpu: make setup EXTRA=tpu"),
        ("accelerators --contenders=flex", "--contenders=flex: 'flex' does not exist; did you mean 'flax'?"),
        ("accelerators --depths=21", "depth=21"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, command, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(measure, "measure", lambda *arguments: pytest.fail("measured"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", *command.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
