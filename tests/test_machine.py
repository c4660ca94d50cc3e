"""What is set up before jax is imported, and how a Python is found."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from normres import norms
from normres.runs import machine, recipes

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(machine, "cpu_has_fast_bfloat16", lambda: True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_flags_are_added_where_they_help(fast, monkeypatch):
    machine.prepare_xla()
    assert os.environ["XLA_FLAGS"] == " ".join([*machine.ONEDNN_FLAGS, machine.CONVOLUTION_FLAG])
    assert machine.environment_as_given().get("XLA_FLAGS") is None
    monkeypatch.setenv("XLA_FLAGS", "")
    with monkeypatch.context() as patch:
        patch.setattr(machine.importlib.util, "find_spec", lambda name: name == "libtpu")
        machine.prepare_xla()
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.setattr(machine, "cpu_has_fast_bfloat16", lambda: False)
    machine.prepare_xla()
    assert os.environ["XLA_FLAGS"] == ""


def test_what_the_user_set_stays(fast, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_onednn=false --other=1")
    machine.prepare_xla()
    # Convolutions stay where they are: there may be no oneDNN to take them.
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_use_onednn=false --other=1 {machine.ONEDNN_FLAGS[1]}"
    name = machine.CONVOLUTION_FLAG.split("=")[0]
    monkeypatch.setenv("XLA_FLAGS", f"{name}=")
    machine.prepare_xla()
    assert os.environ["XLA_FLAGS"] == " ".join([f"{name}=", *machine.ONEDNN_FLAGS])


def test_compiled_programs_are_kept_apart_by_processor_and_where_the_user_says(monkeypatch, tmp_path):
    def kept(features):
        monkeypatch.setattr(machine, "cpu_features", lambda: features)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        machine.keep_compiled_programs()
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept(["avx2"]).parent == kept(["avx512f"]).parent == tmp_path / "normres"
    assert kept(["avx2"]) != kept(["avx512f"])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "own")
    machine.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "own"


@pytest.mark.parametrize(
    ("flags", "fast_here"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx2 avx512f", False), ("avx512_bf16x", False)],
)
def test_fast_bfloat16_is_read_from_the_processors_features(monkeypatch, flags, fast_here):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self: f"processor : 0\nmodel name : x\nflags : {flags}\n")
        assert machine.cpu_has_fast_bfloat16() is fast_here
    monkeypatch.setattr(machine, "cpu_has_fast_bfloat16", lambda: fast_here)
    assert machine.resolve_dtype("auto") == ("bfloat16" if fast_here else "float32")
    assert machine.resolve_dtype("float32") == "float32"


@pytest.mark.parametrize(
    ("given", "offered", "restarts"),
    [({}, "always [madvise] never", 1), ({}, "always madvise [never]", 0), ({"GLIBC_TUNABLES": "own"}, "[always]", 0)],
)
def test_a_command_starts_anew_on_huge_pages_once(monkeypatch, tmp_path, given, offered, restarts):
    started = []
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    machine.HUGE_PAGES.write_text(offered)
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(machine.os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(machine.os, "environ", {**given, "XLA_FLAGS": f"--other=1 {machine.ONEDNN_FLAGS[0]}"})
    machine.restart_with_huge_pages()
    machine.restart_with_huge_pages()
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])] * restarts
    assert machine.environment_as_given() == {**given, "XLA_FLAGS": "--other=1"}


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
    machine.return_freed_memory()
    assert resident() < before - 100e6
    assert last


def test_importing_the_command_line_leaves_jax_alone():
    code = "import sys, normres.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def find_python(**environment):
    script = ROOT / "scripts" / "find-python"
    return subprocess.run(["/bin/sh", script], env=environment, capture_output=True, text=True)


def fake_python(file, fits):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\nexit {0 if fits else 1}\n")
    file.chmod(0o755)


def test_python_is_found_on_path_then_in_pyenv_then_through_uv(tmp_path):
    binaries, home = tmp_path / "bin", tmp_path / "home"
    nothing = find_python(PATH=str(binaries), HOME=str(home))
    assert nothing.returncode == 1
    assert "needs Python 3.12 to 3.14" in nothing.stderr
    fake_python(binaries / "uv", fits=True)
    assert find_python(PATH=str(binaries), HOME=str(home)).stdout == "uv\n"
    old = home / ".pyenv/versions/3.12.1/bin/python"
    fake_python(old, fits=True)
    assert find_python(PATH=str(binaries), HOME=str(home)).stdout == f"{old}\n"
    # A shim on PATH for a version that is not installed fails when it is run, and is passed over.
    fake_python(binaries / "python3.12", fits=False)
    fake_python(binaries / "python3", fits=True)
    assert find_python(PATH=str(binaries), HOME=str(home)).stdout == f"{binaries / 'python3'}\n"
    wrong = find_python(PATH=str(binaries), HOME=str(home), PYTHON=str(binaries / "python3.12"))
    assert wrong.returncode == 1
    assert "is not a Python 3.12 to 3.14" in wrong.stderr


def test_the_readme_says_what_is_there():
    readme = (ROOT / "README.md").read_text()
    for name in (*(f"`{norm}`" for norm in norms.TABLE), *(f"`{recipe}`" for recipe in recipes.RECIPES)):
        assert name in readme, name
    table = (ROOT / "docs/demo/table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    assert "\n".join(rows) in readme, "the README's table is not docs/demo/table.md"


def test_the_lock_names_no_index_and_has_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = [line for line in lock.splitlines() if "==" in line]
    assert len(pinned) > 40
    assert lock.count("--hash=sha256:") > len(pinned)
