"""What all benchmarks share: samples in turns, tables, and mistakes in commands."""

import importlib.util
import sys
from pathlib import Path

import pytest

from normres import cli
from normres.bench import output
from normres.bench.step import measure

ROOT = Path(__file__).resolve().parents[2]


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
        ("step --depth=20", "'--depth=20' is no argument here; did you mean '--depths'?"),
        ("step --norms=bach", "--norms=bach: 'bach' does not exist; did you mean 'batch'?"),
        ("step --json=/nowhere/t.json", "there is no directory"),
        ("step --repeats=0", "--repeats=0 must be at least 1"),
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
