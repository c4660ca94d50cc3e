"""An installed wheel has the configs, the experiments and the templates of pages, and finds them by name."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def normres(installed, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-m", "normres", *arguments]
    return subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)


def test_it_brings_no_other_top_level_package(installed):
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"normres"}
    assert (installed / "normres/runs/papers.bib").is_file()


def test_the_templates_of_pages_are_in_it(installed):
    def names(root):
        return {path.name for path in (root / "normres/report/templates").iterdir()}

    assert names(installed) == names(ROOT)
    assert "page.html" in names(installed)


def test_configs_and_experiments_are_there_by_name(installed, tmp_path):
    listed = normres(installed, "sweep", "--config=degradation:demo", "--list", f"--workdir={tmp_path}")
    assert listed.stdout.count("to do") == 4, listed.stderr
    missing = normres(installed, "report", "--experiment=degradatoin", f"--workdir={tmp_path}")
    assert "did you mean 'degradation'?" in missing.stderr
    empty = normres(installed, "report", "--experiment=degradation", f"--workdir={tmp_path}")
    assert "no runs here" in empty.stderr
