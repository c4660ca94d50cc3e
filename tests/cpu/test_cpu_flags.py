"""The settings of XLA and malloc for training on a CPU, and what is read of the processor."""

import os
import platform
import sys
from pathlib import Path

import pytest

pytest.importorskip("normres.cpu")
from normres.cpu import flags


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(flags, "has_fast_bfloat16", lambda: True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_flags_are_added_where_they_help(fast, monkeypatch):
    flags.prepare_xla()
    assert os.environ["XLA_FLAGS"] == " ".join([*flags.ONEDNN_FLAGS, flags.CONVOLUTION_FLAG])
    assert flags.environment_as_given().get("XLA_FLAGS") is None
    monkeypatch.setenv("XLA_FLAGS", "")
    with monkeypatch.context() as patch:
        patch.setattr(flags.importlib.util, "find_spec", lambda name: name == "libtpu")
        flags.prepare_xla()
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.setattr(flags, "has_fast_bfloat16", lambda: False)
    flags.prepare_xla()
    assert os.environ["XLA_FLAGS"] == ""


def test_what_the_user_set_stays(fast, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_onednn=false --other=1")
    flags.prepare_xla()
    # Convolutions stay where they are: there may be no oneDNN to take them.
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_use_onednn=false --other=1 {flags.ONEDNN_FLAGS[1]}"
    name = flags.CONVOLUTION_FLAG.split("=")[0]
    monkeypatch.setenv("XLA_FLAGS", f"{name}=")
    flags.prepare_xla()
    assert os.environ["XLA_FLAGS"] == " ".join([f"{name}=", *flags.ONEDNN_FLAGS])


def test_compiled_programs_are_kept_apart_by_processor_and_where_the_user_says(monkeypatch, tmp_path):
    def kept(features):
        monkeypatch.setattr(flags, "cpu_features", lambda: features)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        flags.keep_compiled_programs()
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept(["avx2"]).parent == kept(["avx512f"]).parent == tmp_path / "normres"
    assert kept(["avx2"]) != kept(["avx512f"])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "own")
    flags.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "own"


@pytest.mark.parametrize(
    ("features", "fast_here"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx2 avx512f", False), ("avx512_bf16x", False)],
)
def test_fast_bfloat16_is_read_from_the_processors_features(monkeypatch, features, fast_here):
    monkeypatch.setattr(flags.platform, "machine", lambda: "x86_64")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self: f"processor : 0\nmodel name : x\nflags : {features}\n")
        assert flags.has_fast_bfloat16() is fast_here


@pytest.mark.parametrize(
    ("given", "offered", "restarts"),
    [({}, "always [madvise] never", 1), ({}, "always madvise [never]", 0), ({"GLIBC_TUNABLES": "own"}, "[always]", 0)],
)
def test_a_command_starts_anew_on_huge_pages_once(monkeypatch, tmp_path, given, offered, restarts):
    started = []
    monkeypatch.setattr(flags, "HUGE_PAGES", tmp_path / "enabled")
    flags.HUGE_PAGES.write_text(offered)
    monkeypatch.setattr(flags.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(flags.os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(flags.os, "environ", {**given, "XLA_FLAGS": f"--other=1 {flags.ONEDNN_FLAGS[0]}"})
    flags.restart_with_huge_pages()
    flags.restart_with_huge_pages()
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])] * restarts
    assert flags.environment_as_given() == {**given, "XLA_FLAGS": "--other=1"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_returned():
    def resident():
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    # Too small to be mapped one by one, and the last one holds the end of the heap.
    blocks = [bytearray(os.urandom(1) * 60_000) for _ in range(3000)]
    last = blocks.pop()
    blocks.clear()
    before = resident()
    flags.return_freed_memory()
    assert resident() < before - 100e6
    assert last
