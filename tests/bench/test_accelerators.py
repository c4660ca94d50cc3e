"""What a compiled program costs, by a text whose numbers are known, and the benchmark that prints it."""

import importlib.util
import json
from types import SimpleNamespace

import jax
import pytest

from normres.bench import accelerators, devices, program
from normres.bench.step.cells import Cell
from normres.cli import main
from normres.runs import machine

# A loop of three turns, each of which adds (8 + 8 bytes read, 8 written); a lookup of two rows (of 16 bytes) and their
# sum in one kernel; an all-reduce of 8 bytes; and room for 4 numbers, which nobody has written but an asynchronous copy
# reads, with 4 bytes of its own.
TEXT = """\
HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p = (s32[], f32[2]{0}) parameter(0)
  %value = f32[2]{0} get-tuple-element(%p), index=1
  %doubled = f32[2]{0:T(128)} add(%value, %value)
  ROOT %out = (s32[], f32[2]{0}) tuple(%p, %doubled)
}

%condition (p: (s32[], f32[2])) -> pred[] {
  %count = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%p, %count), direction=LT
}

%looked_up (data: u8[1000,16], rows: s32[2,1]) -> u8[2,16] {
  %data = u8[1000,16]{1,0} parameter(0)
  %rows = s32[2,1]{1,0} parameter(1)
  ROOT %found = u8[2,16]{1,0} gather(%data, %rows), offset_dims={1}
}

ENTRY %main (data: u8[1000,16], rows: s32[2,1], x: f32[2]) -> f32[2] {
  %data = u8[1000,16]{1,0} parameter(0)
  %rows = s32[2,1]{1,0} parameter(1)
  %x = f32[2]{0} parameter(2)
  %images = u8[2,16]{1,0:T(8,128)(4,1)S(1)} fusion(%data, %rows), kind=kLoop, calls=%looked_up
  %room = f32[4]{0} custom-call(), custom_call_target="AllocateBuffer"
  %copied = (f32[4]{0:S(1)}, f32[4]{0}, u32[]{:S(2)}) copy-start(%room)
  %start = (s32[], f32[2]{0}) tuple(%rows, %x)
  %loop = (s32[], f32[2]{0}) while(%start), condition=%condition, body=%body, trips={"known_trip_count":{"n":"3"}}
  %turned = f32[2]{0} get-tuple-element(%loop), index=1
  ROOT %sum = f32[2]{0} all-reduce(%turned), replica_groups={{0,1}}, to_apply=%add
}
"""


COMPILED = SimpleNamespace(
    as_text=lambda: TEXT,
    cost_analysis=lambda: {"bytes accessed": 5.0, "optimal_seconds": -1.0},
    memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=7, argument_size_in_bytes=9),
)


def test_a_loop_counts_as_often_as_it_turns_and_a_lookup_what_it_reads():
    cost = program.cost(COMPILED)
    assert cost["kernels"] == 3 + 1 + 1 + 1
    assert cost["bytes"] == 3 * (8 + 8 + 8) + (32 + 32 + 8) + (8 + 8) + (16 + 16 + 4)
    assert cost["collectives"] == {"all-reduce": 1}
    assert (cost["bytes_by_compiler"], cost["estimate_ms"]) == (5.0, None)  # a negative estimate is none
    assert (cost["temporary_bytes"], cost["argument_bytes"]) == (7, 9)


def test_a_loop_that_is_not_counted_turns_as_often_as_its_condition_says(monkeypatch):
    monkeypatch.setitem(globals(), "TEXT", TEXT.replace("known_trip_count", "unknown"))
    assert program.cost(COMPILED)["kernels"] == 3 + 1 + 1 + 1


def test_it_compiles_and_goes_on(tmp_path, capsys, monkeypatch):
    file = tmp_path / "a.json"
    monkeypatch.setattr(machine, "prepare", lambda: None)
    monkeypatch.setattr(devices, "find", lambda name: jax.devices()[:1])
    sizes = ["--device=local", "--depths=8", "--width=4", "--batch=16", "--dtype=float32"]
    ask = ["bench", "accelerators", *sizes, f"--json={file}"]
    assert main([*ask, "--contenders=flax-data"]) == 0
    assert main([*ask, "--contenders=normres,flax-data"]) == 0
    assert capsys.readouterr().out.count("s to compile") == 2  # the first was kept
    rows = json.loads(file.read_text())["rows"]
    assert [row["contender"] for row in rows] == ["flax-data", "normres"]
    assert all(row["kernels"] > 50 and row["bytes"] > 1e5 for row in rows)
    assert main(["bench", "accelerators", f"--from={file}"]) == 0
    assert "local: ResNet-8, batch norm, batch 16, width 4, dtype float32  Flax, same data" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs the extra tpu")
def test_a_tpu_program_copies_no_data_set():
    cell = Cell(depth=8, dtype="bfloat16", norm="batch", batch=128, width=16)
    row = accelerators.measure("tpu-v5e:1x1", "jit", cell, "normres")
    assert row["estimate_ms"] < 1
    assert row["temporary_bytes"] < 50_000 * 3072 / 2
