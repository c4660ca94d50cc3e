"""What a run uses of its machine, and how a Python is found."""

import importlib.metadata
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from normres.errors import UserError
from normres.layers import PLAIN
from normres.runs import machine, provenance

ROOT = Path(__file__).resolve().parents[2]


CPUS = [SimpleNamespace(platform="cpu")]
GPUS = [SimpleNamespace(platform="gpu")]


def test_operations_are_those_of_the_config_and_the_device(monkeypatch):
    monkeypatch.setattr(machine, "cpu", SimpleNamespace(operations=lambda devices: (len(devices), "fast")))
    assert machine.operations("auto", CPUS) == machine.operations("cpu", CPUS) == (1, "fast")
    assert machine.operations("plain", CPUS) == machine.operations("auto", GPUS) == (PLAIN, "plain")
    with pytest.raises(UserError, match=r"config\.train\.ops='cpu' is not possible: the device is a gpu; auto does"):
        machine.operations("cpu", GPUS)


def test_without_the_folder_cpu_everything_is_plain(monkeypatch):
    monkeypatch.setattr(machine, "cpu", None)
    assert machine.operations("auto", CPUS) == (PLAIN, "plain")
    with pytest.raises(UserError, match="is not possible: normres/cpu is not there; auto does without it"):
        machine.operations("cpu", CPUS)
    assert machine.environment_as_given() == dict(os.environ)
    for setting in (machine.prepare, machine.restart_with_huge_pages, machine.return_freed_memory):
        setting()
    assert machine.resolve_dtype("auto") == "float32"
    assert machine.resolve_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_gets_bfloat16_where_that_is_fast(monkeypatch, fast):
    monkeypatch.setattr(machine, "cpu", SimpleNamespace(flags=SimpleNamespace(has_fast_bfloat16=lambda: fast)))
    assert machine.resolve_dtype("auto") == ("bfloat16" if fast else "float32")


@pytest.mark.parametrize(("visible", "gpus"), [(None, ["0", "1"]), ("1", ["1"]), ("", []), ("-1", [])])
def test_accelerators_are_those_that_are_visible(monkeypatch, visible, gpus):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / "nvidia2", self / "nvidia3"])  # of a container
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.accelerators() == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)  # a jax for CPUs
    assert machine.accelerators() == []


def test_memory_is_that_of_the_control_group(monkeypatch):
    own = {"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/memory.max": "8589934592"}  # and the job's own: max
    monkeypatch.setattr(Path, "read_text", lambda self: own.get(str(self), "max"))
    monkeypatch.setattr(machine, "cores", lambda: range(64))
    assert machine.processes_that_fit() == 2


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


def test_the_lock_names_no_index_and_has_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = [line for line in lock.splitlines() if "==" in line]
    assert len(pinned) > 40
    assert lock.count("--hash=sha256:") > len(pinned)


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch):
    version = importlib.metadata.version

    def installed(name):
        if name == "normres":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert "normres" not in provenance._of_this_process.__wrapped__()["versions"]
